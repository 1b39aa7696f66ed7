import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.document import ShardReport
from tasks.ports import InProcessMap, ShardError
from tasks.stages import Stage, run_stage


class CountingMap(InProcessMap):
    """An in-process map that remembers how many shards it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def map(self, function: Callable[..., Any], items: Sequence[Any], **options: Any) -> list[Any]:
        self.asked.append(len(items))
        return super().map(function, items, **options)


def _write(item: int, directory: Path) -> ShardReport:
    if item < 0:
        raise ValueError(f"bad item {item}")
    (directory / "out.txt").write_text(str(item))
    return ShardReport(item, item - 1, {"stage/reason": 1}, edits=2)


def test_reports_add_up_and_a_second_run_recomputes_nothing(tmp_path: Path) -> None:
    stage, shard_map = Stage("demo", {"a": 1}), CountingMap()
    calls: list[tuple[int, int, int]] = []

    def progress(_: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        calls.append((done, total, records))

    first = run_stage(stage, tmp_path, shard_map, _write, [3, 4], progress=progress)
    assert first.report == ShardReport(7, 5, {"stage/reason": 2}, 4)
    assert [(shard / "out.txt").read_text() for shard in first.shards] == ["3", "4"]
    assert calls == [(0, 2, 0), (1, 2, 3), (2, 2, 7)]
    second = run_stage(stage, tmp_path, shard_map, _write, [3, 4], progress=progress)
    assert calls[3:] == [(2, 2, 7)]
    assert second.reused and second.report == first.report and shard_map.asked == [2]


def test_another_identity_is_another_folder(tmp_path: Path) -> None:
    one = run_stage(Stage("demo", {"a": 1}), tmp_path, InProcessMap(), _write, [1])
    two = run_stage(Stage("demo", {"a": 2}), tmp_path, InProcessMap(), _write, [2])
    assert one.directory != two.directory and not two.reused


def test_after_a_failure_only_the_missing_shards_are_done(tmp_path: Path) -> None:
    stage = Stage("demo", {})
    with pytest.raises(ShardError, match="shard 1: ValueError: bad item -1") as caught:
        run_stage(stage, tmp_path, InProcessMap(), _write, [1, -1, 3])
    assert isinstance(caught.value.__cause__, ValueError)
    assert not (stage.directory(tmp_path) / "manifest.json").exists()
    leftover = stage.directory(tmp_path) / ".tmp-shard-00002-dead"
    leftover.mkdir()
    shard_map = CountingMap()
    output = run_stage(stage, tmp_path, shard_map, _write, [1, 2, 3])
    assert shard_map.asked == [2]  # shards 1 and 2; shard 0 was there
    assert output.report.records_in == 6 and not leftover.exists()


def test_two_runs_of_one_stage_take_turns_and_the_second_takes_the_firsts_output(tmp_path: Path) -> None:
    """Without the turn the second would clear away the first one's unfinished shards as a killed run's."""
    stage, inside, reused = Stage("demo", {}), threading.Event(), []

    def slow(item: int, directory: Path) -> ShardReport:
        inside.set()
        time.sleep(0.3)
        return _write(item, directory)

    def run(function: Callable[[int, Path], ShardReport]) -> None:
        reused.append(run_stage(stage, tmp_path, InProcessMap(), function, [1, 2]).reused)

    first = threading.Thread(target=run, args=(slow,))
    first.start()
    assert inside.wait(10)
    run(_write)
    first.join()
    assert reused == [False, True]


def test_the_finish_step_runs_once_and_its_facts_stand_in_the_manifest(tmp_path: Path) -> None:
    def finish(directory: Path, shards: tuple[Path, ...]) -> dict[str, int]:
        return {"num_shards": len(shards)}

    output = run_stage(Stage("demo", {}), tmp_path, InProcessMap(), _write, [1, 2], finish=finish)
    assert output.manifest["extra"] == {"num_shards": 2}


def test_a_folder_of_another_stage_is_refused(tmp_path: Path) -> None:
    stage = Stage("demo", {})
    output = run_stage(stage, tmp_path, InProcessMap(), _write, [1])
    manifest = output.directory / "manifest.json"
    manifest.write_text(manifest.read_text().replace(stage.fingerprint, "0" * 64))
    with pytest.raises(ValueError, match="remove that folder"):
        run_stage(stage, tmp_path, InProcessMap(), _write, [1])
