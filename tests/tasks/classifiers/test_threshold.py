"""The lowest threshold that keeps the stated rate, and what is strictly above it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from tasks.classifiers.threshold import Threshold, choose_threshold, false_alarms_at

SCORES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize(
    ("fraction", "value", "false_alarms"),
    [(0.0, 1.0, 0), (0.0999, 1.0, 0), (0.1, 0.9, 1), (0.1001, 0.9, 1), (0.3, 0.7, 3), (0.99, 0.1, 9)],
)
def test_ten_scores(fraction: float, value: float, false_alarms: int) -> None:
    threshold = choose_threshold(SCORES, fraction)
    assert (threshold.value, threshold.false_alarms, threshold.num_texts) == (value, false_alarms, 10)
    assert threshold.fraction == false_alarms / 10


def test_a_text_on_the_threshold_is_no_false_alarm_one_step_above_is() -> None:
    value = 0.3
    assert false_alarms_at(value, [value, value, 0.1]).false_alarms == 0
    assert false_alarms_at(value, [math.nextafter(value, 1), value, 0.1]).false_alarms == 1


def test_texts_with_one_score_are_flagged_together_or_not_at_all() -> None:
    """One of five may be a false alarm, but the two highest are one score: none is."""
    assert choose_threshold([0.9, 0.9, 0.5, 0.4, 0.3], 0.2) == false_alarms_at(0.9, [0.9, 0.9, 0.5, 0.4, 0.3])
    assert choose_threshold([0.9, 0.9, 0.5, 0.4, 0.3], 0.4).value == 0.5
    assert choose_threshold([0.7] * 8, 0.5).value == 0.7


def test_the_rate_is_the_decimal_that_was_written() -> None:
    """In binary, .29 * 100 is 28.999999999999996."""
    scores = [place / 100 for place in range(100)]
    assert choose_threshold(scores, 0.29).false_alarms == 29


@given(
    st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=60),
    st.floats(0, 0.999),
)
def test_lowest_that_holds(scores: list[float], fraction: float) -> None:
    threshold = choose_threshold(scores, fraction)
    allowed = Fraction(str(fraction)) * len(scores)
    assert threshold.false_alarms == sum(score > threshold.value for score in scores) <= allowed
    if threshold.value > 0:
        lower = math.nextafter(threshold.value, 0)
        assert sum(score > lower for score in scores) > allowed


def test_the_order_of_the_texts_does_not_matter() -> None:
    assert choose_threshold(SCORES, 0.25) == choose_threshold(SCORES[::-1], 0.25)


def test_the_interval_belongs_to_the_rate() -> None:
    threshold = false_alarms_at(0.5, [0.1] * 7_975 + [0.9] * 25)
    assert threshold.low == pytest.approx(beta.ppf(0.025, 25, 7_976), abs=1e-9)
    assert threshold.high == pytest.approx(beta.ppf(0.975, 26, 7_975), abs=1e-9)
    assert str(threshold) == "0.5: 25 of 8,000 ordinary texts score above it, 0.31 % (0.20 % to 0.46 %)"
    assert isinstance(threshold, Threshold)


@pytest.mark.parametrize("fraction", [-0.01, 1.0, math.nan])
def test_a_rate_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="0 to below 1"):
        choose_threshold(SCORES, fraction)


def test_without_a_background_there_is_no_threshold() -> None:
    with pytest.raises(ValueError, match="give ordinary texts"):
        choose_threshold([], 0.01)
    with pytest.raises(ValueError, match="give ordinary texts"):
        false_alarms_at(0.5, [])
