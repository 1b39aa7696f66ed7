"""How a stage runs: one function over its shards, each shard's output complete or absent, the manifest last.

work/<stage>/<fingerprint>/         one run of the stage: its manifest, which lists its shards
work/<stage>/<fingerprint>/shard-*  shards that belong to this run alone
work/<stage>/shards/<key>/          shards named by what went into them, which any run takes that needs just these

When a run is killed, the next one finds the finished shards and does the rest. When anything that determines the output
changed, the folders are others; where only a part of the input changed, the shards of the rest are found by their keys.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tasks.atomic import locked, new_directory, remove_leftovers, write_json
from tasks.document import ShardReport
from tasks.manifest import (
    MANIFEST,
    PACKAGES,
    SCHEMA_VERSION,
    code_version,
    fingerprint,
    imported_modules,
    library_versions,
    read_manifest,
)
from tasks.ports import ShardMap

T = TypeVar("T")

SHARDS = "shards"
_NAME_DIGITS = 20  # hexadecimal: 80 bits, so that a thousand million shards are apart


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        """`done` of `total` shards (or steps) are finished; the finished shards took in so many `records`."""
        ...


def no_progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
    """A `Progress` that shows nothing."""


def stage_directory(work: Path, name: str, stage_fingerprint: str) -> Path:
    """The folder of the run of stage `name` with this fingerprint, such as a corpus version's manifest lists."""
    return work / name / stage_fingerprint[:_NAME_DIGITS]


