"""The gate before `champion`: a model replaces the one that others get by name only where it is better beyond noise.

Candidate and champion are asked the same examples now; no figure of an earlier evaluation is taken. The candidate has
to be finite, better on one stated measure by a difference whose paired 95 % interval leaves out 0, and surely worse on
none of the guarded ones: a guarded measure stops it where the whole interval lies below what it is allowed to lose, and
where nothing can be told of it. An equal candidate is refused, because everybody who uses the name gets another model.

A perplexity may be infinite although every example has a finite number. It tells nothing then, of either model.

The first candidate has nothing to be better than but chance: what a guess gets, or for bits per byte what the uniform
distribution over its vocabulary would need on the same documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from tasks.evaluation.compare import Comparison, compare, interval
from tasks.evaluation.intervals import MIN_EXAMPLES
from tasks.evaluation.measures import BITS_PER_BYTE, Measure, ModelScores
from tasks.rule import Configuration


class ModelGateRules(Configuration):
    """What a candidate has to show."""

    metric: str = Field(BITS_PER_BYTE, min_length=1, description="The measure on which it has to be better.")
    guarded: Mapping[str, float] = Field(
        {}, description="Measures on which it must not be surely worse by more than so much, in the measure's own unit."
    )


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate becomes champion, why in one sentence, and every figure that was looked at."""

    passed: bool
    why: str
    figures: dict[str, float]

    @property
    def json_figures(self) -> dict[str, float | None]:
        """None for what is no finite number, which JSON has not."""
        return {name: value if math.isfinite(value) else None for name, value in self.figures.items()}


def judge_model(candidate: ModelScores, champion: ModelScores | None, rules: ModelGateRules) -> Verdict:
    """Judge the candidate against the champion; where there is none yet, against chance.

    Raises ValueError where a measure of the rules was not taken, or not on the same examples of both.
    """
    if broken := candidate.not_finite:
        others = f" and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        figures = {name: candidate.measure(name).estimate().value for name in broken}
        return Verdict(False, f"{candidate.reference} is not finite: {broken[0]}{others}", figures)
    asked = list(dict.fromkeys((rules.metric, *rules.guarded)))
    figures = {name: candidate.measure(name).estimate().value for name in asked}
    if champion is None:
        return _against_chance(candidate, rules, figures, "there is no champion yet")
    if champion.sha256 == candidate.sha256:
        why = f"{candidate.reference} has the weights of the champion {champion.reference} itself"
        return Verdict(False, why, figures)
    against = f"the champion {champion.reference}"
    if champion.not_finite:
        return _against_chance(candidate, rules, figures, f"{against} is not finite")
    found = {name: compare(candidate.measure(name), champion.measure(name)) for name in asked}
    for comparison in found.values():
        figures |= comparison_figures(comparison)
    main = found[rules.metric]
    told = f"{rules.metric} {main}"
    if main.told == "not finite":
        why = f"{candidate.reference} can't be told from {against} on {told}; name another measure"
        return Verdict(False, why, figures)
    if main.told == "worse":
        return Verdict(False, f"{candidate.reference} is worse than {against}: {told}", figures)
    if main.told != "better":
        return Verdict(False, f"{candidate.reference} differs from {against} by not more than noise: {told}", figures)
    if untold := [found[name] for name in rules.guarded if not can_guard(found[name])]:
        why = (
            f"{candidate.reference} is better than {against} ({told}), but nothing can be told of what is guarded:"
            f" {untold[0].name} {untold[0]}; give it at least {MIN_EXAMPLES} examples and finite figures"
        )
        return Verdict(False, why, figures)
    fallen = [found[name] for name, allowed in rules.guarded.items() if has_fallen(found[name], allowed)]
    if fallen:
        others = f", and of {len(fallen) - 1:,} more" if len(fallen) > 1 else ""
        allowed = rules.guarded[fallen[0].name]
        limit = f"more than the allowed {allowed:g} below" if allowed else "below"
        why = (
            f"{candidate.reference} is better than {against} ({told}), but surely {limit} it in what is guarded:"
            f" {fallen[0].name} {fallen[0]}{others}"
        )
        return Verdict(False, why, figures)
    held = [
        f"{name} (difference {found[name].difference.value:+.4f}, allowed {allowed:g})"
        for name, allowed in rules.guarded.items()
    ]
    guarded = f"; not surely worse by more than allowed in {', '.join(held)}" if held else ""
    return Verdict(True, f"{candidate.reference} is better than {against}: {told}{guarded}", figures)


def can_guard(comparison: Comparison) -> bool:
    """Whether a fall could show: of few examples no interval leaves out 0, and infinite figures have none."""
    return comparison.told != "not finite" and comparison.num_examples >= MIN_EXAMPLES


def has_fallen(comparison: Comparison, allowed: float) -> bool:
    """Whether the candidate is surely worse by more than `allowed`: a fall of that size itself is let through."""
    assert can_guard(comparison), comparison.name
    return comparison.gain.high < -allowed


def _against_chance(candidate: ModelScores, rules: ModelGateRules, figures: dict[str, float], because: str) -> Verdict:
    """By the unfavourable end of the interval; on held-out text where it can't be said what chance gives."""
    measure = candidate.measure(rules.metric)
    if measure.chance is None:
        measure = candidate.measure(BITS_PER_BYTE)
    estimate = measure.estimate()
    if measure.chance is None:
        assert isinstance(measure, Measure)
        chance, passed = candidate.uniform.estimate().value, measure.difference(candidate.uniform).high < 0
    else:
        chance, passed = measure.chance, estimate.low > measure.chance
    name = measure.name
    figures = figures | {f"{name}_low": estimate.low, f"{name}_high": estimate.high, f"{name}_chance": chance}
    better = "is better than chance" if passed else "is not surely better than chance"
    value = f"{name} {estimate.value:.4f} ({interval(estimate)})"
    return Verdict(passed, f"{candidate.reference} {better} ({because}): {value}, by chance {chance:.4f}", figures)


def comparison_figures(comparison: Comparison) -> dict[str, float]:
    """A comparison as figures by name, for the record."""
    name, difference = comparison.name, comparison.difference
    return {
        f"{name}_champion": comparison.theirs,
        f"{name}_difference": difference.value,
        f"{name}_difference_low": difference.low,
        f"{name}_difference_high": difference.high,
    }
