import functools
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.document import ShardReport
from tasks.language import LanguageRule
from tasks.ports import InProcessMap, ShardError, WorkerLostError
from tasks.screen import language_shard
from tasks.stages import Stage, clear_leftovers, run_stage


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

    def progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
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
    stage, inside, reused = Stage("demo", {}), threading.Event(), {}

    def slow(item: int, directory: Path) -> ShardReport:
        inside.set()
        time.sleep(0.3)
        return _write(item, directory)

    def run(function: Callable[[int, Path], ShardReport]) -> None:
        reused[function.__name__] = run_stage(stage, tmp_path, InProcessMap(), function, [1, 2]).reused

    first = threading.Thread(target=run, args=(slow,))
    first.start()
    assert inside.wait(10)
    run(_write)
    first.join()
    assert reused == {"slow": False, "_write": True}


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


def _inputs(*items: int) -> list[dict[str, int]]:
    return [{"item": item} for item in items]


def test_a_shard_is_found_again_by_what_went_into_it(tmp_path: Path) -> None:
    shard_map, seen = CountingMap(), []

    def progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        seen.append((done, total, records))

    first = run_stage(Stage("demo", {}, after="x"), tmp_path, shard_map, _write, [3, 4], inputs=_inputs(3, 4))
    second = run_stage(
        Stage("demo", {}, after="y"), tmp_path, shard_map, _write, [5, 4, 3], inputs=_inputs(5, 4, 3), progress=progress
    )
    assert shard_map.asked == [2, 1] and seen == [(2, 3, 7), (3, 3, 12)]
    assert second.shards[1:] == first.shards[::-1] and second.directory != first.directory
    assert (second.reused, second.reused_shards, first.reused_shards) == (False, 2, 0)
    assert second.report.records_in == 12 and second.manifest["computed"] == {"shards": 1, "records": 5}
    again = run_stage(Stage("demo", {}, after="y"), tmp_path, shard_map, _write, [5, 4, 3], inputs=_inputs(5, 4, 3))
    assert (again.reused, again.reused_shards, again.shards) == (True, 3, second.shards)
    run_stage(Stage("demo", {"threshold": 2}, after="y"), tmp_path, shard_map, _write, [5], inputs=_inputs(5))
    assert shard_map.asked == [2, 1, 1]


def test_a_shard_that_was_removed_is_made_again(tmp_path: Path) -> None:
    stage = Stage("demo", {})
    first = run_stage(stage, tmp_path, InProcessMap(), _write, [3, 4], inputs=_inputs(3, 4))
    (first.shards[1] / "out.txt").unlink()
    (first.shards[1] / "report.json").unlink()
    first.shards[1].rmdir()
    second = run_stage(stage, tmp_path, InProcessMap(), _write, [3, 4], inputs=_inputs(3, 4))
    assert second.manifest["computed"]["shards"] == 1 and second.report == first.report
    assert (second.shards[1] / "out.txt").read_text() == "4"


def test_two_runs_may_make_the_same_shards_at_the_same_time(tmp_path: Path) -> None:
    """Neither clears away what the other is writing, and what a killed run left goes when nobody is there."""
    together = threading.Barrier(2)
    outputs = []

    def slow(item: int, directory: Path) -> ShardReport:
        report = _write(item, directory)
        together.wait(10)  # both are inside a shard, the same one
        assert clear_leftovers(directory.parent) == 0 and (directory / "out.txt").is_file()
        together.wait(10)
        return report

    def run(after: str) -> None:
        stage = Stage("demo", {}, after=after)
        outputs.append(run_stage(stage, tmp_path, InProcessMap(), slow, [1, 2], inputs=_inputs(1, 2)))

    threads = [threading.Thread(target=run, args=(after,)) for after in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outputs[0].shards == outputs[1].shards and outputs[0].report == outputs[1].report
    shards = outputs[0].shards[0].parent
    (shards / ".tmp-left-by-a-killed-run").mkdir()
    run_stage(Stage("demo", {}), tmp_path, InProcessMap(), _write, [1], inputs=_inputs(1))
    assert sorted(path for path in shards.iterdir() if path.is_dir()) == sorted(outputs[0].shards)


def test_a_lost_worker_is_a_shard_error_that_survives_a_trip_between_processes() -> None:
    error = pickle.loads(pickle.dumps(WorkerLostError("extract", 3, "out of memory")))
    assert type(error) is WorkerLostError and isinstance(error, ShardError)
    assert str(error) == "stage 'extract', shard 3: out of memory"


def test_a_stage_whose_fingerprint_would_not_show_its_function_is_refused(tmp_path: Path) -> None:
    """Else a change in that function would find the old output."""
    function = functools.partial(language_shard, language=LanguageRule())
    assert Stage("language", {}, modules=("tasks.screen", "tasks.language")).covers(function)
    assert Stage("language", {}).covers(function)
    with pytest.raises(AssertionError, match="stage language does not show"):
        run_stage(Stage("language", {}, modules=("tasks.dedup.exact",)), tmp_path, InProcessMap(), function, [])


def test_the_code_of_a_stage_is_that_of_its_modules() -> None:
    everything, one, same = (
        Stage("demo", {}, modules=modules) for modules in (("tasks",), ("tasks.rule",), ("tasks.rule",))
    )
    assert everything.own_fingerprint != one.own_fingerprint == same.own_fingerprint
