"""The search: the first candidate is the given one, the budget binds, and a killed search goes on."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.classifiers import search as module
from tasks.classifiers.fast_text import FastTextTraining
from tasks.classifiers.search import Budget, Score, Settings, Trial, best, candidates, search, trials_table

FIRST = Settings(training=FastTextTraining(dim=4, seed=7))


def evaluated(seen: list[Settings], fail_at: int = 0) -> Callable[[Settings], Score]:
    """A score that settings determine; the n-th call fails."""

    def evaluate(tried: Settings) -> Score:
        seen.append(tried)
        if len(seen) == fail_at:
            raise KeyboardInterrupt
        return Score(1 / (1 + tried.training.lr), 1000 * tried.training.dim)

    return evaluate


def test_candidates_follow_from_the_seed() -> None:
    some = list(islice(candidates(FIRST, 1), 50))
    assert some[0] == FIRST
    assert len(set(some)) == 50
    assert some == list(islice(candidates(FIRST, 1), 50))
    assert some[1:] != list(islice(candidates(FIRST, 2), 50))[1:]
    assert {each.training.seed for each in some} == {7}
    assert all(0.05 <= each.training.lr <= 1.0 for each in some[1:])


@pytest.mark.parametrize("trials", [1, 3])
def test_the_budget_of_trials(tmp_path: Path, trials: int) -> None:
    seen: list[Settings] = []
    reports: list[tuple[int, int, str]] = []

    def progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        assert stage == "trials"
        reports.append((done, total, note))

    found = search(evaluated(seen), FIRST, Budget(trials=trials), 1, {"data": "x"}, tmp_path / "t.csv", progress)
    assert [trial.number for trial in found] == list(range(1, trials + 1))
    assert seen == list(islice(candidates(FIRST, 1), trials))
    assert [report[:2] for report in reports] == [(number, trials) for number in range(1, trials + 1)]
    assert reports[0][2] == "average precision 0.7692"


@pytest.mark.parametrize(("budget_s", "num_trials"), [(1.99, 2), (2.0, 2), (2.01, 3), (0.5, 1)])
def test_the_budget_of_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget_s: float, num_trials: int
) -> None:
    """Each trial takes a second: none is begun at or after the bound, and one runs in any case."""
    clock: Iterator[float] = iter(float(tick) for tick in range(100))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = search(evaluated([]), FIRST, Budget(trials=9, seconds=budget_s), 1, {}, tmp_path / "t.csv")
    assert len(found) == num_trials
    assert [trial.seconds for trial in found] == [1.0] * num_trials


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    path, budget = tmp_path / "t.csv", Budget(trials=4)
    with pytest.raises(KeyboardInterrupt):
        search(evaluated([], fail_at=3), FIRST, budget, 1, {"data": "x"}, path)
    seen: list[Settings] = []
    found = search(evaluated(seen), FIRST, budget, 1, {"data": "x"}, path)
    assert seen == list(islice(candidates(FIRST, 1), 4))[2:]
    whole = search(evaluated([]), FIRST, budget, 1, {"data": "x"}, tmp_path / "other.csv")
    assert [(trial.settings, trial.score) for trial in found] == [(trial.settings, trial.score) for trial in whole]
    assert search(evaluated([], fail_at=1), FIRST, budget, 1, {"data": "x"}, path) == found


def test_other_data_or_settings_are_tried_anew_and_keep_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for data, first, num_tried in (("x", FIRST, 2), ("y", FIRST, 2), ("x", Settings(), 2), ("x", FIRST, 0)):
        seen: list[Settings] = []
        search(evaluated(seen), first, Budget(trials=2), 1, {"data": data}, path)
        assert len(seen) == num_tried
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["key"] for row in rows}) == 6
    assert rows[0]["dim"] == "4"


@pytest.mark.parametrize(
    ("content", "message"), [("a,b\n1,2\n", "no list of trials"), ("key\n{key}\n", "not as it was written")]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "t.csv"
    key = search(evaluated([]), FIRST, Budget(trials=1), 1, {}, path)[0].key
    path.write_text(content.format(key=key))
    with pytest.raises(ValueError, match=rf"t\.csv.*{message}.*remove"):
        search(evaluated([]), FIRST, Budget(trials=1), 1, {}, path)


def trial(number: int, average_precision: float, size_bytes: int, note: str = "") -> Trial:
    return Trial(number, str(number), FIRST, Score(average_precision, size_bytes, note), 1.0)


def test_the_best_is_small_enough() -> None:
    trials = [trial(1, 0.8, 100), trial(2, 0.9, 201), trial(3, 0.85, 200), trial(4, 0.85, 150), trial(5, 0.85, 150)]
    assert best(trials, 201).number == 2
    assert best(trials, 200).number == 4
    assert best(trials, 149).number == 1
    with pytest.raises(
        ValueError, match=r"none of 5 trials .* at most 99 bytes .*\(100 bytes; 150 .*; 200 .*; 201 bytes\)"
    ):
        best(trials, 99)


def test_a_trial_that_came_to_nothing_is_not_taken() -> None:
    assert best([trial(1, 0.0, 1, "the sigmoid falls"), trial(2, 0.1, 100)], 100).number == 2
    with pytest.raises(ValueError, match=r"\(the sigmoid falls\)"):
        best([trial(1, 0.0, 1, "the sigmoid falls")], 100)


@given(ratio=st.floats(0, 1), num_rarer=st.integers(1, 1000), num_more=st.integers(0, 100_000))
def test_repetitions_bring_the_rarer_class_near_its_share(ratio: float, num_rarer: int, num_more: int) -> None:
    num_commoner = num_rarer + num_more
    times = Settings(minority_ratio=ratio).repetitions(num_rarer, num_commoner)
    assert times >= 1
    assert times == 1 or abs(times * num_rarer - ratio * num_commoner) <= num_rarer / 2 + 1e-6 * num_commoner


@settings(max_examples=20)
@given(number=st.integers(1, 10), average_precision=st.floats(0, 1))
def test_the_table_keeps_every_digit(number: int, average_precision: float) -> None:
    rows = list(csv.DictReader(trials_table([trial(number, average_precision, 5)]).splitlines()))
    assert float(rows[0]["average_precision"]) == average_precision
    assert int(rows[0]["number"]) == number
