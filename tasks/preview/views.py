"""What a preview says, put together for a page: every rule with its checks, their pictures, and borderline examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from tasks.checks import Check
from tasks.language import LanguageRule
from tasks.preview.charts import Axis, Floats, Histogram, axis_for, curve_thresholds, histogram, line, number
from tasks.preview.decide import CheckOutcome, Removed, RuleOutcome, nearest, retention
from tasks.preview.run import Chain, Changed, Comparison
from tasks.preview.scores import Excerpt
from tasks.rule import Rule

HISTOGRAM_HEIGHT, CURVE_HEIGHT = 92.0, 84.0
EXAMPLES = 3
"""Documents shown on each side of a limit."""
FLIPS = 12
"""Documents shown that changed settings bring in, and that they take out."""
_OTHER_LIMITS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)


@dataclass(frozen=True)
class Example:
    """A document near a limit."""

    excerpt: Excerpt
    figure: str
    fate: str
    """What becomes of it in the end: kept, or the rule and reason that remove it."""


@dataclass(frozen=True)
class OtherLimit:
    """What another limit would keep."""

    limit: str
    is_present: bool
    alone: float
    chain: float


@dataclass(frozen=True)
class Picture:
    """Histogram and curve on one axis."""

    axis: Axis
    histogram: Histogram
    alone: str
    chain: str
    limits: tuple[tuple[float, str], ...]
    """(place, label) of the limit; several where it differs by language."""
    earlier: float | None
    """Place of the limit before the settings were changed."""


@dataclass(frozen=True)
class CheckView:
    """One check."""

    check: Check
    setting: str
    """How its limit is set: gopher_quality.min_words."""
    outcome: CheckOutcome
    limit: str
    comparison: str
    """at least, at most."""
    num_applies: int
    """Documents that it applies to."""
    picture: Picture | None
    """None where it applies to no document."""
    other_limits: tuple[OtherLimit, ...]
    kept: tuple[Example, ...]
    dropped: tuple[Example, ...]


@dataclass(frozen=True)
class RuleView:
    """One rule."""

    label: str
    anchor: str
    stage: str
    meaning: str
    outcome: RuleOutcome
    earlier: Removed | None
    """By the recipe without the changed settings."""
    checks: tuple[CheckView, ...]
    num_changed: int
    chars_removed_fraction: float
    others: tuple[tuple[str, Removed, tuple[Example, ...]], ...]


@dataclass(frozen=True)
class Flip:
    """A document that changed settings bring in or take out."""

    stage: str
    reason: str
    excerpt: Excerpt


def anchor_of(label: str) -> str:
    """The rule's place on the page."""
    return f"rule-{label.replace(' ', '-')}"


def rule_views(chain: Chain, before: Chain | None) -> Iterator[RuleView]:
    """Every rule in order, the language first."""
    earlier = dict(zip(before.labels, before.decided.rules, strict=True)) if before else {}
    earlier_rules = dict(zip(before.labels, before.rules, strict=True)) if before else {}
    for index, (scores, rule) in enumerate(zip(chain.scores, chain.rules, strict=True)):
        label, outcome = scores.scored.label, chain.decided.rules[index]
        yield RuleView(
            label,
            anchor_of(label),
            scores.scored.stage,
            " ".join((type(rule).__doc__ or "").split("\n\n")[0].replace("`", "").split()),
            outcome,
            earlier[label].removed if label in earlier else None,
            tuple(
                _check_view(chain, index, number_, earlier_rules.get(label))
                for number_ in range(len(scores.scored.checks))
            ),
            scores.num_changed,
            1 - scores.chars_behind / max(scores.chars_in, 1),
            tuple(
                (reason, removed, _examples(chain, index, np.flatnonzero(scores.reasons == reason)[:EXAMPLES].tolist()))
                for reason, removed in outcome.other_reasons
            ),
        )


def _check_view(chain: Chain, index: int, number_: int, earlier: Rule | None) -> CheckView:
    scores, rule = chain.scores[index], chain.rules[index]
    check, outcome = scores.scored.checks[number_], chain.decided.rules[index].checks[number_]
    column = scores.figures[:, number_]
    applies = ~np.isnan(column)
    finite = np.isfinite(column)
    kept, dropped = nearest(scores, rule, number_, EXAMPLES)
    return CheckView(
        check,
        f"{scores.scored.label.replace(' ', '-')}.{check.threshold}",
        outcome,
        " / ".join(map(number, outcome.limits)),
        "at least" if check.drops == "below" else "at most",
        int(applies.sum()),
        _picture(chain, index, number_, column[finite], finite, earlier) if finite.any() else None,
        tuple(_other_limits(chain, index, number_)) if finite.any() else (),
        _examples(chain, index, kept, number_),
        _examples(chain, index, dropped, number_),
    )


