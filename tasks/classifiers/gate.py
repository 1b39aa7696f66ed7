"""The gate before `champion`: a candidate replaces the classifier in use only where it is better beyond noise.

Both are scored on the same labelled texts and the same background of ordinary texts, of which neither has seen any. The
difference is measured on resamples that both share (a paired bootstrap), and its 95 % interval has to lie above 0: an
equal candidate is refused, because every change of a filter costs a corpus that is like no other. Beside that the
candidate has to keep a stated limit of false alarms on the background, and must not do worse than a stated amount on
any guarded slice, such as the texts that mention a group of people.

A first candidate has nothing to be better than but chance. It has to find surely more of the positive texts than it
flags of the ordinary ones, and to rank positive above negative texts surely more often than not: what never flags
anything raises no false alarm either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field

from tasks.classifiers.bootstrap import percentile_interval, resampled_average_precisions, resampled_fractions
from tasks.classifiers.metrics import roc_auc
from tasks.classifiers.proportion import Estimate, percent, proportion
from tasks.classifiers.scores import BoolArray, FloatArray, checked_labels, checked_scores
from tasks.classifiers.threshold import Threshold, false_alarms_at
from tasks.rule import Configuration

CHANCE = 0.5
"""Area under the ROC curve of scores that know nothing of the labels."""


class GateRules(Configuration):
    """What a candidate has to show."""

    metric: Literal["recall", "average_precision"] = Field(
        "average_precision",
        description="In what it has to be better: recall, each at its own threshold (a lower threshold alone raises it,"
        " up to the limit of false alarms), or average precision, which no threshold moves.",
    )
    max_false_alarm_fraction: float = Field(
        0.005, ge=0.0, lt=1.0, description="Of the background's texts, at most, that the candidate may flag."
    )
    max_slice_fall: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="Share of a guarded slice's texts, at most, by which the candidate may find fewer of the positive"
        " or flag more of the negative than the champion; all texts are such a slice, however few they are.",
    )
    min_slice_texts: int = Field(
        100,
        ge=1,
        description="Of one label, or of the background, for a slice to be guarded. With 30 slices of 30 to 400 texts,"
        " chance alone refuses 3 of 100 better candidates; guarded from 20 texts on, 69 of 100.",
    )
    min_positives: int = Field(50, ge=2, description="Labelled positive texts, unseen by all judged, to judge at all.")
    min_negatives: int = Field(50, ge=2, description="Labelled negative texts, unseen by all judged, to judge at all.")
    min_background_texts: int = Field(200, ge=1, description="Ordinary texts, unseen by all judged, to judge at all.")
    seed: int = Field(0, ge=0, description="Of the resamples.")


@dataclass(frozen=True)
class GateRows:
    """What both models are judged on: labelled texts, True for a positive, and the guarded slices as masks."""

    labels: BoolArray
    slices: Mapping[str, BoolArray] = field(default_factory=dict)
    """Of the labelled texts, by name (`tasks.classifiers.slices.slice_masks`)."""
    background_slices: Mapping[str, BoolArray] = field(default_factory=dict)
    """Of the background's texts."""


