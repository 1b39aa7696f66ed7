"""What is said of a difference: no more than its interval holds."""

from __future__ import annotations

import math

import pytest

from tasks.classifiers.proportion import Estimate
from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.compare import Comparison, compare, compare_models, interval
from tests.tasks.evaluation.measured_models import answers, documents, model, share_task


def comparison(difference: Estimate, higher_is_better: bool = True) -> Comparison:
    return Comparison("a", 1.0, 1.0, difference, 10, higher_is_better)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (1e-9, 0.2, "better"),
        (0.0, 0.2, "not more than noise"),
        (-0.1, 0.2, "not more than noise"),
        (-0.2, 0.0, "not more than noise"),
        (-0.2, -1e-9, "worse"),
        (-math.inf, math.inf, "not more than noise"),
    ],
)
def test_only_an_interval_without_0_tells_two_models_apart(low: float, high: float, told: str) -> None:
    assert comparison(Estimate(0.0, low, high)).told == told
    turned = comparison(Estimate(0.0, -high, -low), higher_is_better=False)
    assert turned.told == told and (turned.gain.low, turned.gain.high) == (low, high)


def test_what_is_not_finite_is_told_as_that() -> None:
    nan = math.nan
    assert comparison(Estimate(nan, nan, nan)).told == "not finite"
    assert comparison(Estimate(-math.inf, nan, nan)).told == "not finite"


def test_a_small_gain_on_every_document_is_found_and_noise_is_not() -> None:
    base = model("a@1", documents(2.0))
    better = compare(model("a@2", documents(1.99)).measure("bits_per_byte"), base.measure("bits_per_byte"))
    assert better.told == "better" and better.ours < better.theirs
    told = [
        compare(
            model("a@2", documents(2.0, noise=0.1, seed=seed)).measure("bits_per_byte"), base.measure("bits_per_byte")
        ).told
        for seed in range(1, 41)
    ]
    assert told.count("not more than noise") >= 36


def test_all_measures_of_both_are_compared() -> None:
    ours = model("a@2", documents(), {"own": [share_task("x", answers(100, 90))]})
    theirs = model("a@1", documents(), {"own": [share_task("x", answers(100, 50))]})
    found = compare_models(ours, theirs)
    assert list(found) == list(ours.measures)
    assert found["own/x/acc"].told == found["own"].told == "better"
    with pytest.raises(ValueError, match="nothing is measured as 'own'"):
        compare_models(ours, model("a@1", documents()))


def test_a_model_that_is_not_finite_has_no_number_on_tasks_it_was_not_asked() -> None:
    ours = model("a@2", documents(), {"own": [share_task("x", answers(100, 90))]})
    broken = documents()
    broken[3] = Score(math.nan, 9, 9, 1)
    found = compare_models(ours, model("a@1", broken))
    assert list(found) == list(ours.measures)
    assert found["own/x/acc"].told == found["own"].told == found["bits_per_byte"].told == "not finite"
    assert found["own/x/acc"].ours == 0.9 and found["own/x/acc"].num_examples == 100


def test_intervals_in_words() -> None:
    assert interval(Estimate(0.5, 0.25, 0.75)) == "95 % interval 0.2500 to 0.7500"
    assert interval(Estimate(0.5, 0.25, 0.75), signed=True) == "95 % interval +0.2500 to +0.7500"
    assert interval(Estimate(0.5, -math.inf, math.inf)) == "no interval: fewer than 8 examples"
    assert interval(Estimate(math.nan, math.nan, math.nan)) == "no interval"
