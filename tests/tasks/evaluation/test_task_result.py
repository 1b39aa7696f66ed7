"""Metrics from the values of examples."""

from __future__ import annotations

import math

import pytest

from tasks.evaluation.task_result import ExampleScore, aggregate


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
