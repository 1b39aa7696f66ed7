"""The threshold of a classifier, chosen for a stated rate of false alarms on a stated background of ordinary texts.

A text is flagged where its score is strictly above the threshold. The threshold is therefore a score of the background
itself: of those allowed to be false alarms, the highest scores, it is the next one below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tasks.classifiers.proportion import percent, proportion
from tasks.classifiers.scores import FloatArray, checked_scores


@dataclass(frozen=True)
class Threshold:
    """A threshold and its false alarms: how many of the background's texts score strictly above it."""

    value: float
    false_alarms: int
    num_texts: int
    fraction: float
    """False alarms among the texts; `low` and `high` are the ends of its 95 % interval (Clopper and Pearson)."""
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.value:.4g}: {self.false_alarms:,} of {self.num_texts:,} ordinary texts score above it,"
            f" {percent(self.fraction)} ({percent(self.low)} to {percent(self.high)})"
        )


def choose_threshold(background_scores: FloatArray | Sequence[float], false_alarm_fraction: float) -> Threshold:
    """The lowest threshold above which at most `false_alarm_fraction` of the background's texts score.

    It is fitted to this background: on other texts of the same kind, the share comes out higher about as often as
    lower, which is why the rate to report is that of texts that were not used here (`false_alarms_at`). Raises
    ValueError where there is no text, a score is not from 0 to 1, or the fraction is not from 0 to below 1.
    """
    scores = checked_scores(background_scores)
    if not 0 <= false_alarm_fraction < 1:
        raise ValueError(f"a false-alarm rate of {false_alarm_fraction} cannot be asked for; give 0 to below 1")
    if not len(scores):
        raise ValueError("there is no background text to choose a threshold on; give ordinary texts")
    # As the decimal that was written: in binary, .29 of 100 texts would be 28.
    num_allowed = math.floor(Fraction(str(float(false_alarm_fraction))) * len(scores))
    highest_first = np.sort(scores)[::-1]
    return false_alarms_at(float(highest_first[num_allowed]), scores)


def false_alarms_at(value: float, background_scores: FloatArray | Sequence[float]) -> Threshold:
    """The false alarms of a given threshold. Raises ValueError where there is no text, or a score is not 0 to 1."""
    scores = checked_scores(background_scores)
    if not len(scores):
        raise ValueError("there is no background text to count false alarms on; give ordinary texts")
    share = proportion(int((scores > value).sum()), len(scores))
    return Threshold(value, share.num_hits, share.num_trials, share.fraction, share.low, share.high)
