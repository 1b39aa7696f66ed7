"""Metrics from the values of examples, and the centred score."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tasks.evaluation.task_result import ExampleScore, TaskResult, aggregate, by_part, centred, pack_score


def result(**changes: Any) -> TaskResult:
    values: dict[str, Any] = {
        "task": "t",
        "kind": "multiple_choice",
        "num_examples": 1,
        "metrics": {"acc": 0.5},
        "main_metric": "acc",
        "chance": 0.25,
        "higher_is_better": True,
        "examples": (),
    }
    return TaskResult(**(values | changes))


def test_means_perplexities_and_ratios_of_sums():
    marks = [ExampleScore(str(number), {"acc": float(number == 1), "perplexity": -number}) for number in range(4)]
    assert aggregate("acc", marks) == 0.25
    assert aggregate("perplexity", marks) == pytest.approx(math.exp(1.5))
    texts = [
        ExampleScore("a", {"loglikelihood": -3.0}, weights={"words": 1.0, "bytes": 2.0}),
        ExampleScore("b", {"loglikelihood": -5.0}, weights={"words": 3.0, "bytes": 14.0}),
    ]
    assert aggregate("bits_per_byte", texts) == pytest.approx(8 / 16 / math.log(2))
    assert aggregate("byte_perplexity", texts) == pytest.approx(math.exp(0.5))
    assert aggregate("word_perplexity", texts) == pytest.approx(math.exp(2))


def test_a_perplexity_that_no_float_holds_is_infinite():
    fits, does_not = (ExampleScore("a", {"perplexity": -nats}) for nats in (709.0, 710.0))
    assert math.isfinite(aggregate("perplexity", [fits]))
    assert aggregate("perplexity", [does_not]) == math.inf


def test_centred_is_0_by_chance_1_at_best_and_negative_below():
    for accuracy, expected in ((0.25, 0.0), (1.0, 1.0), (0.0, -1 / 3)):
        assert centred(result(metrics={"acc": accuracy})) == pytest.approx(expected)
    assert centred(result(main_metric="perplexity", higher_is_better=False)) is None


def test_a_packs_score_counts_each_task_once_and_perplexity_not_at_all():
    results = [result(metrics={"acc": 1.0}, num_examples=9000), result(metrics={"acc": 0.25})]
    assert pack_score(results) == pytest.approx(0.5)
    assert pack_score([*results, result(main_metric="bits_per_byte", higher_is_better=False)]) == pytest.approx(0.5)
    assert pack_score([]) is None


def test_parts_are_told_apart_where_there_are_several():
    marks = [ExampleScore(str(number), {"acc": float(number < 3)}, part="ab"[number % 2]) for number in range(4)]
    assert by_part(["acc"], marks) == {"a": {"acc": 1.0}, "b": {"acc": 0.5}}
    assert by_part(["acc"], marks[::2]) == {}