def _picture(
    chain: Chain,
    index: int,
    number_: int,
    figures: Floats,
    finite: np.ndarray[tuple[int], np.dtype[np.bool_]],
    earlier: Rule | None,
) -> Picture:
    scores, rule = chain.scores[index], chain.rules[index]
    outcome = chain.decided.rules[index].checks[number_]
    old = _earlier_limit(scores.scored.checks[number_], rule, earlier)
    axis = axis_for(figures, outcome.limits + (() if old is None else (old,)))
    failed = scores.fails(scores.limits(rule))[finite, number_]
    curve = retention(
        chain.scores,
        chain.rules,
        index,
        number_,
        curve_thresholds(axis, outcome.limits[0], figures),
    )
    return Picture(
        axis,
        histogram(figures, failed, outcome.limits, axis, HISTOGRAM_HEIGHT),
        line(curve.thresholds, curve.alone, axis, CURVE_HEIGHT),
        line(curve.thresholds, curve.chain, axis, CURVE_HEIGHT),
        tuple((axis.place(limit), number(limit)) for limit in outcome.limits),
        None if old is None else axis.place(old),
    )


def _earlier_limit(check: Check, rule: Rule, earlier: Rule | None) -> float | None:
    """The limit before the settings were changed, where it was another."""
    if earlier is None or type(earlier) is not type(rule):
        return None
    old = _limit(check, earlier)
    return old if old != _limit(check, rule) else None


def _limit(check: Check, rule: Rule) -> float:
    """In force; of a language rule that for languages without one of their own."""
    return rule.min_score_of("") if isinstance(rule, LanguageRule) else rule.limit(check.threshold)


def _other_limits(chain: Chain, index: int, number_: int) -> Iterator[OtherLimit]:
    """Round figures around the limit, and what they would keep."""
    scores, rule = chain.scores[index], chain.rules[index]
    check = scores.scored.checks[number_]
    limits = chain.decided.rules[index].checks[number_].limits
    if len(limits) != 1:
        return
    figures = scores.figures[:, number_]
    is_whole = isinstance(getattr(rule, check.threshold), int)
    candidates = [limits[0] * factor for factor in _OTHER_LIMITS]
    if limits[0] == 0:
        candidates += np.quantile(figures[np.isfinite(figures)], [0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
    rounded = {limits[0], *(float(round(each)) if is_whole else float(f"{each:.3g}") for each in candidates)}
    allowed = sorted(each for each in rounded if each == limits[0] or _is_allowed(rule, check.threshold, each))
    curve = retention(chain.scores, chain.rules, index, number_, np.array(allowed))
    for limit, alone, kept in zip(allowed, curve.alone, curve.chain, strict=True):
        yield OtherLimit(number(limit), limit == limits[0], float(alone), float(kept))


def _is_allowed(rule: Rule, field: str, value: float) -> bool:
    is_whole = isinstance(getattr(rule, field), int)
    try:
        type(rule).model_validate(rule.model_dump() | {field: int(value) if is_whole else value})
    except ValidationError:
        return False
    return True


def _examples(chain: Chain, index: int, places: Sequence[int], number_: int | None = None) -> tuple[Example, ...]:
    scores = chain.scores[index]
    excerpts = scores.excerpts(places, chain.recipe.hide)
    figures = ["" if number_ is None else number(float(scores.figures[place, number_])) for place in places]
    return tuple(
        Example(excerpts[place], figure, _fate(chain, place)) for place, figure in zip(places, figures, strict=True)
    )


def _fate(chain: Chain, place: int) -> str:
    rule = int(chain.decided.dropped_by[place])
    if rule < 0:
        return "kept in the end"
    return f"removed by {chain.labels[rule]}: {chain.reason(place)[1]}".replace("_", " ")


def flips(comparison: Comparison, after: Chain) -> Mapping[str, tuple[Flip, ...]]:
    """Documents that the settings bring in ("gained") and take out ("lost"), some of each."""
    return {
        "gained": _flips(comparison.before, comparison.gained),
        "lost": _flips(after, comparison.lost),
    }


def _flips(chain: Chain, changes: Sequence[Changed]) -> tuple[Flip, ...]:
    """The first of each reason, then the second, and so on."""
    by_reason: dict[tuple[str, str], list[Changed]] = {}
    for change in changes:
        by_reason.setdefault((change.stage, change.reason), []).append(change)
    rounds = [
        group[depth]
        for depth in range(max(map(len, by_reason.values()), default=0))
        for group in by_reason.values()
        if depth < len(group)
    ]
    shown = rounds[:FLIPS]
    by_rule: dict[int, list[int]] = {}
    for change in shown:
        if change.place >= 0:
            by_rule.setdefault(int(chain.decided.dropped_by[change.place]), []).append(change.place)
    excerpts = {
        place: excerpt
        for rule, places in by_rule.items()
        for place, excerpt in chain.scores[rule].excerpts(places, chain.recipe.hide).items()
    }
    nothing = Excerpt("", "", "", "", 0)
    return tuple(
        Flip(
            change.stage,
            change.reason,
            excerpts.get(change.place, nothing)
            if change.place >= 0
            else Excerpt(change.record_id, change.url, "", "", 0),
        )
        for change in shown
    )


def before_rules(chain: Chain) -> list[tuple[str, str, int]]:
    """(stage, reason, records) of what no rule was asked about."""
    counts: dict[tuple[str, str], int] = {}
    for outcome in chain.ended.values():
        counts[outcome.stage, outcome.reason] = counts.get((outcome.stage, outcome.reason), 0) + 1
    order = ("read", "url_filter", "extract", "language")
    return sorted(
        ((stage, reason, count) for (stage, reason), count in counts.items()),
        key=lambda row: (order.index(row[0]), -row[2], row[1]),
    )
