"""C4's line rules: datatrove's decisions and text, each limit at its boundary, and every change recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.filters import C4QualityFilter
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Document, Drop, Edit, Keep, Rewrite
from tasks.formatters.c4_lines import C4Lines
from tasks.formatters.edits import apply_edits

SENTENCES = "The boat was found. The oars were not. Nobody knew why. The river was calm. The night was dark."


def test_clean_text_is_kept(document: Callable[[str], Document]) -> None:
    assert C4Lines().build()(document(SENTENCES)) == Keep()


def test_every_change_is_recorded(document: Callable[[str], Document]) -> None:
    text = f"Home\n  {SENTENCES}[1]\t\r\nWe use cookies here.\nEnable JavaScript to go on.\nA [edit] last line \n"
    start = text.index
    expected = (
        Edit("line_removed", "c4_too_few_words", 0, "Home\n"),
        Edit("span_removed", "c4_white_space", 5, "  "),
        Edit("span_removed", "c4_citation", start("[1]"), "[1]"),
        Edit("span_removed", "c4_white_space", start("\t"), "\t"),
        Edit("replaced", "c4_line_end", start("\r\n"), "\r\n", "\n"),
        Edit("line_removed", "c4_policy", start("We use"), "We use cookies here.\n"),
        Edit("line_removed", "c4_javascript", start("Enable"), "Enable JavaScript to go on.\n"),
        Edit("span_removed", "c4_citation", start("[edit]"), "[edit]"),
        Edit("span_removed", "c4_white_space", len(text) - 2, " "),
        Edit("span_removed", "c4_white_space", len(text) - 1, "\n"),
    )
    decision = C4Lines().build()(document(text))
    assert decision == Rewrite(f"{SENTENCES}\nA  last line", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SENTENCES}\nLorem Ipsum dolor sit.", Drop("lorem_ipsum", detail="Lorem Ipsum dolor sit.")),
        (f"{SENTENCES}\n int main() {{ return 0;\n}}", Drop("curly_bracket", detail="int main() { return 0;")),
        (f"A long {{ line {'x ' * 200}", Drop("curly_bracket", detail=f"A long {{ line {'x ' * 200}".strip())),
        ("Home\nAbout", Drop("too_few_sentences", 0, 5)),
        (" \n ", Drop("empty")),
    ],
)
def test_drops(text: str, expected: Drop, document: Callable[[str], Document]) -> None:
    assert C4Lines().build()(document(text)) == expected


def test_a_page_without_any_text_left_is_empty(document: Callable[[str], Document]) -> None:
    """datatrove keeps it, with the empty text."""
    assert C4Lines(min_sentences=1).build()(document("[1] [2] [3]")) == Drop("empty")


def test_boundary_of_sentences(document: Callable[[str], Document]) -> None:
    decide = C4Lines().build()
    four = "The boat was found. The oars were not.\nNobody knew why.\nThe river was calm."
    assert decide(document(four)) == Drop("too_few_sentences", 4, 5)
    assert decide(document(f"{four} Dark.")) == Keep()
    assert decide(document(f"{four}\nDark")) == Drop("too_few_sentences", 4, 5)


def test_boundary_of_words_in_a_line(document: Callable[[str], Document]) -> None:
    decide = C4Lines().build()
    assert decide(document(f"{SENTENCES}\nJust three words")) == Keep()
    decision = decide(document(f"{SENTENCES}\nTwo words"))
    expected = (
        Edit("span_removed", "c4_white_space", len(SENTENCES), "\n"),
        Edit("line_removed", "c4_too_few_words", len(SENTENCES) + 1, "Two words"),
    )
    assert decision == Rewrite(SENTENCES, expected)


def test_boundary_of_the_longest_word(document: Callable[[str], Document]) -> None:
    decide = C4Lines().build()
    assert decide(document(f"One two {'x' * 1000}\n{SENTENCES}")) == Keep()
    line = f"One two {'x' * 1001}\n"
    assert decide(document(line + SENTENCES)) == Rewrite(
        SENTENCES, (Edit("line_removed", "c4_too_long_word", 0, line),)
    )


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("remove_citations", "A fact[1] of note."),
        ("filter_javascript", "Enable JavaScript now."),
        ("filter_policy", "Our privacy policy changed."),
        ("filter_lorem_ipsum", "Lorem ipsum dolor."),
        ("filter_curly_bracket", "A set {1, 2} of."),
    ],
)
def test_each_rule_can_be_left_out(option: str, text: str, document: Callable[[str], Document]) -> None:
    page = document(f"{text}\n{SENTENCES}")
    assert C4Lines().build()(page) != Keep()
    assert C4Lines(**{option: False}).build()(page) == Keep()


def test_terminal_punctuation_as_in_c4(document: Callable[[str], Document]) -> None:
    page = document(f"A line without an end\n{SENTENCES}")
    assert C4Lines().build()(page) == Keep()
    decision = C4Lines(filter_no_terminal_punct=True).build()(page)
    expected = (Edit("line_removed", "c4_no_terminal_punc", 0, "A line without an end\n"),)
    assert decision == Rewrite(SENTENCES, expected)


PIECES = [
    "The boat was found. ",
    "Dark! ",
    "oars",
    "[1]",
    "[edit]",
    "[citation needed]",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\u2028",
    "\x0b",
    "\x1c",
    "\xa0",
    "{",
    "use cookies ",
    "JavaScript ",
    "Lorem ipsum ",
    "...",
    "x" * 12,
]
RULE = C4Lines(min_sentences=2, min_words_per_line=2, max_word_chars=30, filter_no_terminal_punct=True)


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.booleans(), st.booleans())
def test_text_and_decision_are_those_of_datatrove(text: str, punctuation: bool, citations: bool) -> None:
    options = {"filter_no_terminal_punct": punctuation, "remove_citations": citations}
    decision = RULE.model_copy(update=options).build()(Document("x", text, "test"))
    stock = C4QualityFilter(min_num_sentences=2, min_words_per_line=2, max_word_length=30, **options)
    copied = DatatroveDocument(text=text, id="x")
    result = stock.filter(copied)
    if decision == Drop("empty"):
        assert not text.strip() or copied.text == ""
    elif isinstance(decision, Drop):
        assert result == (False, decision.reason)
    else:
        assert result is True
        assert copied.text == (decision.text if isinstance(decision, Rewrite) else text)
        if isinstance(decision, Rewrite):
            assert apply_edits(text, decision.edits) == decision.text
            assert decision.text != text


def test_real_pages_lose_lines_and_no_more(page_texts: list[str], document: Callable[[str], Document]) -> None:
    decide = C4Lines().build()
    decisions = [(text, decide(document(text))) for text in page_texts[::5]]
    rewrites = [(text, decision) for text, decision in decisions if isinstance(decision, Rewrite)]
    assert len(rewrites) > 20
    for text, decision in rewrites:
        assert sum(len(edit.removed) - len(edit.replacement) for edit in decision.edits) == len(text) - len(
            decision.text
        )
