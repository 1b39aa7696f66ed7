"""Lines of a growing file, each once, whatever becomes of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.follow import MetricsFollower, Tail
from tasks.metrics_file import METRICS_FILE, ROLLED_BACK_FILE


def test_only_complete_lines_each_once(tmp_path: Path) -> None:
    file = tmp_path / "log"
    tail = Tail(file)
    assert tail.lines() == []
    file.write_bytes(b"one\ntw")
    assert tail.lines() == [b"one\n"]
    assert tail.lines() == []
    with file.open("ab") as log:
        log.write(b"o\nthree\n")
    assert tail.lines() == [b"two\n", b"three\n"]


def test_a_file_that_was_cut_is_read_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one\ntwo\nthree\n")
    tail = Tail(file)
    assert len(tail.lines()) == 3
    file.write_bytes(b"one\n")
    assert tail.lines() == [b"one\n"]
    file.write_bytes(b"one\nTWO\nthree\nfour\n")  # cut and grown again between two looks: the line before still stands
    assert tail.lines() == [b"TWO\n", b"three\n", b"four\n"]
    file.write_bytes(b"one\nother\nthree\nfive, and longer than before\n")
    assert tail.lines() == [b"one\n", b"other\n", b"three\n", b"five, and longer than before\n"]


def written(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def followed(run_dir: Path, contents: list[list[dict[str, Any]]]) -> list[int]:
    """The batches that are handed over when the metrics have these contents, one after the other."""
    (run_dir / "run.json").write_text(json.dumps({"num_steps": 7}))
    batches: list[int] = []

    def on_rows(rows: list[dict[str, Any]], num_steps: int) -> None:
        assert num_steps == 7
        batches.extend(row["batch"] for row in rows)

    follower = MetricsFollower(run_dir, on_rows)
    for rows in contents:
        written(run_dir / METRICS_FILE, rows)
        follower._hand_over()
    assert follower.error is None
    return batches


def rows(*batches: int) -> list[dict[str, Any]]:
    return [{"step": step, "batch": batch} for step, batch in enumerate(batches, start=1)]


def test_steps_taken_again_after_a_restart_come_once(tmp_path: Path) -> None:
    assert followed(tmp_path, [rows(0, 1, 2, 3), rows(0, 1), rows(0, 1, 2, 3, 4)]) == [0, 1, 2, 3, 4]


def test_steps_after_a_rollback_come_with_their_new_batches(tmp_path: Path) -> None:
    assert followed(tmp_path, [rows(0, 1, 2, 3), rows(0, 1), rows(0, 1, 4, 5)]) == [0, 1, 2, 3, 4, 5]


def test_steps_that_were_taken_back_before_anybody_looked_come_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"num_steps": 1}')
    written(tmp_path / ROLLED_BACK_FILE, [{"step": 9, "batch": 8}])  # by an earlier attempt
    seen: list[Any] = []
    follower = MetricsFollower(tmp_path, lambda rows, num_steps: seen.extend(rows))
    written(tmp_path / ROLLED_BACK_FILE, [{"step": 9, "batch": 8}, *rows(0, 1, 2, 3)[2:]])
    written(tmp_path / METRICS_FILE, rows(0, 1, 4, 5))
    follower.start()
    follower.stop()
    assert [row["batch"] for row in seen] == [0, 1, 2, 3, 4, 5]


def test_a_restart_that_forgets_a_rollback_is_followed(tmp_path: Path) -> None:
    """Killed before there was a checkpoint: the same batches come again, and another step may have some of them."""
    assert followed(tmp_path, [rows(0, 1, 2), rows(0, 3, 4), rows(0, 1, 5)]) == [0, 1, 2, 3, 4, 5]


def test_what_was_written_last_is_handed_over_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"num_steps": 1}')
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "batch": 0}\n')
    seen: list[Any] = []
    follower = MetricsFollower(tmp_path, lambda rows, num_steps: seen.extend(rows))
    follower.start()
    follower.stop()
    assert [row["batch"] for row in seen] == [0]


def test_an_error_of_the_callback_is_kept_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"num_steps": 1}')
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "batch": 0}\n')

    def on_rows(rows: list[dict[str, Any]], num_steps: int) -> None:
        raise RuntimeError("no room")

    follower = MetricsFollower(tmp_path, on_rows)
    follower.start()
    follower.stop()
    assert str(follower.error) == "no room"
