"""A rule as a list of checks: the first that fails decides, all of them can be read, and both say the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import pytest

from tasks.checks import Check, CheckedRule, Score, checks_of, score_with
from tasks.document import Document, Drop, Keep, Rewrite
from tasks.filters.fineweb import FineWebQuality
from tasks.filters.gopher_quality import GopherQuality
from tasks.filters.gopher_repetition import GopherRepetition
from tasks.filters.toxicity import Toxicity
from tasks.formatters.c4_lines import C4Lines
from tasks.rule import Rule
from tasks.text_features import TextFeatures

RULES: list[CheckedRule] = [GopherQuality(), GopherRepetition(), FineWebQuality(), C4Lines()]
by_rule = pytest.mark.parametrize("rule", RULES, ids=[rule.kind for rule in RULES])


class Length(CheckedRule):
    """Texts of 3 to 5 characters; one that begins with "?" has no length."""

    kind: Literal["length"] = "length"
    min_chars: int = 3
    max_chars: int = 5

    def checks(self) -> tuple[Check, ...]:
        def num_chars(features) -> float | None:  # type: ignore[no-untyped-def]
            return None if features.text.startswith("?") else len(features.text)

        return (
            Check("short", "min_chars", "below", num_chars, "characters"),
            Check("long", "max_chars", "above", num_chars, "characters", lambda features: features.text[:2]),
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", Drop("short", 2.0, 3.0)),
        ("abc", Keep()),
        ("abcde", Keep()),
        ("abcdef", Drop("long", 6.0, 5.0, "ab")),
        ("?bcdefgh", Keep()),
        (" ", Drop("empty")),
    ],
)
def test_a_figure_at_the_limit_is_kept(text: str, expected: Drop | Keep, document: Callable[[str], Document]) -> None:
    assert Length().build()(document(text)) == expected
    score = Length().build_score()(document(text))
    assert score.drop == (expected if isinstance(expected, Drop) else None)
    assert score.text == text


class Prepared(Length):
    """The same, and remembers what it is to prepare."""

    def checks(self) -> tuple[Check, ...]:
        def prepare(batch: Sequence[TextFeatures]) -> None:
            PREPARED.append([features.text for features in batch])

        first, second = super().checks()
        return first, replace(second, prepare=prepare)


PREPARED: list[list[str]] = []


def test_a_batch_is_prepared_and_decided_as_each_alone(document: Callable[[str], Document]) -> None:
    assert Length().build_batch() is None
    documents = [document(text) for text in ("ab", "abc", " ", "abcdef", "?bcdefgh")]
    decide_batch = Prepared().build_batch()
    assert decide_batch is not None
    PREPARED.clear()
    assert decide_batch(documents) == [Length().build()(each) for each in documents]
    assert PREPARED == [["ab", "abc", "abcdef", "?bcdefgh"]]


def test_a_score_has_every_figure(document: Callable[[str], Document]) -> None:
    assert Length().build_score()(document("ab")) == Score("ab", (2, 2), Drop("short", 2.0, 3.0))
    assert Length().build_score()(document("?b")) == Score("?b", (None, None), None)
    assert Length().build_score()(document("")) == Score("", (None, None), Drop("empty"))


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_no_number_fails_no_check(value: float | None) -> None:
    for check in Length().checks():
        assert not check.fails(value, 3)


@by_rule
def test_checks_name_fields_and_reasons(rule: CheckedRule) -> None:
    checks = checks_of(rule)
    assert checks
    assert len({check.reason for check in checks}) == len(checks)
    for check in checks:
        assert check.threshold in type(rule).model_fields
        assert check.threshold.startswith("min_" if check.drops == "below" else "max_")
        assert check.title


@by_rule
def test_scores_are_the_decisions_with_their_figures(
    rule: CheckedRule, page_texts: list[str], document: Callable[[str], Document]
) -> None:
    decide, score = rule.build(), rule.build_score()
    open_rule = rule.model_copy(
        update={check.threshold: -math.inf if check.drops == "below" else math.inf for check in rule.checks()}
    )
    open_score = open_rule.build_score()
    num_dropped = 0
    for text in [*page_texts[::10], "", "...", "[1] [2] [3]", "lorem ipsum dolor"]:
        page = document(text)
        decision, scored = decide(page), score(page)
        assert len(scored.figures) == len(rule.checks())
        assert scored.drop == (decision if isinstance(decision, Drop) else None)
        if not isinstance(decision, Drop):
            assert scored.text == (decision.text if isinstance(decision, Rewrite) else text)
        without_limits = open_score(page)
        assert without_limits.figures == scored.figures, "figures do not depend on the limits"
        assert without_limits.drop is None or without_limits.drop.value is None
        num_dropped += scored.drop is not None
    assert num_dropped > 2


def test_rules_without_checks_are_scored_by_their_decision(document: Callable[[str], Document]) -> None:
    class Shout(Rule):
        kind: Literal["shout"] = "shout"

        def build(self) -> Callable[[Document], Keep | Drop | Rewrite]:
            def decide(document: Document) -> Keep | Drop | Rewrite:
                if not document.text:
                    return Drop("empty")
                return Keep() if document.text.isupper() else Rewrite(document.text.upper(), ())

            return decide

    assert checks_of(Shout()) == ()
    score = score_with(Shout())
    assert score(document("Oars")) == Score("OARS", (), None)
    assert score(document("OARS")) == Score("OARS", (), None)
    assert score(document("")) == Score("", (), Drop("empty"))
    assert score_with(Length())(document("ab")).figures == (2, 2)


def test_a_rule_must_name_its_checks() -> None:
    with pytest.raises(TypeError, match="CheckedRule does not implement checks"):
        CheckedRule().checks()


def test_toxicity_scores_as_it_decides(document: Callable[[str], Document]) -> None:
    page = document("You are a stupid idiot. " * 20)
    decision = Toxicity().build()(page)
    assert score_with(Toxicity())(page).drop == (decision if isinstance(decision, Drop) else None)


class LimitOfItsModel(CheckedRule):
    """A rule that may leave its limit to a model, whose limit is 3 words."""

    max_words: int | None = None

    def limit(self, field: str) -> float:
        return 3.0 if field == "max_words" and self.max_words is None else super().limit(field)

    def checks(self) -> tuple[Check, ...]:
        return (Check("long", "max_words", "above", lambda features: len(features.text.split()), "words"),)


@pytest.mark.parametrize(("max_words", "most"), [(None, 3), (2, 2)])
def test_a_limit_may_be_left_to_the_model(max_words: int | None, most: int) -> None:
    rule = LimitOfItsModel(max_words=max_words)
    decide, score = rule.build(), rule.build_score()
    for num_words in (most, most + 1):
        document = Document("1", " ".join(["word"] * num_words), "web")
        dropped = Drop("long", float(most + 1), float(most)) if num_words > most else None
        assert decide(document) == (dropped or Keep()) and score(document).drop == dropped
