"""How a stage runs: one function over its shards, each shard's output complete or absent, the manifest last.

A stage's folder is named by its fingerprint. When a run is killed, the next one with the same fingerprint finds the
finished shards and does the rest; when anything that determines the output changed, the folder is another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tasks.atomic import locked, new_directory, remove_leftovers, write_json
from tasks.document import ShardReport
from tasks.manifest import MANIFEST, SCHEMA_VERSION, code_version, fingerprint, library_versions, read_manifest
from tasks.ports import ShardMap

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the shards done and their number."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Stage:
    """A stage before it ran: what it is called and everything that determines its output."""

    name: str
    identity: Mapping[str, Any]
    libraries: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("tasks",)

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            {
                "stage": self.name,
                "identity": self.identity,
                "code": code_version(*self.packages),
                "libraries": library_versions(self.libraries),
            }
        )

    def directory(self, work: Path) -> Path:
        return work / self.name / self.fingerprint[:20]


@dataclass(frozen=True)
class StageOutput:
    """A complete stage."""

    name: str
    directory: Path
    fingerprint: str
    manifest: Mapping[str, Any]
    reused: bool
    report: ShardReport
    shards: tuple[Path, ...] = field(default=())


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
    return StageOutput(
        stage.name,
        directory,
        stage.fingerprint,
        manifest,
        reused,
        ShardReport(**manifest["report"]),
        tuple(directory / name for name in manifest["shards"]),
    )


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
    progress: Progress = no_progress,
    finish: Callable[[Path, tuple[Path, ...]], Mapping[str, Any]] | None = None,
) -> StageOutput:
    """Run `function(item, new folder)` for every item, or return the complete output that is already there.

    `finish(folder, shard folders)` runs once, here, after all shards; its result is "extra" in the manifest.
    Raises `ShardError` for the first shard that fails; shards that finished stay for the next run. Where another run is
    at the same stage with the same inputs, this one waits for it and takes its output.
    """
    directory = stage.directory(work)
    with locked(directory.with_name(f".{directory.name}.lock")):
        return _run_locked(stage, directory, shard_map, function, items, progress, finish)


def _run_locked(
    stage: Stage,
    directory: Path,
    shard_map: ShardMap,
    function: Callable[[T, Path], ShardReport],
    items: Sequence[T],
    progress: Progress,
    finish: Callable[[Path, tuple[Path, ...]], Mapping[str, Any]] | None,
) -> StageOutput:
    manifest = read_manifest(directory)
    if manifest is not None:
        if manifest["fingerprint"] != stage.fingerprint:
            raise ValueError(f"{directory} holds another stage's output; remove that folder and run again")
        progress(stage.name, len(manifest["shards"]), len(manifest["shards"]))
        return _output(stage, directory, manifest, reused=True)

    started = time.time()
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    shards = tuple(directory / f"shard-{index:05d}" for index in range(len(items)))
    reports: dict[int, ShardReport] = {}
    for index, shard in enumerate(shards):
        if shard.is_dir():
            reports[index] = ShardReport(**json.loads((shard / "report.json").read_bytes()))
    pending = [index for index in range(len(items)) if index not in reports]
    progress(stage.name, len(reports), len(items))

    def done(position: int, report: ShardReport) -> None:
        reports[pending[position]] = report
        progress(stage.name, len(reports), len(items))

    works = [_ShardWork(function, items[index], shards[index]) for index in pending]
    shard_map.map(_run_shard, works, name=stage.name, on_done=done)
    extra = dict(finish(directory, shards)) if finish is not None else {}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.name,
        "fingerprint": stage.fingerprint,
        "identity": json.loads(json.dumps(stage.identity, default=lambda value: value.model_dump(mode="json"))),
        "libraries": library_versions(stage.libraries),
        "shards": [shard.name for shard in shards],
        "report": asdict(_sum([reports[index] for index in range(len(items))])),
        "seconds": round(time.time() - started, 3),
        "extra": extra,
    }
    write_json(directory / MANIFEST, manifest)
    return _output(stage, directory, manifest, reused=False)
