"""A classifier's scores made into probabilities: Platt's sigmoid on the logit of the score.

fastText's softmax is surer than it is right. Platt's two numbers, fitted on labelled texts that it was not trained on,
correct that and keep the order of the scores (Platt 1999, "Probabilistic outputs for support vector machines"). What
comes out is the probability among texts like those: where fewer texts are positive, as on the open web, so are fewer of
those that score .9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from tasks.classifiers.scores import BoolArray, FloatArray, checked_classes, checked_labels, checked_scores
from tasks.rule import Configuration

CLIP = 1e-7
"""A score is taken to be at least this far from 0 and 1: fastText computes in single precision, which has no number
closer to 1 than 6e-8, and calls 1 what is nearer."""

NUM_BINS = 15
"""Of equal width: Guo et al. 2017, "On calibration of modern neural networks"."""

_MAX_EXPONENT = 700.0  # e**710 is no longer a double


class Calibration(Configuration):
    """Platt's sigmoid: 1 / (1 + exp(-(slope * logit(score) + intercept))). The default changes nothing."""

    slope: float = Field(1.0, gt=0.0, description="Factor of the score's logit; below 1 the score was too sure.")
    intercept: float = Field(0.0, description="Added to it; below 0 the score was too high.")

    def probability(self, score: float) -> float:
        """The probability that belongs to a score. Never falls where the score rises."""
        clipped = min(max(score, CLIP), 1.0 - CLIP)
        logit = math.log(clipped / (1.0 - clipped))
        return 1.0 / (1.0 + math.exp(min(-(self.slope * logit + self.intercept), _MAX_EXPONENT)))

    def probabilities(self, scores: Iterable[float]) -> list[float]:
        """Those of many scores, each the same to the last bit as `probability` gives it: numpy's exp and log differ
        there between processors, and a text on the threshold must not be flagged on one machine alone."""
        return [self.probability(score) for score in scores]

    def array(self, scores: FloatArray) -> FloatArray:
        """The same as an array."""
        return np.array(self.probabilities(scores.tolist()), dtype=np.float64)


def fit_calibration(labels: BoolArray | Sequence[bool], scores: FloatArray | Sequence[float]) -> Calibration:
    """The sigmoid that makes the labels most likely, with Platt's smoothed targets, which keep it finite where the
    scores separate the classes.

    Raises ValueError where a class has no text, a score is not from 0 to 1, or higher scores go with fewer positives.
    """
    from sklearn.linear_model import LogisticRegression

    labels, scores = checked_classes(labels, scores)
    clipped = np.clip(scores, CLIP, 1.0 - CLIP)
    logits = np.log(clipped / (1.0 - clipped))[:, None]
    num_positives, num_negatives = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))
    slope = intercept = 0.0
    if np.ptp(logits):  # one score for all texts has no slope
        # A text with the target t is a positive with the weight t and a negative with the weight 1 - t.
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=200)
        model.fit(
            np.concatenate([logits, logits]),
            np.concatenate([np.ones(len(labels)), np.zeros(len(labels))]),
            sample_weight=np.concatenate([targets, 1.0 - targets]),
        )
        slope, intercept = round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)
    if slope <= 0:
        raise ValueError(
            f"the scores do not rise with the labels (slope {slope:g} on {num_positives:,} positive and"
            f" {num_negatives:,} negative texts): a classifier that ranks no better than chance cannot be calibrated;"
            " look at its labels and its training"
        )
    return Calibration(slope=slope, intercept=intercept)


@dataclass(frozen=True)
class CalibrationBin:
    """The texts whose probability is from `low` to below `high` (the last bin: to 1)."""

    low: float
    high: float
    num_texts: int
    num_positives: int
    mean_probability: float

    @property
    def positive_fraction(self) -> float:
        return self.num_positives / self.num_texts


def calibration_bins(
    labels: BoolArray | Sequence[bool], probabilities: FloatArray | Sequence[float]
) -> tuple[CalibrationBin, ...]:
    """The bins that have texts, lowest first. Raises ValueError where a probability is not from 0 to 1."""
    probabilities = checked_scores(probabilities)
    labels = checked_labels(labels, len(probabilities))
    places = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    nums = np.bincount(places, minlength=NUM_BINS)
    positives = np.bincount(places[labels], minlength=NUM_BINS)
    sums = np.bincount(places, weights=probabilities, minlength=NUM_BINS)
    return tuple(
        CalibrationBin(
            place / NUM_BINS,
            (place + 1) / NUM_BINS,
            int(nums[place]),
            int(positives[place]),
            float(sums[place] / nums[place]),
        )
        for place in np.flatnonzero(nums).tolist()
    )


def expected_calibration_error(
    labels: BoolArray | Sequence[bool], probabilities: FloatArray | Sequence[float]
) -> float:
    """How far the probabilities are from the shares of positives, on average over the texts: 0 at best, 1 at worst.

    Raises ValueError where there is no text, or a probability is not from 0 to 1.
    """
    bins = calibration_bins(labels, probabilities)
    if not bins:
        raise ValueError("there is no labelled text to measure the calibration on; give at least one")
    distances = (each.num_texts * abs(each.mean_probability - each.positive_fraction) for each in bins)
    return math.fsum(distances) / sum(each.num_texts for each in bins)
