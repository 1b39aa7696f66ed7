"""Platt's sigmoid: against scikit-learn's own, exact cases, monotony, and the same bits one by one and all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.calibration import _SigmoidCalibration

from tasks.classifiers.calibration import (
    CLIP,
    Calibration,
    calibration_bins,
    expected_calibration_error,
    fit_calibration,
)
from tasks.classifiers.scores import BoolArray, FloatArray

CALIBRATIONS = st.builds(Calibration, slope=st.floats(0.01, 50), intercept=st.floats(-50, 50))
SCORES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 5e-324, CLIP, 0.5, 1 - CLIP, 1.0]))


def too_sure(num_texts: int, *, factor: float = 2.0, shift: float = 0.5) -> tuple[BoolArray, FloatArray]:
    """Texts whose true log odds are known, and scores whose log odds are `factor` times them plus `shift`."""
    draw = np.random.default_rng(1)
    odds = draw.normal(size=num_texts)
    labels = draw.random(num_texts) < 1 / (1 + np.exp(-odds))
    return labels, 1 / (1 + np.exp(-(factor * odds + shift)))


def test_the_default_changes_nothing() -> None:
    for score in (0.001, 0.3, 0.5, 0.999):
        assert Calibration().probability(score) == pytest.approx(score, rel=1e-12)
    assert Calibration().probability(0.5) == 0.5


def test_worked_by_hand() -> None:
    """The logit of .8 is log 4; half of it, plus log 3, has the odds 2 * 3."""
    calibration = Calibration(slope=0.5, intercept=math.log(3))
    assert calibration.probability(0.8) == pytest.approx(6 / 7, rel=1e-14)


def test_the_ends_are_clipped() -> None:
    calibration = Calibration(slope=0.7, intercept=0.2)
    assert 0 < calibration.probability(0.0) == calibration.probability(CLIP)
    assert calibration.probability(1.0) == calibration.probability(1 - CLIP) < 1
    assert calibration.probability(CLIP) < calibration.probability(2 * CLIP)


@given(CALIBRATIONS, SCORES, SCORES)
def test_it_never_falls(calibration: Calibration, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= calibration.probability(low) <= calibration.probability(high) <= 1


@given(st.floats(0.05, 1.5), st.floats(-2, 2), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_scores_that_differ_stay_apart(slope: float, intercept: float, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assume(high - low > 1e-9)
    calibration = Calibration(slope=slope, intercept=intercept)
    assert calibration.probability(low) < calibration.probability(high)


@given(CALIBRATIONS, st.lists(SCORES, max_size=50))
def test_one_by_one_and_all_at_once_are_the_same_bits(calibration: Calibration, scores: list[float]) -> None:
    one_by_one = [calibration.probability(score) for score in scores]
    assert calibration.probabilities(scores) == one_by_one
    assert calibration.array(np.array(scores, dtype=np.float64)).tolist() == one_by_one


@pytest.mark.parametrize(("factor", "shift"), [(2.0, 0.5), (0.5, -1.0), (1.0, 0.0)])
def test_it_agrees_with_scikit_learns(factor: float, shift: float) -> None:
    labels, scores = too_sure(2_000, factor=factor, shift=shift)
    reference = _SigmoidCalibration().fit(np.log(scores / (1 - scores)), labels)
    ours = fit_calibration(labels, scores)
    assert (ours.slope, ours.intercept) == pytest.approx((-reference.a_, -reference.b_), abs=2e-3)


def test_what_was_distorted_is_found_again() -> None:
    labels, scores = too_sure(40_000)
    calibration = fit_calibration(labels, scores)
    assert (calibration.slope, calibration.intercept) == pytest.approx((0.5, -0.25), abs=0.03)
    before = expected_calibration_error(labels, scores)
    after = expected_calibration_error(labels, calibration.array(scores))
    assert before > 0.1 > 0.02 > after


def test_separated_classes_stay_finite() -> None:
    """Without Platt's smoothing the most likely slope would be infinite. Of two texts each, 3/4 and 1/4 are most
    likely."""
    calibration = fit_calibration([True, True, False, False], [0.9, 0.9, 0.1, 0.1])
    assert calibration.probability(0.9) == pytest.approx(0.75, abs=1e-5)
    assert calibration.probability(0.1) == pytest.approx(0.25, abs=1e-5)


def test_scores_at_both_ends_fit() -> None:
    calibration = fit_calibration([True] * 30 + [False] * 30, [1.0] * 30 + [0.0] * 30)
    assert calibration.slope > 0


def test_the_order_of_the_texts_does_not_matter() -> None:
    labels, scores = too_sure(500)
    assert fit_calibration(labels, scores) == fit_calibration(labels[::-1], scores[::-1])


def test_scores_the_wrong_way_round_are_refused() -> None:
    labels, scores = too_sure(500)
    with pytest.raises(ValueError, match="no better than chance"):
        fit_calibration(~labels, scores)
    with pytest.raises(ValueError, match="no better than chance"):
        fit_calibration([True, False], [0.5, 0.5])
    with pytest.raises(ValueError, match="both positive and negative"):
        fit_calibration([True, True], [0.5, 0.6])


@pytest.mark.parametrize("slope", [0.0, -1.0, math.inf, math.nan])
def test_a_falling_sigmoid_is_no_configuration(slope: float) -> None:
    with pytest.raises(ValidationError):
        Calibration(slope=slope)


def test_bins_and_error_worked_by_hand() -> None:
    """Bins of 1/15: two texts in the second (a tenth and 2/15 less a bit), two in the last."""
    labels = [False, True, True, True]
    bins = calibration_bins(labels, [0.1, 0.12, 0.95, 1.0])
    assert [(each.num_texts, each.positive_fraction) for each in bins] == [(2, 0.5), (2, 1.0)]
    assert [each.mean_probability for each in bins] == pytest.approx([0.11, 0.975])
    assert (bins[0].low, bins[0].high, bins[1].high) == (1 / 15, 2 / 15, 1.0)
    error = expected_calibration_error(labels, [0.1, 0.12, 0.95, 1.0])
    assert error == pytest.approx((2 * 0.39 + 2 * 0.025) / 4, rel=1e-12)


def test_a_text_on_a_bins_edge_is_in_the_higher_one() -> None:
    (edge,) = calibration_bins([True], [0.2])
    (below,) = calibration_bins([True], [math.nextafter(0.2, 0)])
    assert (edge.low, below.high) == (0.2, 0.2)


@given(st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=60))
def test_the_error_is_a_share_and_no_text_is_lost(texts: list[tuple[bool, float]]) -> None:
    labels, scores = [label for label, _ in texts], [score for _, score in texts]
    assert 0 <= expected_calibration_error(labels, scores) <= 1
    assert sum(each.num_texts for each in calibration_bins(labels, scores)) == len(texts)


def test_right_and_sure_is_without_error_wrong_and_sure_is_all_error() -> None:
    assert expected_calibration_error([True, False], [1.0, 0.0]) == 0
    assert expected_calibration_error([False, True], [1.0, 0.0]) == 1


def test_no_text_has_no_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        expected_calibration_error([], [])