@dataclass(frozen=True)
class Scored:
    """One model on those texts: calibrated scores, and the threshold strictly above which it flags."""

    name: str
    """As people know it: `toxicity@4`."""
    sha256: str
    threshold: float
    scores: FloatArray
    background_scores: FloatArray


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes champion, why in one sentence, and every figure that was looked at."""

    passed: bool
    why: str
    figures: dict[str, float]


def judge(candidate: Scored, champion: Scored | None, rows: GateRows, rules: GateRules) -> Verdict:
    """Judge the candidate against the champion; where there is none yet, against chance.

    Raises ValueError where scores, labels and slices do not fit each other, or a score is not from 0 to 1.
    """
    _check(rows, *[each for each in (candidate, champion) if each is not None])
    num_positives = int(rows.labels.sum())
    figures = {
        "num_positives": float(num_positives),
        "num_negatives": float(len(rows.labels) - num_positives),
        "num_background_texts": float(len(candidate.background_scores)),
    }
    if champion is not None and champion.sha256 == candidate.sha256:
        return Verdict(False, f"{candidate.name} is the champion {champion.name} itself, file for file.", figures)
    if (too_few := _too_few(candidate, rows, rules)) is not None:
        return Verdict(False, too_few, figures)

    alarms = false_alarms_at(candidate.threshold, candidate.background_scores)
    figures |= {"false_alarm_fraction": alarms.fraction} | _ends("false_alarm_fraction", alarms.low, alarms.high)
    alarms_are = f"{alarms.false_alarms:,} of {alarms.num_texts:,} ordinary texts ({percent(alarms.fraction)})"
    limit = percent(rules.max_false_alarm_fraction)
    if alarms.false_alarms > Fraction(str(rules.max_false_alarm_fraction)) * alarms.num_texts:
        return Verdict(False, f"{candidate.name} flags {alarms_are}, above the limit of {limit}.", figures)
    if champion is None:
        return _against_chance(candidate, rows, alarms, f"flags {alarms_are}, limit {limit}", figures)

    compared = _compared(candidate, champion, rows, rules)
    for metric, (ours, theirs, difference) in compared.items():
        figures |= {metric: ours, f"champion_{metric}": theirs, f"{metric}_difference": difference.value}
        figures |= _ends(f"{metric}_difference", difference.low, difference.high)
    before = false_alarms_at(champion.threshold, champion.background_scores)
    figures["champion_false_alarm_fraction"] = before.fraction
    ours, theirs, difference = compared[rules.metric]
    comparison = (
        f"{rules.metric.replace('_', ' ')} {ours:.3f} against {theirs:.3f} of {champion.name} on"
        f" {len(rows.labels):,} texts, {num_positives:,} of them positive (difference {difference.value:+.3f},"
        f" 95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    )
    if difference.high < 0:
        return Verdict(False, f"{candidate.name} is worse: {comparison}.", figures)
    if difference.low <= 0:
        return Verdict(False, f"{candidate.name} differs by not more than noise: {comparison}.", figures)
    falls = sorted(_falls(candidate, champion, rows, rules), key=lambda fall: (-fall.fraction, fall.text))
    if falls:
        figures["num_slices_fallen"] = float(len(falls))
        others = f", and {len(falls) - 1:,} more slices fall too far" if len(falls) > 1 else ""
        allowed = percent(rules.max_slice_fall)
        return Verdict(False, f"{candidate.name}: {falls[0].text}, more than the allowed {allowed}{others}.", figures)
    return Verdict(True, f"{candidate.name} is better: {comparison}; it flags {alarms_are}, limit {limit}.", figures)


def _check(rows: GateRows, *models: Scored) -> None:
    num_background = len(models[0].background_scores)
    for model in models:
        checked_labels(rows.labels, len(checked_scores(model.scores)))
        if len(checked_scores(model.background_scores)) != num_background:
            raise ValueError(
                f"{model.name} was scored on {len(model.background_scores):,} background texts, {models[0].name} on"
                f" {num_background:,}; score both on the same texts"
            )
    for masks, num_texts in ((rows.slices, len(rows.labels)), (rows.background_slices, num_background)):
        for name, mask in masks.items():
            if len(mask) != num_texts:
                raise ValueError(f"slice {name!r} is of {len(mask):,} texts, but there are {num_texts:,}")


def _too_few(candidate: Scored, rows: GateRows, rules: GateRules) -> str | None:
    """What there is too little of to judge."""
    num_positives = int(rows.labels.sum())
    needs = (
        ("ordinary", len(candidate.background_scores), rules.min_background_texts),
        ("labelled positive", num_positives, rules.min_positives),
        ("labelled negative", len(rows.labels) - num_positives, rules.min_negatives),
    )
    for kind, num_texts, min_texts in needs:
        if num_texts < min_texts:
            return (
                f"Too few texts to judge {candidate.name}: {num_texts:,} {kind} texts that no compared model has seen,"
                f" at least {min_texts:,} are needed."
            )
    return None


def _against_chance(
    candidate: Scored, rows: GateRows, alarms: Threshold, alarms_told: str, figures: dict[str, float]
) -> Verdict:
    """What the first candidate has to show beside few false alarms, each by the unfavourable end of its interval."""
    found = candidate.scores[rows.labels] > candidate.threshold
    recall, area = proportion(int(found.sum()), len(found)), roc_auc(rows.labels, candidate.scores)
    figures = figures | {"recall": recall.fraction} | _ends("recall", recall.low, recall.high)
    figures |= {"roc_auc": area.value} | _ends("roc_auc", area.low, area.high)
    told = f"There is no champion yet, and {candidate.name}"
    if recall.low <= alarms.high:
        why = (
            f"{told} does not surely find more of the positive texts than it flags of ordinary ones: recall {recall},"
            f" false alarms {proportion(alarms.false_alarms, alarms.num_texts)}."
        )
        return Verdict(False, why, figures)
    if area.low <= CHANCE:
        why = f"{told} does not surely rank positive texts above negative ones: ROC AUC {area}, by chance {CHANCE}."
        return Verdict(False, why, figures)
    return Verdict(True, f"{told} {alarms_told}, and is better than chance: recall {recall}, ROC AUC {area}.", figures)


def _compared(
    candidate: Scored, champion: Scored, rows: GateRows, rules: GateRules
) -> dict[str, tuple[float, float, Estimate]]:
    """Candidate's figure, champion's figure and their difference, for each metric."""
    from sklearn.metrics import average_precision_score

    found = candidate.scores[rows.labels] > candidate.threshold
    found_before = champion.scores[rows.labels] > champion.threshold
    gains = found.astype(np.float64) - found_before
    ours, theirs = (float(average_precision_score(rows.labels, each.scores)) for each in (candidate, champion))
    resampled = resampled_average_precisions(rows.labels, [candidate.scores, champion.scores], rules.seed)
    return {
        "recall": (
            float(found.mean()),
            float(found_before.mean()),
            percentile_interval(float(gains.mean()), resampled_fractions(gains, rules.seed)),
        ),
        "average_precision": (ours, theirs, percentile_interval(ours - theirs, resampled[0] - resampled[1])),
    }


def _ends(name: str, low: float, high: float) -> dict[str, float]:
    return {f"{name}_low": low, f"{name}_high": high}


@dataclass(frozen=True)
class _Fall:
    """A guarded slice on which the candidate does worse than it may."""

    fraction: float
    text: str


def _falls(candidate: Scored, champion: Scored, rows: GateRows, rules: GateRules) -> Iterator[_Fall]:
    flagged, flagged_before = candidate.scores > candidate.threshold, champion.scores > champion.threshold
    alarms = candidate.background_scores > candidate.threshold
    alarms_before = champion.background_scores > champion.threshold
    everything = np.ones(len(rows.labels), dtype=np.bool_)
    of_all = [("all texts", everything, 1)]  # of which there are enough, or nothing is judged
    for name, mask, min_texts in (*of_all, *((*each, rules.min_slice_texts) for each in rows.slices.items())):
        positives, negatives = mask & rows.labels, mask & ~rows.labels
        missed, missed_before = ~flagged[positives], ~flagged_before[positives]
        alarmed, alarmed_before = flagged[negatives], flagged_before[negatives]
        if len(missed) >= min_texts:
            yield from _fall("misses", f"positive texts of {name!r}", missed, missed_before, rules)
        if len(alarmed) >= min_texts:
            yield from _fall("flags", f"negative texts of {name!r}", alarmed, alarmed_before, rules)
    for name, mask in rows.background_slices.items():
        if mask.sum() >= rules.min_slice_texts:
            yield from _fall("flags", f"ordinary texts of {name!r}", alarms[mask], alarms_before[mask], rules)


def _fall(verb: str, texts: str, wrong: BoolArray, wrong_before: BoolArray, rules: GateRules) -> Iterator[_Fall]:
    """The fall, where it is one: compared in texts, as the decimal that was written, so that the limit itself holds."""
    num_more = int(wrong.sum()) - int(wrong_before.sum())
    if num_more <= Fraction(str(rules.max_slice_fall)) * len(wrong):
        return
    fraction = num_more / len(wrong)
    text = f"it {verb} {wrong.sum():,} of {len(wrong):,} {texts}, the champion {wrong_before.sum():,} ({fraction:+.1%})"
    yield _Fall(fraction, text)
