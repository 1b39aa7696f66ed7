"""What a figure would have been on other texts of the same kind: the texts drawn again, with replacement.

Positive and negative texts are drawn apart, so that every resample has as many of each (Efron and Tibshirani 1993, "An
introduction to the bootstrap", chapter 8). Models are compared on the same resamples: what makes a resample hard is
hard for both, and only their difference is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.classifiers.proportion import Estimate
from tasks.classifiers.scores import BoolArray, FloatArray

NUM_RESAMPLES = 2000
_MAX_DRAWS = 2_000_000  # at a time: some 100 MB

IntArray = npt.NDArray[np.int64]


def resampled_counts(labels: BoolArray, seed: int) -> Iterator[IntArray]:
    """How often each text is in each resample: arrays of (resamples, texts), `NUM_RESAMPLES` resamples in all."""
    draw = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    num_at_a_time = max(1, _MAX_DRAWS // len(labels))
    for first in range(0, NUM_RESAMPLES, num_at_a_time):
        num = min(num_at_a_time, NUM_RESAMPLES - first)
        counts = np.zeros((num, len(labels)), dtype=np.int64)
        for texts in strata:
            if len(texts):
                places = draw.integers(len(texts), size=(num, len(texts))) + np.arange(num)[:, None] * len(texts)
                drawn = np.bincount(places.ravel(), minlength=num * len(texts))
                counts[:, texts] = drawn.reshape(num, len(texts))
        yield counts


def resampled_average_precisions(labels: BoolArray, models: Sequence[FloatArray], seed: int) -> FloatArray:
    """Average precision of each model's scores on each resample: an array of (models, resamples)."""
    rankings = [_Ranking(labels, scores) for scores in models]
    parts = [[ranking.average_precisions(counts) for ranking in rankings] for counts in resampled_counts(labels, seed)]
    return np.concatenate([np.array(part) for part in parts], axis=1)


def resampled_fractions(values: FloatArray, seed: int) -> FloatArray:
    """Mean of the texts' values on each resample, for texts of one class."""
    same_class = np.ones(len(values), dtype=np.bool_)
    return np.concatenate([counts @ values / len(values) for counts in resampled_counts(same_class, seed)])


def percentile_interval(value: float, resampled: FloatArray) -> Estimate:
    """The figure with the middle 95 % of what it was on the resamples."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


class _Ranking:
    """One model's texts, highest score first, texts with the same score together: they are flagged together."""

    def __init__(self, labels: BoolArray, scores: FloatArray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last text of each score
        self.is_positive = labels[self.order].astype(np.int64)

    def average_precisions(self, counts: IntArray) -> FloatArray:
        """Sum over the scores of (gain in recall) x precision, as scikit-learn defines it, for each resample."""
        ranked = counts[:, self.order]
        num_flagged = np.cumsum(ranked, axis=1)[:, self.ends]
        num_found = np.cumsum(ranked * self.is_positive, axis=1)[:, self.ends]
        gains = np.diff(num_found, axis=1, prepend=0)
        precisions = num_found / np.maximum(num_flagged, 1)
        result: FloatArray = (gains * precisions).sum(axis=1) / num_found[:, -1]
        return result
