"""What became of each document from one corpus version to another, and the moves in the order of domain and URL.

A *move* is a document that is published in one of the two versions only, or in both with another text. Moves are found
bucket by bucket, since both versions are sorted by document id, and then sorted outside of memory: a page that leaves
with one document and comes with another is seen as one change, and a domain's moves lie together.
"""

from __future__ import annotations

import functools
import heapq
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tasks.bucket import Bucket, buckets
from tasks.dedup.exact import url_key
from tasks.manifest import read_manifest
from tasks.tombstones import url_host

Kind = Literal["added", "revived", "changed", "superseded", "removed", "taken_down"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NEW_RECORD = ("input", "new_record")
GONE_WITH_ITS_INPUT = ("input", "no_longer_there")
OTHER_TEXT = ("same_document", "other_text")
URL_OTHER_TEXT = ("same_url", "other_text")
URL_SAME_TEXT = ("same_url", "same_text")

NO_DOMAIN = "(none)"
_LEAVES, _COMES, _STAYS = 0, 1, 2
_ROWS_PER_GROUP = 256
_MAX_RUNS = 512  # files open at once; the system's usual limit is 1,024


class Move(NamedTuple):
    """One move. The first four fields are its place in the order, and no two moves share them."""

    domain: str
    url_key: bytes  # empty: no URL
    direction: int  # those that leave before those that come
    document_id: str
    url: str
    language: str
    text_sha256: str  # in the later version, for one that leaves in the earlier
    kind: Kind
    stage: str
    reason: str
    survivor_id: str  # of what was superseded; of a changed URL the document that left
    bytes_out: int  # of the text as UTF-8, where the earlier version has one
    bytes_in: int  # the same in the later one


_NOT_STRINGS = {"url_key": pa.binary(), "direction": pa.int8(), "bytes_out": pa.int64(), "bytes_in": pa.int64()}
_SCHEMA = pa.schema([(name, _NOT_STRINGS.get(name, pa.string())) for name in Move._fields])


@dataclass(frozen=True)
class Version:
    """A published version's folder and what its manifest says."""

    directory: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """ValueError where the folder holds no complete version."""
        manifest = read_manifest(directory)
        if manifest is None:
            raise ValueError(f"{directory} holds no manifest.json: it is no corpus version, or an unfinished one")
        return cls(directory, manifest)

    @property
    def reference(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['version']}"

    @functools.cached_property
    def _parts(self) -> dict[str, dict[str, Any]]:
        return {part["path"]: part for part in self.manifest["parts"]}

    @functools.cached_property
    def num_buckets(self) -> int:
        return sum(path.startswith("documents/") for path in self._parts)

    def part(self, kind: str, bucket: Bucket) -> dict[str, Any]:
        """The manifest's entry of the part in which the bucket lies; there are no more parts than such buckets."""
        return self._parts[Bucket(bucket.index * self.num_buckets // bucket.num_buckets, self.num_buckets).part(kind)]

    def rows(self, kind: str, bucket: Bucket, columns: dict[str, ds.Expression], keep: ds.Expression) -> pa.Table:
        """Rows of one part that `keep` selects, read a few row groups at a time."""
        return ds.dataset(self.directory / self.part(kind, bucket)["path"]).to_table(columns=columns, filter=keep)


def common_buckets(before: Version, after: Version) -> tuple[Bucket, ...]:
    """Buckets that each lie in one part of either version: numbers of buckets are powers of two."""
    return buckets(max(before.num_buckets, after.num_buckets))


def is_unchanged(before: Version, after: Version, bucket: Bucket) -> bool:
    """Whether both versions have the very same documents there; told without reading them."""
    same_size = before.num_buckets == after.num_buckets
    return same_size and before.part("documents", bucket)["sha256"] == after.part("documents", bucket)["sha256"]


def _documents(version: Version, bucket: Bucket) -> pa.Table:
    low, high = bucket.bounds()
    field = ds.field("document_id")
    columns = {name: ds.field(name) for name in ("document_id", "url", "language", "text_sha256")}
    columns["bytes"] = pc.binary_length(ds.field("text"))
    return version.rows("documents", bucket, columns, (field >= low) & (field < high)).combine_chunks()


def _ledger(version: Version, bucket: Bucket, ids: pa.Array) -> dict[str, dict[str, Any]]:
    columns = {name: ds.field(name) for name in ("record_id", "stage", "reason", "survivor_id")}
    rows = version.rows("ledger", bucket, columns, ds.field("record_id").isin(ids)).to_pylist()
    return {row["record_id"]: row for row in rows}


def moves_of_bucket(before: Version, after: Version, bucket: Bucket) -> tuple[int, list[Move]]:
    """How many documents both versions publish with the same text, and all others.

    Holds ids, URLs, languages, hashes and sizes of the bucket's documents in both versions; of texts a few row groups.
    """
    old, new = _documents(before, bucket), _documents(after, bucket)
    place = pc.index_in(new["document_id"], old["document_id"].combine_chunks())
    stays = new.append_column("place", place).filter(pc.is_valid(place))
    earlier = old.take(stays["place"])
    is_same = pc.equal(stays["text_sha256"], earlier["text_sha256"])
    changed = pc.invert(is_same)
    moves = [
        _move(row, _STAYS, "changed", OTHER_TEXT, bytes_out=bytes_out, bytes_in=row["bytes"])
        for row, bytes_out in zip(
            stays.filter(changed).to_pylist(), earlier.filter(changed)["bytes"].to_pylist(), strict=True
        )
    ]
    left = old.filter(pc.invert(pc.is_in(old["document_id"], new["document_id"].combine_chunks())))
    came = new.filter(pc.is_null(place))
    if left.num_rows:
        now = _ledger(after, bucket, left["document_id"].combine_chunks())
        for row in left.to_pylist():
            kind, why, survivor = _why_it_left(now.get(row["document_id"]))
            moves.append(_move(row, _LEAVES, kind, why, survivor, bytes_out=row["bytes"]))
    if came.num_rows:
        then = _ledger(before, bucket, came["document_id"].combine_chunks())
        for row in came.to_pylist():
            entry = then.get(row["document_id"])
            why = NEW_RECORD if entry is None else (entry["stage"], entry["reason"] or "")
            moves.append(_move(row, _COMES, "revived" if entry else "added", why, bytes_in=row["bytes"]))
    return int(np.count_nonzero(is_same.to_numpy())), moves


def _why_it_left(entry: dict[str, Any] | None) -> tuple[Kind, tuple[str, str], str]:
    """From the ledger row in the later version: kind, stage and reason, survivor."""
    if entry is None:
        return "removed", GONE_WITH_ITS_INPUT, ""
    why = entry["stage"], entry["reason"] or ""
    if entry["stage"] == "takedown":
        return "taken_down", why, ""
    return ("superseded" if entry["survivor_id"] else "removed"), why, entry["survivor_id"] or ""


def _move(
    row: dict[str, Any],
    direction: int,
    kind: Kind,
    why: tuple[str, str],
    survivor_id: str = "",
    *,
    bytes_out: int = 0,
    bytes_in: int = 0,
) -> Move:
    url = row["url"] or ""
    return Move(
        _registered_domain(url_host(url)),
        url_key(url) or b"",
        direction,
        row["document_id"],
        url,
        row["language"] or "",
        row["text_sha256"],
        kind,
        *why,
        survivor_id,
        bytes_out,
        bytes_in,
    )


@functools.lru_cache(maxsize=100_000)
def _registered_domain(host: str) -> str:
    """The domain that somebody registered (`example.co.uk`), by the suffix list in the package; else the host."""
    found = _suffixes()(host)
    return f"{found.domain}.{found.suffix}" if found.suffix and found.domain else host or NO_DOMAIN


@functools.cache
def _suffixes() -> Any:
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)  # the network is never asked


class SortedMoves:
    """Moves in their order, however many: sorted in memory up to `max_moves`, then in files that are merged.

    Use it as a context. 2^18 moves take some 200 MB; each file takes one row group of them while it is merged.
    """

    def __init__(self, max_moves: int = 1 << 18, max_runs: int = _MAX_RUNS) -> None:
        self._max_moves, self._max_runs = max_moves, max_runs
        self._moves: list[Move] = []
        self._runs: list[Path] = []
        self._num_written = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenmill-diff-")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, moves: Iterable[Move]) -> None:
        for move in moves:
            self._moves.append(move)
            if len(self._moves) >= self._max_moves:
                self._write(sorted(self._moves))
                self._moves = []
                if len(self._runs) >= self._max_runs:
                    merged, self._runs = self._runs, []
                    self._write(heapq.merge(*map(_read, merged)))
                    for path in merged:
                        path.unlink()

    def __iter__(self) -> Iterator[Move]:
        return heapq.merge(*map(_read, self._runs), sorted(self._moves))

    def _write(self, moves: Iterable[Move]) -> None:
        path = Path(self._folder.name) / f"{self._num_written}.parquet"
        self._num_written += 1
        with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
            for rows in _batched(moves, _ROWS_PER_GROUP):
                writer.write_table(pa.table(list(map(list, zip(*rows, strict=True))), schema=_SCHEMA))
        self._runs.append(path)


def _read(path: Path) -> Iterator[Move]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group).to_pydict()
            yield from map(Move._make, zip(*columns.values(), strict=True))


def _batched(moves: Iterable[Move], size: int) -> Iterator[list[Move]]:
    batch: list[Move] = []
    for move in moves:
        batch.append(move)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def with_changed_urls(moves: Iterable[Move]) -> Iterator[Move]:
    """The sorted moves, with each document that leaves and one that comes under the same canonical URL as one change.

    What was taken down never counts as changed. Holds what leaves of one URL.
    """
    leaving: deque[Move] = deque()
    place: tuple[str, bytes] = "", b""
    for move in moves:
        if (move.domain, move.url_key) != place:
            yield from leaving
            leaving, place = deque(), (move.domain, move.url_key)
        if move.direction == _LEAVES and move.url_key and move.kind != "taken_down":
            leaving.append(move)
        elif move.direction == _COMES and leaving:
            left = leaving.popleft()
            why = URL_SAME_TEXT if left.text_sha256 == move.text_sha256 else URL_OTHER_TEXT
            yield move._replace(
                kind="changed", stage=why[0], reason=why[1], survivor_id=left.document_id, bytes_out=left.bytes_out
            )
        else:
            yield move
    yield from leaving
