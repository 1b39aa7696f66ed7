"""The verdict on simulated ablations, of which it is known whether the recipes differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from tasks.ablation.verdict import MIN_DOCUMENTS, FloatArray, compare

NUM_ABLATIONS = 2000
MONTE_CARLO_ERROR = 3 * math.sqrt(0.05 * 0.95 / NUM_ABLATIONS)
RUN_DEVIATION, DOCUMENT_DEVIATION, BOTH_DEVIATION = 0.010, 0.4, 0.05  # bits per byte


def ablation(
    draw: np.random.Generator, num_runs: int, num_documents: int, difference: float, taste: float = 0.0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bits of runs by documents for two recipes, `difference` bits per byte apart, and the documents' bytes.

    Every document is hard or easy for all, every run good or bad on all documents, every run has documents that suit
    it; and with `taste` every recipe has some, which a new choice of documents would not bring again.
    """
    sizes = np.exp(draw.normal(8, 1, num_documents))
    hard = draw.normal(2.0, DOCUMENT_DEVIATION, num_documents)

    def runs(shift: float) -> FloatArray:
        luck = draw.normal(0, RUN_DEVIATION, (num_runs, 1))
        suits = draw.normal(0, BOTH_DEVIATION, (num_runs, num_documents)) + draw.normal(0, taste, num_documents)
        values: FloatArray = (hard + shift + luck + suits) * sizes
        return values

    return runs(0.0), runs(difference), sizes


def told_apart(num_runs: int, num_documents: int, difference: float, taste: float = 0.0) -> float:
    """In which share of the ablations a difference is said to be there."""
    draw = np.random.default_rng(7)
    outcomes = [
        compare(*ablation(draw, num_runs, num_documents, difference, taste), higher_is_better=False).outcome
        for _ in range(NUM_ABLATIONS)
    ]
    if difference > 0:
        assert outcomes.count("b is better") < 0.01 * NUM_ABLATIONS
    return 1 - outcomes.count("not told apart") / NUM_ABLATIONS


@pytest.mark.parametrize(("num_runs", "num_documents"), [(2, 50), (3, MIN_DOCUMENTS), (3, 200), (8, 20), (8, 50)])
@pytest.mark.parametrize("taste", [0.0, 0.1])
def test_equal_recipes_are_told_apart_in_one_of_twenty_ablations_at_most(
    num_runs: int, num_documents: int, taste: float
) -> None:
    assert told_apart(num_runs, num_documents, 0.0, taste) <= 0.05 + MONTE_CARLO_ERROR


def test_with_one_source_of_noise_alone_equal_recipes_would_be_told_apart_far_more_often() -> None:
    """What the sum of the two is for: documents alone, as where each recipe is trained once, take luck for merit."""
    draw = np.random.default_rng(7)
    wrong = 0
    for _ in range(300):
        one = compare(*ablation(draw, 3, 200, 0.0), higher_is_better=False)
        wrong += abs(one.difference.value) > 1.97 * one.documents_error
    assert wrong > 0.15 * 300


@pytest.mark.parametrize(("num_runs", "least"), [(3, 0.8), (5, 0.95)])
def test_a_planted_difference_is_found(num_runs: int, least: float) -> None:
    assert told_apart(num_runs, 200, 4 * RUN_DEVIATION) > least


def test_more_seeds_find_more() -> None:
    assert told_apart(2, 100, 3 * RUN_DEVIATION) < told_apart(6, 100, 3 * RUN_DEVIATION)


def test_where_only_runs_vary_it_is_welchs_t_test() -> None:
    a, b = np.array([1.0, 1.1, 1.3]), np.array([1.5, 1.2, 1.6])
    sizes = np.full(20, 10.0)
    found = compare(np.outer(a, sizes), np.outer(b, sizes), sizes, higher_is_better=False)
    expected = ttest_ind(b, a, equal_var=False)
    assert found.documents_error == pytest.approx(0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees_of_freedom == pytest.approx(expected.df)
    low, high = expected.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert found.runs_a == pytest.approx(tuple(a))


def test_where_only_documents_vary_it_is_the_paired_standard_error() -> None:
    draw = np.random.default_rng(1)
    a, b, sizes = draw.normal(2, 1, 400), draw.normal(2, 1, 400), np.ones(400)
    found = compare(np.stack([a, a]), np.stack([b, b]), sizes, higher_is_better=True)
    assert found.runs_error == 0
    assert found.documents_error == pytest.approx((b - a).std(ddof=1) / math.sqrt(400))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(-0.1, 0.1), st.booleans())
def test_names_do_not_matter(seed: int, difference: float, higher_is_better: bool) -> None:
    a, b, sizes = ablation(np.random.default_rng(seed), 3, 30, difference)
    there = compare(a, b, sizes, higher_is_better=higher_is_better)
    back = compare(b, a, sizes, higher_is_better=higher_is_better)
    swapped = {"a is better": "b is better", "b is better": "a is better", "not told apart": "not told apart"}
    assert back.outcome == swapped[there.outcome]
    assert back.difference.value == pytest.approx(-there.difference.value)
    assert (back.difference.low, back.difference.high) == pytest.approx((-there.difference.high, -there.difference.low))
    assert (there.a, there.b) == (back.b, back.a)


def test_lower_is_better_or_higher_is() -> None:
    a, b, sizes = ablation(np.random.default_rng(3), 4, 100, 1.0)
    assert compare(a, b, sizes, higher_is_better=False).outcome == "a is better"
    assert compare(a, b, sizes, higher_is_better=True).outcome == "b is better"


def test_what_does_not_vary_at_all() -> None:
    same, sizes = np.ones((2, MIN_DOCUMENTS)), np.ones(MIN_DOCUMENTS)
    equal = compare(same, same, sizes, higher_is_better=False)
    assert (equal.outcome, equal.p_value, equal.just_seen) == ("not told apart", 1.0, 0.0)
    assert compare(same, 2 * same, sizes, higher_is_better=False).outcome == "a is better"


def test_too_little_is_refused() -> None:
    enough, sizes = np.ones((2, MIN_DOCUMENTS)), np.ones(MIN_DOCUMENTS)
    with pytest.raises(ValueError, match="1 runs of recipe a and 2 of recipe b"):
        compare(enough[:1], enough, sizes, higher_is_better=False)
    with pytest.raises(ValueError, match="9 documents to compare on, 10 are the least"):
        compare(enough[:, :-1], enough[:, :-1], sizes[:-1], higher_is_better=False)
    broken = enough.copy()
    broken[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        compare(enough, broken, sizes, higher_is_better=False)
