"""Features are datatrove's figures, computed once a document and for the document's own language."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.text import PUNCTUATION_SET, split_into_sentences, split_into_words
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Document
from tasks.filters.fineweb import FineWebQuality
from tasks.filters.gopher_quality import GopherQuality
from tasks.filters.gopher_repetition import GopherRepetition
from tasks.formatters.c4_lines import C4Lines
from tasks.text_features import TextFeatures, features_of, repeats
from tasks.words import readable

AWKWARD = (
    *("the", "The", "a", "…", "...", "-", "•", "#", "12", "é", "e\u0301", "日本", ".", "(", "„"),
    *("\n", "\n\n", "\r\n", " ", "\t", "\xa0", "\u2028", "\x1c"),
)
TEXTS = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=3), max_size=40).map("".join)


def of_text(text: str, language: str = "") -> TextFeatures:
    return TextFeatures(Document(document_id="0" * 32 + "-0", text=text, source="test", language=language))


@settings(max_examples=300)
@given(TEXTS.filter(lambda text: readable(text) == text))
def test_figures_are_those_of_datatrove(text: str) -> None:
    features = of_text(text)
    words = split_into_words(text, "en")
    assert features.words == words
    assert dict(zip(features.vocabulary, features.word_counts.tolist(), strict=True)) == {
        word: words.count(word) for word in words
    }
    non_symbols = [word for word in words if any(char not in PUNCTUATION_SET for char in word)]
    assert features.num_non_symbol_words == len(non_symbols)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = np.mean([len(word) for word in non_symbols])
    assert features.mean_word_chars == (None if np.isnan(mean) else mean)
    alphabetic = sum(any(char.isalpha() for char in word) for word in words)
    assert features.alphabetic_word_fraction == (alphabetic / len(words) if words else None)
    assert features.per_word(7) == (7 / len(words) if words else None)
    assert features.num_sentences == len(split_into_sentences(text, "en"))
    assert features.count_stop_words(frozenset({"the", "a", "of"})) == len({"the", "a", "of"}.intersection(words))


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["", "a", "bb", " "]), max_size=12))
def test_repeats_are_those_of_datatrove(pieces: list[str]) -> None:
    assert repeats(pieces) == find_duplicates(pieces)


def test_the_four_ways_to_split() -> None:
    features = of_text("\none\n\n \ntwo\rthree\n\n\nfour\n")
    assert features.lines == ["", "one", "", " ", "two", "three", "", "", "four"]
    assert features.plain_lines == ["one", "two\rthree", "four"]
    assert features.gopher_lines == ["", "one", " ", "two\rthree", "four", ""]
    assert features.gopher_paragraphs == ["one", " \ntwo\rthree", "four"]


def test_the_language_is_the_documents() -> None:
    assert of_text("l'eau", "fr").words == ["l'", "eau"]
    assert of_text("l'eau").words == ["l'eau"]
    with pytest.raises(ValueError, match="language 'xy'"):
        of_text("l'eau", "xy").words  # noqa: B018


def test_features_are_shared_by_the_rules_and_forgotten_soon(document: Callable[[str], Document]) -> None:
    first = document("One.")
    features = features_of(first)
    words = features.words
    assert features_of(first) is features
    rewritten = replace(first, text="Two.")
    assert features_of(rewritten).words == ["Two", "."]
    assert features_of(first).words is words
    features_of(document("Three."))
    assert features_of(first) is not features
    assert features_of(replace(rewritten)) is not features_of(rewritten), "equal documents may be of different kinds"


HUGE = {
    "one word": "word " * 100_000,
    "one line": "one two three\n" * 20_000,
    "a run": "x" * 5_000_000,
    "a run of marks": "#." * 200_000,
    "a table": "\n".join(f"Line {number} of a table, {number * 7919 % 10007}." for number in range(10_000)),
}
HUGER = {
    "5 MB of a word": "boat! " * 900_000,
    "5 MB of marks": "#." * 2_500_000,
    "5 MB of a table": "\n".join(f"Line {number} of a table, {number * 7919 % 10007}." for number in range(120_000)),
}


def seconds_to_score(text: str) -> float:
    page = Document(document_id="0" * 32 + "-0", text=text, source="test")
    scores = [rule.build_score() for rule in (GopherRepetition(), GopherQuality(), C4Lines(), FineWebQuality())]
    start = time.process_time()
    for score in scores:
        score(page)
    return time.process_time() - start


@pytest.mark.parametrize("name", HUGE)
def test_huge_documents_take_seconds(name: str) -> None:
    assert seconds_to_score(HUGE[name]) < 20, "measured: .2 to 2 s"


@pytest.mark.verify
@pytest.mark.parametrize("name", HUGER)
def test_huger_documents_take_seconds(name: str) -> None:
    assert seconds_to_score(HUGER[name]) < 90, "measured: 5 to 20 s"
