"""Words without case and punctuation, at their places in the text."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.decontamination.words import _folded, word_spans, words_of


@pytest.mark.parametrize(
    "text",
    [
        "the harbour's 12 boats don t sail",
        "The HARBOUR’S 12 boats don't sail!",
        "the\nharbour-s\t(12) «boats», don_t... sail",
        "the **harbour** s 12\r\n\r\n> boats don`t sail",
    ],
)
def test_case_punctuation_and_line_breaks_make_no_difference(text: str) -> None:
    assert words_of(text) == ["the", "harbour", "s", "12", "boats", "don", "t", "sail"]


def test_no_character_moves_another() -> None:
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))
    folded = _folded(every)
    assert len(folded) == len(every)
    assert [char.isalnum() for char in folded] == [char.isalnum() for char in every]


def test_the_two_letters_that_need_care() -> None:
    assert words_of("\u0130STANBUL istanbul") == ["istanbul"] * 2
    assert len(set(words_of("ΟΔΟΣ οδος ΟΔΟΣ. οδοσ"))) == 1
    assert words_of("ΟΔΟΣ’Ν") == words_of("ΟΔΟΣ Ν")


@given(st.text(st.characters() | st.sampled_from("aA b\n.'\u0130Σς"), max_size=40))
def test_spans_are_where_the_words_are(text: str) -> None:
    words, spans = words_of(text), word_spans(text)
    assert [word for start, end in spans for word in words_of(text[start:end])] == words
    between = [0, *(place for span in spans for place in span), len(text)]
    assert not any(char.isalnum() for gap in range(0, len(between), 2) for char in text[slice(*between[gap : gap + 2])])
