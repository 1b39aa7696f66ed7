"""A rule as an ordered list of figures with limits, so that one definition decides, explains and can be drawn.

The first check that a document fails removes it. A preview computes every figure once, and then knows what any other
limit would do without reading a text again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.document import Decision, Document, Drop, Keep, Rewrite
from tasks.rule import Rule
from tasks.text_features import TextFeatures, features_of


@dataclass(frozen=True, slots=True)
class Check:
    """One limit of a rule.

    `threshold` names the rule's field that holds the limit. A figure strictly on the `drops` side of it removes the
    document, one that is equal does not. A figure of None: the check does not apply to this text.
    """

    reason: str
    threshold: str
    drops: Literal["below", "above"]
    figure: Callable[[TextFeatures], float | None]
    title: str
    """What the figure is, with its unit, for people: "words", "characters in repeated lines, of all"."""
    detail: Callable[[TextFeatures], str] | None = None
    prepare: Callable[[Sequence[TextFeatures]], None] | None = None
    """Computes what `figure` and `detail` need of these documents, where many at once are faster than one by one."""

    def fails(self, value: float | None, limit: float) -> bool:
        """Whether a document with this figure is dropped. A figure that is not a number fails no check."""
        if value is None or math.isnan(value):
            return False
        return value < limit if self.drops == "below" else value > limit


@dataclass(frozen=True, slots=True)
class Score:
    """What a rule makes of one document, whatever its limits.

    `text` is the text behind the rule (a formatter's new one, even where one of its checks drops the document),
    `figures` has one value for each of `checks()`, `drop` is what the rule decides with its present limits.
    """

    text: str
    figures: tuple[float | None, ...]
    drop: Drop | None


class CheckedRule(Rule):
    """A rule that is nothing but its checks. A subclass declares its fields and `checks`."""

    def checks(self) -> tuple[Check, ...]:
        """In the order in which they are applied. Raises ValueError where a model that they need is missing."""
        raise TypeError(f"{type(self).__name__} does not implement checks()")

    def build(self) -> Callable[[Document], Decision]:
        checks = self._checks_with_limits()

        def decide(document: Document) -> Decision:
            return _decision(checks, features_of(document)) if document.text.strip() else Drop("empty")

        return decide

    def build_batch(self) -> Callable[[Sequence[Document]], list[Decision]] | None:
        checks = self._checks_with_limits()
        preparations = [check.prepare for check, _ in checks if check.prepare is not None]
        if not preparations:
            return None

        def decide(documents: Sequence[Document]) -> list[Decision]:
            batch = [TextFeatures(document) if document.text.strip() else None for document in documents]
            for prepare in preparations:
                prepare([features for features in batch if features is not None])
            return [Drop("empty") if features is None else _decision(checks, features) for features in batch]

        return decide

    def build_score(self) -> Callable[[Document], Score]:
        """Every check's figure of a document, also behind the first check that drops it."""
        checks = self._checks_with_limits()

        def score(document: Document) -> Score:
            if not document.text.strip():
                return Score(document.text, (None,) * len(checks), Drop("empty"))
            features = features_of(document)
            figures = tuple(check.figure(features) for check, _ in checks)
            failed = (
                _drop(check, value, limit, features)
                for (check, limit), value in zip(checks, figures, strict=True)
                if check.fails(value, limit)
            )
            return Score(document.text, figures, next(failed, None))

        return score

    def _checks_with_limits(self) -> Sequence[tuple[Check, float]]:
        return [(check, self.limit(check.threshold)) for check in self.checks()]


def _decision(checks: Sequence[tuple[Check, float]], features: TextFeatures) -> Decision:
    for check, limit in checks:
        value = check.figure(features)
        if check.fails(value, limit):
            return _drop(check, value, limit, features)
    return Keep()


def _drop(check: Check, value: float | None, limit: float, features: TextFeatures) -> Drop:
    assert value is not None, "a figure that is not there fails no check"
    detail = check.detail(features) if check.detail is not None else None
    return Drop(check.reason, float(value), float(limit), detail)


def checks_of(rule: Rule) -> tuple[Check, ...]:
    """The checks of any rule: none where it decides without figures."""
    return rule.checks() if isinstance(rule, CheckedRule) else ()


def score_with(rule: Rule) -> Callable[[Document], Score]:
    """The score of any rule: what it decides, and its figures where it has checks."""
    if isinstance(rule, CheckedRule):
        return rule.build_score()
    decide = rule.build()

    def score(document: Document) -> Score:
        decision = decide(document)
        text = decision.text if isinstance(decision, Rewrite) else document.text
        return Score(text, (), decision if isinstance(decision, Drop) else None)

    return score