@dataclass(frozen=True)
class Stage:
    """A stage before it ran: what it is called and everything that determines its output."""

    name: str
    identity: Mapping[str, Any]
    libraries: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("tasks",)
    """Modules or packages of ours whose code, with all that they import, makes the output."""
    after: str = ""
    """Fingerprint of the stage before; no part of a shard's key, which has that shard's own input instead."""

    def covers(self, function: Callable[..., Any]) -> bool:
        """Whether a change in the source of `function`, if that is ours, shows in the fingerprint."""
        while isinstance(function, functools.partial):
            function = function.func
        module = function.__module__
        return module.partition(".")[0] not in PACKAGES or module in imported_modules(*self.modules)

    @functools.cached_property
    def own_fingerprint(self) -> str:
        """Of the stage itself, whatever its input."""
        return fingerprint(
            {
                "stage": self.name,
                "identity": self.identity,
                "code": code_version(*self.modules),
                "libraries": library_versions(self.libraries),
            }
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint({"own": self.own_fingerprint, "after": self.after})

    def directory(self, work: Path) -> Path:
        """The folder of this run of the stage."""
        return stage_directory(work, self.name, self.fingerprint)

    def shard(self, work: Path, shard_input: Mapping[str, Any]) -> Path:
        """The folder of the shard that this stage makes of `shard_input`, in whatever run."""
        key = fingerprint({"own": self.own_fingerprint, "input": shard_input})
        return work / self.name / SHARDS / key[:_NAME_DIGITS]


@dataclass(frozen=True)
class StageOutput:
    """A complete stage."""

    name: str
    directory: Path
    fingerprint: str
    manifest: Mapping[str, Any]
    reused: bool
    """Its manifest was there: nothing was done."""
    report: ShardReport
    shards: tuple[Path, ...] = ()
    reused_shards: int = 0
    """How many of the shards were there."""


def _sum(reports: Sequence[ShardReport]) -> ShardReport:
    removed: dict[str, int] = {}
    for report in reports:
        for reason, count in report.removed.items():
            removed[reason] = removed.get(reason, 0) + count
    return ShardReport(
        records_in=sum(r.records_in for r in reports),
        kept=sum(r.kept for r in reports),
        removed=dict(sorted(removed.items())),
        edits=sum(r.edits for r in reports),
    )


def _output(stage: Stage, directory: Path, manifest: Mapping[str, Any], reused: bool) -> StageOutput:
    shards = tuple(directory.parent / name for name in manifest["shards"])
    return StageOutput(
        stage.name,
        directory,
        stage.fingerprint,
        manifest,
        reused,
        ShardReport(**manifest["report"]),
        shards,
        len(shards) - (0 if reused else manifest["computed"]["shards"]),
    )


def clear_leftovers(shards: Path) -> int:
    """Remove what killed runs left in a stage's folder of shared shards; how many things that were.

    Nothing is touched while any run is at that stage: their unfinished shards look the same.
    """
    if not shards.is_dir():
        return 0
    descriptor = os.open(shards / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return remove_leftovers(shards)
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)


@contextmanager
def _at_work_in(shards: Path) -> Iterator[None]:
    """Keep others from clearing away what is written under `shards` now; released however the process ends."""
    shards.mkdir(parents=True, exist_ok=True)
    clear_leftovers(shards)
    descriptor = os.open(shards / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _ShardWork:
    """One shard of a stage, as it travels to a worker."""

    function: Callable[[Any, Path], ShardReport]
    item: Any
    destination: Path

    def run(self) -> ShardReport:
        with new_directory(self.destination) as directory:
            report = self.function(self.item, directory)
            write_json(directory / "report.json", asdict(report))
        return report


def _run_shard(work: _ShardWork) -> ShardReport:
    return work.run()


def run_stage(
    stage: Stage,
    work: Path,
    shard_map: ShardMap,
    function: Callable[[T, Path], ShardReport],
    items: Sequence[T],
    *,
    inputs: Sequence[Mapping[str, Any]] | None = None,
    progress: Progress = no_progress,
    finish: Callable[[Path, tuple[Path, ...]], Mapping[str, Any]] | None = None,
) -> StageOutput:
    """Run `function(item, new folder)` for every item, or return the complete output that is already there.

    `inputs` says of each item all that distinguishes it, where its shard may serve other runs too; two runs that need
    the same shard at the same time both make it, and the first one's stays. Without `inputs` the shards are this run's.
    `finish(folder, shard folders)` runs once, here, after all shards; its result is "extra" in the manifest.
    Raises `ShardError` for the first shard that fails; shards that finished stay for the next run. Where another run is
    at the same stage with the same inputs, this one waits for it and takes its output.
    """
    assert stage.covers(function), f"the code version of stage {stage.name} does not show what {function} does"
    directory = stage.directory(work)
    with locked(directory.with_name(f".{directory.name}.lock")):
        if (output := _complete(stage, directory)) is not None:
            progress(stage.name, len(output.shards), len(output.shards), records=output.report.records_in)
            return output
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        if inputs is None:
            shards = tuple(directory / f"shard-{index:05d}" for index in range(len(items)))
            return _compute(stage, directory, shard_map, function, items, shards, progress, finish)
        shards = tuple(stage.shard(work, shard_input) for shard_input in inputs)
        assert len(set(shards)) == len(items), f"stage {stage.name}: two shards with one input"
        with _at_work_in(directory.with_name(SHARDS)):
            return _compute(stage, directory, shard_map, function, items, shards, progress, finish)


def _complete(stage: Stage, directory: Path) -> StageOutput | None:
    """The output that is there already; None where there is none, or one of its shards has been removed since."""
    manifest = read_manifest(directory)
    if manifest is None:
        return None
    if manifest["fingerprint"] != stage.fingerprint:
        raise ValueError(f"{directory} holds another stage's output; remove that folder and run again")
    output = _output(stage, directory, manifest, reused=True)
    return output if all(shard.is_dir() for shard in output.shards) else None


def _compute(
    stage: Stage,
    directory: Path,
    shard_map: ShardMap,
    function: Callable[[T, Path], ShardReport],
    items: Sequence[T],
    shards: tuple[Path, ...],
    progress: Progress,
    finish: Callable[[Path, tuple[Path, ...]], Mapping[str, Any]] | None,
) -> StageOutput:
    """Do the shards that are not there, and write the manifest."""
    started = time.time()
    reports: dict[int, ShardReport] = {}
    for index, shard in enumerate(shards):
        if shard.is_dir():
            reports[index] = ShardReport(**json.loads((shard / "report.json").read_bytes()))
    pending = [index for index in range(len(items)) if index not in reports]
    num_records = sum(report.records_in for report in reports.values())
    if items:
        progress(stage.name, len(reports), len(items), records=num_records)

    def done(position: int, report: ShardReport) -> None:
        nonlocal num_records
        reports[pending[position]] = report
        num_records += report.records_in
        progress(stage.name, len(reports), len(items), records=num_records)

    works = [_ShardWork(function, items[index], shards[index]) for index in pending]
    shard_map.map(_run_shard, works, name=stage.name, on_done=done)
    extra = dict(finish(directory, shards)) if finish is not None else {}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.name,
        "fingerprint": stage.fingerprint,
        "own_fingerprint": stage.own_fingerprint,
        "after": stage.after,
        "identity": json.loads(json.dumps(stage.identity, default=lambda value: value.model_dump(mode="json"))),
        "libraries": library_versions(stage.libraries),
        "shards": [str(shard.relative_to(directory.parent)) for shard in shards],
        "report": asdict(_sum([reports[index] for index in range(len(items))])),
        "computed": {"shards": len(pending), "records": sum(reports[index].records_in for index in pending)},
        "seconds": round(time.time() - started, 3),
        "extra": extra,
    }
    write_json(directory / MANIFEST, manifest)
    return _output(stage, directory, manifest, reused=False)
