"""Each family decides exactly as datatrove's own class with its own tokenizer, alone and one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

from tasks.document import Document, Drop, Rewrite
from tasks.filters.fineweb import FineWebQuality
from tasks.filters.gopher_quality import GopherQuality
from tasks.filters.gopher_repetition import GopherRepetition
from tasks.formatters.c4_lines import C4Lines
from tasks.rule import Rule

PAIRS: list[tuple[Rule, Callable[[], Any]]] = [
    (GopherRepetition(), GopherRepetitionFilter),
    (GopherQuality(), GopherQualityFilter),
    (C4Lines(), lambda: C4QualityFilter(filter_no_terminal_punct=False)),
    (FineWebQuality(), FineWebQualityFilter),
]

PARAGRAPH = "The river had been rising since noon, and by evening the bridge was closed to all but those with boats. "
WRITTEN_TEXTS = [
    PARAGRAPH,
    "\n".join(f"{PARAGRAPH}Line {name} ends differently." for name in ("one", "two", "three", "four")),
    "\n".join([PARAGRAPH] * 4),
    "Home\nAbout\nContact\n" + PARAGRAPH * 3 + "\nWe use cookies on this site.\nPlease enable JavaScript to go on.",
    "function f() { return 1; }\n" + PARAGRAPH * 3,
    "- " + "\n- ".join(PARAGRAPH.split()),
    "Lorem ipsum dolor sit amet. " + PARAGRAPH,
    "12 13 14 # # # … … ... " * 20,
    "A fact.[1] Another fact.[22][edit] A third, with a source. [citation needed] And a fourth. And a fifth.\r\n" * 2,
]


def stock_decision(step: Any, text: str) -> tuple[str, str]:
    """datatrove's verdict: reason of a drop (or nothing), and the text after it."""
    copied = DatatroveDocument(text=text, id="x")
    result = step.filter(copied)
    return (result[1], text) if isinstance(result, tuple) else ("", copied.text)


def our_decision(decide: Callable[[Document], Any], document: Document) -> tuple[str, str]:
    decision = decide(document)
    if isinstance(decision, Drop):
        return decision.reason, document.text
    return "", decision.text if isinstance(decision, Rewrite) else document.text


@pytest.mark.parametrize(("rule", "stock"), PAIRS, ids=[rule.kind for rule, _ in PAIRS])
def test_written_texts(rule: Rule, stock: Callable[[], Any], document: Callable[[str], Document]) -> None:
    decide, step = rule.build(), stock()
    decisions = {our_decision(decide, document(text))[0] for text in WRITTEN_TEXTS}
    assert len(decisions) > 1, "the texts do not exercise this family"
    for text in WRITTEN_TEXTS:
        assert our_decision(decide, document(text)) == stock_decision(step, text)


def test_real_pages_one_family_after_the_other(page_texts: list[str], document: Callable[[str], Document]) -> None:
    """Words remembered by one family serve the next, on texts that C4 has edited in between."""
    chain = [(rule.build(), stock()) for rule, stock in PAIRS]
    num_dropped = num_edited = 0
    for original in page_texts[::6]:
        text = original
        for decide, step in chain:
            if not text.strip():
                break
            ours, theirs = our_decision(decide, document(text)), stock_decision(step, text)
            assert ours == theirs
            num_edited += ours[1] != text
            text = ours[1]
            if ours[0]:
                num_dropped += 1
                break
    assert num_dropped > 10
    assert num_edited > 10
