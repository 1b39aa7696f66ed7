"""How good a classifier is on labelled texts that it has not seen: one report, every figure with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.classifiers.bootstrap import percentile_interval, resampled_average_precisions
from tasks.classifiers.calibration import expected_calibration_error
from tasks.classifiers.proportion import Estimate, Proportion, proportion
from tasks.classifiers.scores import BoolArray, FloatArray, checked_classes

_NORMAL_95 = 1.959963984540054  # standard deviations that hold the middle 95 % of a normal distribution


@dataclass(frozen=True)
class Confusion:
    """Texts by label and decision; a text is flagged where its score is strictly above the threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


@dataclass(frozen=True)
class BinaryReport:
    """A classifier's figures on labelled texts, at one threshold and over all of them."""

    threshold: float
    num_texts: int
    num_positives: int
    roc_auc: Estimate
    average_precision: Estimate
    recall: Proportion
    """Flagged among the positive texts."""
    precision: Proportion | None
    """Positive among the flagged texts, at the share of positives that these texts have; None where none is flagged."""
    false_alarms: Proportion
    """Flagged among the labelled negative texts: often harder ones than the ordinary texts of the background."""
    expected_calibration_error: float
    confusion: Confusion

    def figures(self) -> dict[str, float]:
        """All of it under flat names, intervals as name_low and name_high; what is absent is left out."""
        figures = {
            "num_texts": float(self.num_texts),
            "num_positives": float(self.num_positives),
            "threshold": self.threshold,
            "expected_calibration_error": self.expected_calibration_error,
        }
        for name, estimate in (("roc_auc", self.roc_auc), ("average_precision", self.average_precision)):
            figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        shares = {"recall": self.recall, "precision": self.precision, "false_alarm_fraction": self.false_alarms}
        for name, share in shares.items():
            if share is not None:
                figures |= {name: share.fraction, f"{name}_low": share.low, f"{name}_high": share.high}
        return figures


def binary_report(
    labels: BoolArray | Sequence[bool], scores: FloatArray | Sequence[float], threshold: float
) -> BinaryReport:
    """Measure calibrated scores against the labels.

    Raises ValueError where a class has no text, numbers of labels and scores differ, or a score is not from 0 to 1.
    """
    labels, scores = checked_classes(labels, scores)
    confusion = confusion_at(labels, scores, threshold)
    found, flagged = confusion.true_positives, confusion.true_positives + confusion.false_positives
    num_positives = int(labels.sum())
    return BinaryReport(
        threshold=threshold,
        num_texts=len(labels),
        num_positives=num_positives,
        roc_auc=roc_auc(labels, scores),
        average_precision=average_precision(labels, scores),
        recall=proportion(found, num_positives),
        precision=proportion(found, flagged) if flagged else None,
        false_alarms=proportion(confusion.false_positives, len(labels) - num_positives),
        expected_calibration_error=expected_calibration_error(labels, scores),
        confusion=confusion,
    )


def confusion_at(labels: BoolArray, scores: FloatArray, threshold: float) -> Confusion:
    """Texts by label and decision at a threshold."""
    flagged = scores > threshold
    return Confusion(
        true_positives=int((labels & flagged).sum()),
        false_positives=int((~labels & flagged).sum()),
        false_negatives=int((labels & ~flagged).sum()),
        true_negatives=int((~labels & ~flagged).sum()),
    )


def average_precision(
    labels: BoolArray | Sequence[bool], scores: FloatArray | Sequence[float], seed: int = 0
) -> Estimate:
    """Precision averaged over the recall, with a bootstrap's interval; a perfect one, which is perfect on every
    resample, with `roc_auc`'s. Raises ValueError as `binary_report`."""
    from sklearn.metrics import average_precision_score

    labels, scores = checked_classes(labels, scores)
    value = float(average_precision_score(labels, scores))
    if value == 1.0:
        return roc_auc(labels, scores)
    return percentile_interval(value, resampled_average_precisions(labels, [scores], seed)[0])


def roc_auc(labels: BoolArray | Sequence[bool], scores: FloatArray | Sequence[float]) -> Estimate:
    """The chance that a positive text scores above a negative one, ties counted by half, with an interval.

    DeLong's variance, taken to the logit scale, where the interval stays within 0 and 1 and holds its 95 % near them
    (Qin and Hotilovac 2008, "Comparison of non-parametric confidence intervals for the area under the ROC curve").
    Where every pair is won, or every one lost, that variance is 0; the texts then make as many independent pairs as the
    smaller class has texts, and their exact interval bounds it. Raises ValueError as `binary_report`.
    """
    labels, scores = checked_classes(labels, scores)
    num_pairs = min(int(labels.sum()), int((~labels).sum()))
    areas, covariance = delong(labels, scores)
    area = float(areas[0])
    if area in (0.0, 1.0):
        pairs = proportion(round(area * num_pairs), num_pairs)
        return Estimate(area, pairs.low, pairs.high)
    if num_pairs < 2:
        return Estimate(area, 0.0, 1.0)  # one text has no variance to measure
    logit = math.log(area / (1 - area))
    margin = _NORMAL_95 * math.sqrt(covariance[0, 0]) / (area * (1 - area))
    return Estimate(area, 1 / (1 + math.exp(margin - logit)), 1 / (1 + math.exp(-margin - logit)))


def roc_auc_difference(
    labels: BoolArray | Sequence[bool], first: FloatArray | Sequence[float], second: FloatArray | Sequence[float]
) -> Estimate:
    """First area less the second, of two scores of the same texts, with DeLong's interval for such pairs.

    Raises ValueError as `binary_report`.
    """
    labels, first = checked_classes(labels, first)
    labels, second = checked_classes(labels, second)
    areas, covariance = delong(labels, first, second)
    difference = float(areas[0] - areas[1])
    if min(int(labels.sum()), int((~labels).sum())) < 2:
        return Estimate(difference, -1.0, 1.0)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    margin = _NORMAL_95 * math.sqrt(max(0.0, variance))  # of two equal scores, rounding may leave a trace below 0
    return Estimate(difference, max(-1.0, difference - margin), min(1.0, difference + margin))


def delong(labels: BoolArray, *scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Areas under the ROC curves of several scores of the same texts, and the areas' covariance; that of a class with
    one text is counted as 0.

    DeLong et al. 1988, "Comparing the areas under two or more correlated receiver operating characteristic curves",
    by ranks as Sun and Xu 2014, "Fast implementation of DeLong's algorithm".
    """
    from scipy.stats import rankdata

    num_positives, num_negatives = int(labels.sum()), int((~labels).sum())
    above = np.empty((len(scores), num_positives))  # share of the negatives that each positive beats
    below = np.empty((len(scores), num_negatives))  # share of the positives that beat each negative
    for row, each in enumerate(scores):
        ranks = rankdata(each)
        above[row] = (ranks[labels] - rankdata(each[labels])) / num_negatives
        below[row] = 1 - (ranks[~labels] - rankdata(each[~labels])) / num_positives
    covariance = np.zeros((len(scores), len(scores)))
    for shares in (above, below):
        if shares.shape[1] > 1:
            covariance += np.atleast_2d(np.cov(shares)) / shares.shape[1]
    return above.mean(axis=1), covariance
