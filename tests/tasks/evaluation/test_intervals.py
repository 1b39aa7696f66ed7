"""Intervals: their coverage, their agreement with tests that others wrote, and what they say of too little."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks.classifiers.proportion import Estimate
from tasks.evaluation.intervals import (
    MIN_EXAMPLES,
    mean_estimate,
    ratio_difference,
    ratio_estimate,
    share_difference,
    share_estimate,
)


def documents(seed: int, num: int, bits_per_byte: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    num_bytes = draw.lognormal(7, 1, num)  # few long texts, many short ones, as the web has them
    return num_bytes * draw.normal(bits_per_byte, 0.4, num), num_bytes


@pytest.mark.parametrize("num", [20, 60])
def test_intervals_of_ratios_hold_the_truth_about_as_often_as_they_say(num: int) -> None:
    held = [ratio_estimate(documents(seed, num, 2.0), seed=seed) for seed in range(60)]
    assert sum(each.low <= 2.0 <= each.high for each in held) >= 0.85 * 60  # 93 and 94 % of 400


def counts(only_ours: int, only_theirs: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models to `num` questions; the rest both got right."""
    ours, theirs = np.ones(num, dtype=bool), np.ones(num, dtype=bool)
    theirs[:only_ours] = False
    ours[only_ours : only_ours + only_theirs] = False
    return ours, theirs


@pytest.mark.parametrize(("ours", "theirs"), [(0.1, 0.1), (0.02, 0.02), (0.3, 0.2), (0.0, 0.3), (0.4, 0.1)])
def test_intervals_of_paired_shares_hold_the_truth_surely(ours: float, theirs: float) -> None:
    """Summed over everything that can happen with 12 questions."""
    num, held = 12, 0.0
    for only_ours, only_theirs in product(range(num + 1), repeat=2):
        if only_ours + only_theirs <= num:
            ways = math.comb(num, only_ours) * math.comb(num - only_ours, only_theirs)
            both = num - only_ours - only_theirs
            probability = ways * ours**only_ours * theirs**only_theirs * (1 - ours - theirs) ** both
            found = share_difference(*counts(only_ours, only_theirs, num))
            held += probability * (found.low <= ours - theirs <= found.high)
    assert held >= 0.95


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 40))
def test_paired_shares_are_told_apart_when_mcnemars_exact_test_does(
    only_ours: int, only_theirs: int, both: int
) -> None:
    found = share_difference(*counts(only_ours, only_theirs, only_ours + only_theirs + both))
    discordant = only_ours + only_theirs
    p_value = binomtest(only_ours, discordant).pvalue if discordant else 1.0
    assert (found.low > 0 or found.high < 0) == (p_value <= 0.05)
    assert found.low <= found.value <= found.high


def test_six_of_six_are_told_apart_and_five_of_five_are_not() -> None:
    assert share_difference(*counts(6, 0, 100)).low > 0 >= share_difference(*counts(5, 0, 100)).low
    assert share_difference(*counts(0, 6, 100)).high < 0 <= share_difference(*counts(0, 5, 100)).high


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 20))
def test_swapping_the_models_turns_the_difference_round(only_ours: int, only_theirs: int) -> None:
    ours, theirs = counts(only_ours, only_theirs, 50)
    one, two = share_difference(ours, theirs), share_difference(theirs, ours)
    assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))


def test_the_same_answers_are_no_difference_but_not_surely_none() -> None:
    found = share_difference(*counts(0, 0, 100))
    assert found.value == 0 and found.low == -found.high < 0


def test_a_pair_is_far_narrower_than_its_two_scores() -> None:
    nats, num_bytes = documents(1, 100, 2.0)
    apart = ratio_estimate((nats, num_bytes))
    pair = ratio_difference((nats * 0.99, num_bytes), (nats, num_bytes))
    assert pair.high < 0 and (pair.high - pair.low) < 0.05 * (apart.high - apart.low)
    assert pair.value == pytest.approx(-0.01 * apart.value)


@settings(max_examples=20)
@given(st.permutations(range(12)))
def test_the_order_of_the_examples_does_not_matter(order: list[int]) -> None:
    nats, num_bytes = documents(2, 12, 2.0)
    one, two = ratio_estimate((nats, num_bytes)), ratio_estimate((nats[order], num_bytes[order]))
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


def test_of_too_few_examples_nothing_is_known() -> None:
    enough = ratio_estimate(documents(3, MIN_EXAMPLES, 2.0))
    assert math.isfinite(enough.low) and enough.low < enough.value < enough.high < math.inf
    few = ratio_estimate(documents(3, MIN_EXAMPLES - 1, 2.0))
    assert (few.low, few.high) == (-math.inf, math.inf) and math.isfinite(few.value)
    with pytest.raises(ValueError, match="no example"):
        ratio_estimate((np.array([]), np.array([])))
    with pytest.raises(ValueError, match="no example"):
        share_difference(np.array([], dtype=bool), np.array([], dtype=bool))


def test_what_is_no_number_has_no_interval() -> None:
    nats, num_bytes = documents(4, 20, 2.0)
    nats[3] = math.nan
    broken = ratio_estimate((nats, num_bytes))
    assert all(math.isnan(each) for each in (broken.value, broken.low, broken.high))
    beyond = ratio_estimate((np.full(20, 1e5), np.ones(20)), np.exp)
    assert beyond.value == math.inf and math.isnan(beyond.low)


def test_a_perplexitys_interval_is_that_of_its_logarithm() -> None:
    nats, num_words = documents(5, 50, 2.0)
    plain, perplexity = ratio_estimate((nats, num_words)), ratio_estimate((nats, num_words), np.exp)
    assert perplexity.value == pytest.approx(math.exp(plain.value))
    assert perplexity.low == pytest.approx(math.exp(plain.low), rel=1e-3)


def test_the_mean_of_one_is_itself_and_of_many_is_narrower() -> None:
    right = np.arange(60) % 3 == 0
    one = share_estimate(right)
    same = mean_estimate([one])
    assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high))
    four = mean_estimate([one] * 4)
    assert four.value == pytest.approx(one.value)
    assert four.high - four.value == pytest.approx((one.high - one.value) / 2)
    asked_wrong = mean_estimate([share_estimate(np.zeros(10, dtype=bool)), Estimate(0.5, 0.4, 0.6)])
    assert asked_wrong.high - asked_wrong.value > 0.5 * 0.3  # the width of 0 of 10 is not lost
