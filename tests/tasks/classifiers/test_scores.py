"""Labels and scores are refused where they could not be meant."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.classifiers.scores import checked_classes, checked_labels, checked_scores


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -5e-324, math.nextafter(1, 2)])
def test_a_score_that_is_none_is_refused_with_its_place(score: float) -> None:
    with pytest.raises(ValueError, match=r"score 2 of 3 is .*from 0 to 1"):
        checked_scores([0.0, score, 1.0])


def test_both_ends_are_scores() -> None:
    assert checked_scores([0.0, 1.0, 5e-324]).dtype == np.float64
    assert len(checked_scores([])) == 0


def test_single_precision_keeps_its_value() -> None:
    assert checked_scores(np.array([0.1], dtype=np.float32))[0] == float(np.float32(0.1))


def test_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        checked_scores(np.zeros((2, 2)))


def test_labels_are_booleans_one_for_each_score() -> None:
    with pytest.raises(ValueError, match="3 scores"):
        checked_labels([True, False], 3)
    with pytest.raises(ValueError, match="booleans"):
        checked_labels(np.array([0, 1]), 2)
    assert checked_labels([], 0).dtype == np.bool_


@pytest.mark.parametrize("label", [True, False])
def test_one_class_measures_nothing(label: bool) -> None:
    with pytest.raises(ValueError, match="both positive and negative"):
        checked_classes([label, label], [0.1, 0.2])
    with pytest.raises(ValueError, match="both positive and negative"):
        checked_classes([], [])
