"""Words without case and punctuation, at their places in the text."""

from __future__ import annotations

import sys
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.decontamination.words import word_spans, words_of


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


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_form_that_unicode_writes_a_word_in_makes_no_difference(
    form: Literal["NFC", "NFD", "NFKC", "NFKD"],
) -> None:
    text = "Là-bas, l\u2019été fut très beau; ＡＢＣ ﬁnd हिन्दी ÅNGSTRÖM Ελλάδα İzmir"
    assert words_of(unicodedata.normalize(form, text)) == words_of(text)
    assert words_of(text)[:8] == ["là", "bas", "l", "été", "fut", "très", "beau", "abc"]
    assert words_of(text)[8:] == ["find", "हिन्दी", "ångström", "ελλάδα", "izmir"]


def test_what_is_not_seen_in_a_word_is_none_of_it() -> None:
    assert words_of("é con\u00adtami\u200dna\u2060tion\ufe0f \ufe0f\u00ad!") == ["é", "contamination"]
    assert words_of("\ufeffone\u200btwo\u2014three") == ["one", "two", "three"]


def test_every_mark_there_is_belongs_to_its_word() -> None:
    every = [chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)).startswith("M")]
    assert all(word_spans(f"a{mark}b") == [(0, 3)] for mark in every)


def test_the_two_letters_that_need_care() -> None:
    assert words_of("\u0130STANBUL istanbul") == ["istanbul"] * 2
    assert len(set(words_of("ΟΔΟΣ οδος ΟΔΟΣ. οδοσ"))) == 1
    assert words_of("ΟΔΟΣ’Ν") == words_of("ΟΔΟΣ Ν")


@given(st.text(st.characters() | st.sampled_from("aA b\n.'\u0130Σς\u0301\u00adé"), max_size=40))
def test_spans_are_where_the_words_are(text: str) -> None:
    words, spans = words_of(text), word_spans(text)
    assert [word for start, end in spans for word in words_of(text[start:end])] == words
    between = [0, *(place for span in spans for place in span), len(text)]
    assert not any(char.isalnum() for gap in range(0, len(between), 2) for char in text[slice(*between[gap : gap + 2])])
