"""Which files a corpus version is made of, and which of them are read together.

The inputs of a version are those of the version before, in their order, followed by what is new. An input keeps the
number of the version it came with, its **batch**: files are read together with files of their own batch only, so what
comes later never changes what was read before, and nothing of it is read again.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tasks.read.inventory import RecordRange, group_ranges
from tasks.read.shard import ReadShard
from tasks.read.source import SourceFile
from tasks.sources import NamedFile

Profile = Literal["smoke", "small", "full"]
MAX_NEW_FILES: Mapping[Profile, int | None] = {"smoke": 1, "small": 16, "full": None}
"""How many new files one refresh reads, by profile; the others stay new."""


class InputFile(SourceFile):
    """A file of a corpus version."""

    source: str = Field(description="Logical name of the source that it was found by; part of its records.")
    batch: int = Field(ge=1, description="Corpus version that it came with.")

    @property
    def file(self) -> SourceFile:
        return SourceFile.model_validate(self.model_dump(include=set(SourceFile.model_fields)))


def file_identity(file: SourceFile) -> tuple[str, int, str]:
    """What must be equal for a file to be known: path, size, and version (modification time or ETag)."""
    return file.path, file.size_bytes, file.version


@dataclass(frozen=True)
class Selection:
    """The inputs of the next version, and how many new files were left for later."""

    inputs: tuple[InputFile, ...]
    waiting_files: int


def last_inputs(manifest: Mapping[str, Any] | None) -> tuple[InputFile, ...]:
    """The inputs that a version's manifest lists; none where there is no version.

    Manifests of before 2026-11-22 had one source and no batches: all came together.
    """
    if manifest is None:
        return ()
    together = {"source": manifest.get("source", ""), "batch": 1}
    return tuple(InputFile.model_validate({**together, **entry}) for entry in manifest["inputs"])


def select_inputs(
    last: Sequence[InputFile], found: Sequence[NamedFile], *, version: int, profile: Profile, replace: bool
) -> Selection:
    """What `version` is made of: the last version's inputs, and of the files `found` those that are new.

    A changed file (same path) is new and takes the old one's place once it is read. A file that is not found any more
    stays, unless `replace`. A file without a version (a web server that states neither ETag nor date) can change
    unseen: it is always new, and gets a version of its own.
    """
    known = {file_identity(entry) for entry in last}
    there = {file_identity(named.file) for named in found}
    new = sorted(
        (named for named in found if file_identity(named.file) not in known), key=lambda named: named.file.path
    )
    taken = new[: MAX_NEW_FILES[profile]]
    superseded = {named.file.path for named in taken}
    kept = [entry for entry in last if entry.path not in superseded]
    if replace:
        kept = [entry for entry in kept if file_identity(entry) in there]
    arrived = [
        InputFile(
            path=named.file.path,
            format=named.file.format,
            size_bytes=named.file.size_bytes,
            version=named.file.version or f"unversioned-{uuid.uuid4().hex}",
            source=named.source,
            batch=version,
        )
        for named in taken
    ]
    return Selection((*kept, *arrived), len(new) - len(taken))


def inventory_input(file: SourceFile) -> dict[str, Any]:
    """All that distinguishes a shard of the inventory."""
    return {"file": file}


def read_input(shard: ReadShard) -> dict[str, Any]:
    """All that distinguishes a shard of the reading."""
    return {"source": shard.source, "ranges": shard.ranges}


def read_shards(
    inputs: Sequence[InputFile], ranges: Mapping[str, Sequence[RecordRange]], max_records: int
) -> tuple[ReadShard, ...]:
    """The ranges of all inputs (by path), put together into shards of at most `max_records` records.

    Where a shard ends depends on the files beside its end and not on how many came before: a file that changes, or
    goes, moves the shard it was in and hardly another.
    """
    return tuple(
        ReadShard(source, shard)
        for source, files in _neighbours(inputs, ranges, max_records)
        for shard in group_ranges((part for entry in files for part in ranges[entry.path]), max_records)
    )


def _neighbours(
    inputs: Sequence[InputFile], ranges: Mapping[str, Sequence[RecordRange]], max_records: int
) -> Iterator[tuple[str, list[InputFile]]]:
    """Runs of files of one batch and source that may share shards; a file of several ranges stands alone."""
    group: list[InputFile] = []

    def ended() -> Iterator[tuple[str, list[InputFile]]]:
        if group:
            yield group[0].source, list(group)
            group.clear()

    for entry in sorted(inputs, key=lambda entry: (entry.batch, entry.source, entry.path)):
        is_alone = len(ranges[entry.path]) > 1
        if group and (is_alone or (group[0].batch, group[0].source) != (entry.batch, entry.source)):
            yield from ended()
        group.append(entry)
        if is_alone or _ends_shard(entry.path, sum(part.num_records for part in ranges[entry.path]), max_records):
            yield from ended()
    yield from ended()


def _ends_shard(path: str, num_records: int, max_records: int) -> bool:
    """By the file's name alone, so often that shards are half full on average."""
    draw = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4])
    return draw * max_records < 2 * num_records << 32
