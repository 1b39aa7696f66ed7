"""Tables for people and machines: nothing in them is mark-up or a formula, whatever a pack or model is called."""

from __future__ import annotations

import json
import math

import pytest

from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.compare import compare_models
from tasks.evaluation.contaminated import ContaminatedTask
from tasks.evaluation.measures import ModelScores
from tasks.evaluation.report import (
    ScoreRow,
    examples_csv,
    metric_values,
    score_rows,
    table_lines,
    table_markdown,
    table_records,
)
from tests.tasks.evaluation.measured_models import NUM_DOCUMENTS, answers, documents, model, share_task

EVIL = "<b>x|y`z"


def found(hit_ids: tuple[str, ...], num_searched: int = 10) -> ContaminatedTask:
    return ContaminatedTask(num_searched, frozenset(hit_ids))


def scores(reference: str = "web@2", num_right: int = 70) -> ModelScores:
    return model(reference, documents(1.9), {"own": [share_task("x", answers(100, num_right))]})


def rows(contamination: ContaminatedTask | None = None, other: ModelScores | None = None) -> list[ScoreRow]:
    ours = scores()
    comparisons = {other.reference: compare_models(ours, other)} if other else {}
    return score_rows(ours, comparisons, {"own/x": contamination} if contamination else {})


def by_name(found_rows: list[ScoreRow]) -> dict[str, ScoreRow]:
    return {row.name: row for row in found_rows}


def test_a_row_has_score_interval_chance_and_centred_score() -> None:
    row = by_name(rows())["own/x/acc"]
    assert (row.score.value, row.chance, row.num_examples) == (0.7, 0.5, 100)
    assert row.centred == pytest.approx(0.4) and 0.5 < row.score.low < 0.7 < row.score.high
    assert by_name(rows())["own"].score.value == pytest.approx(0.4)
    assert by_name(rows())["bits_per_byte"].chance == pytest.approx(2.5, rel=1e-3)


def test_empty_columns_are_left_out_and_lines_are_aligned() -> None:
    plain = table_lines(rows())
    assert "contaminated" not in plain[0] and "less" not in plain[0]
    full = table_lines(rows(found(("0001",)), scores("web@1", 50)))
    assert full[0].split("  ")[0] == "measure" and "contaminated" in full[0] and full[0].endswith("less web@1")
    line = next(line for line in full if line.startswith("own/x/acc"))
    assert line.index("0.7000") == full[0].index("score")
    assert "10.00 % (0.25 % to 44.50 %)" in line and line.endswith("better")


def test_a_contaminated_task_has_its_score_on_the_other_examples_beside_it() -> None:
    ours = scores()
    measure = ours.measure("own/x/acc")
    right = [one for one, value in zip(measure.ids, measure.sums[0], strict=True) if value][:30]  # type: ignore[union-attr]
    row = by_name(rows(found(tuple(right), 60)))["own/x/acc"]
    assert row.clean is not None and row.clean.value == pytest.approx(40 / 70)
    assert row.as_json()["contaminated"] == 0.5
    assert by_name(rows(found((), 60)))["own/x/acc"].clean is None
    assert by_name(rows(found(tuple(measure.ids), 100)))["own/x/acc"].clean is None  # type: ignore[union-attr]
    assert "too short to search" in "\n".join(table_lines(rows(found((), 0))))


def test_json_has_none_for_what_is_no_number() -> None:
    broken = documents()
    broken[0] = Score(math.nan, 9, 9, 1)
    ours, theirs = model("web@2", broken), model("web@1", documents())
    found_rows = score_rows(ours, {"web@1": compare_models(ours, theirs)}, {})
    plain = json.loads(json.dumps([row.as_json() for row in found_rows], allow_nan=False))
    assert plain[0]["score"] is None and plain[0]["compared"]["web@1"]["told"] == "not finite"
    assert "unknown" in table_lines(found_rows)[1]
    assert "bits_per_byte_low" not in metric_values(found_rows)


def test_metrics_have_the_ends_of_their_intervals() -> None:
    values = metric_values(rows(found(("0001",))))
    assert values["own/x/acc_low"] < values["own/x/acc"] < values["own/x/acc_high"]
    assert values["own/x/acc_contaminated"] == 0.1
    assert {"bits_per_byte", "held_out/source/web", "own"} <= set(values)


def test_whatever_a_model_or_task_is_called_is_shown_as_text() -> None:
    ours = model(EVIL, documents(), {"own": [share_task(EVIL, answers(20, 9))]})
    theirs = model(f"{EVIL}\x1b[2J", documents(), {"own": [share_task(EVIL, answers(20, 9))]})
    found_rows = score_rows(ours, {theirs.reference: compare_models(ours, theirs)}, {})
    page = table_markdown(found_rows)
    assert "<b>" not in page and "x|y" not in page
    assert "\x1b" not in page + "\n".join(table_lines(found_rows)) + str(table_records(found_rows))


def test_every_example_of_both_models_is_in_the_table() -> None:
    lines = examples_csv([scores("web@2", 70), scores("=web@1", 50)]).splitlines()
    assert lines[0] == "measure,example,part,denominator,web@2,=web@1"
    assert len(lines) == 1 + NUM_DOCUMENTS + 100
    answered = [line.split(",") for line in lines if line.startswith("own/x/acc")]
    assert sum(float(row[4]) for row in answered) == 70 and sum(float(row[5]) for row in answered) == 50


def test_an_example_that_the_other_model_was_not_asked_is_left_empty() -> None:
    lines = examples_csv([scores("web@2", 70), model("web@1", documents())]).splitlines()
    answered = [line for line in lines if line.startswith("own/x/acc")]
    assert len(answered) == 100 and all(line.endswith(",") for line in answered)
