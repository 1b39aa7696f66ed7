"""The shared words are datatrove's words; what is left out or remembered changes none of them."""

from __future__ import annotations

import time

import pytest
from datatrove.utils.word_tokenizers import load_word_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.filters import words
from tasks.filters.words import EnoughSentences, EnoughWords, SharedWords, readable

REFERENCE = load_word_tokenizer("eng")
TRICKY = [
    "don't",
    "U.S.",
    "e.g.",
    ":)",
    ": )",
    "a.m.",
    "$5.00",
    "http://a.b/c?d=e",
    "¯\\(ツ)/¯",
    "'tis",
    "\xa0",
    "\u2028",
    "\x1c",
    "\t",
    "\n\n",
    " ",
    "…",
    "...",
    "naïve",
    "日本語",
    "مرحبا",
    "#",
    "--",
]
TEXTS = st.lists(st.one_of(st.sampled_from(TRICKY), st.text(max_size=5)), max_size=12).map("".join) | st.lists(
    st.sampled_from(TRICKY), max_size=12
).map(" ".join)
READABLE_TEXTS = TEXTS.filter(lambda text: readable(text) == text)


@settings(max_examples=150, deadline=None)
@given(READABLE_TEXTS)
def test_words_and_sentences_are_those_of_datatrove(text: str) -> None:
    shared = SharedWords()
    shared._made_pipeline = words.SHARED_WORDS._pipeline()  # takes long to make
    assert shared.word_tokenize(text) == REFERENCE.word_tokenize(text)
    assert shared.span_tokenize(text) == REFERENCE.span_tokenize(text)
    assert shared.sent_tokenize(text) == REFERENCE.sent_tokenize(text)


@settings(max_examples=150, deadline=None)
@given(READABLE_TEXTS)
def test_white_space_never_gives_more_words_than_spacy(text: str) -> None:
    """What EnoughWords rests on."""
    assert len(text.split()) <= len(REFERENCE.word_tokenize(text))


def test_no_special_case_of_spacy_spans_white_space() -> None:
    """What EnoughWords rests on, for all texts: a token with white space inside would be such a rule."""
    rules = REFERENCE.tokenizer.tokenizer.rules
    assert [rule for rule in rules if len(rule.split()) > 1] == []


def test_the_word_that_breaks_spacy_is_a_word_each_time() -> None:
    shared = SharedWords()
    for number in range(3):
        assert shared.word_tokenize(f"IS_ALPHA {number}") == ["IS_ALPHA", str(number)]
        assert shared.span_tokenize(f"IS_ALPHA {number}.") == [(0, 11)]


def test_real_pages_have_the_words_of_datatrove(page_texts: list[str]) -> None:
    shared = SharedWords()
    for text in page_texts[::25]:
        assert shared.word_tokenize(text) == REFERENCE.word_tokenize(text)


def test_the_tokenizer_is_made_anew_when_its_vocabulary_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_LEXEMES", 800)  # spaCy's English has 764 to begin with
    shared = SharedWords()
    before = shared.word_tokenize("the first text")
    first = shared._made_pipeline
    shared.word_tokenize(" ".join(f"word{number}" for number in range(500)))
    assert len(first.vocab) > 800
    assert shared.word_tokenize("the second text") == ["the", "second", "text"]
    assert shared._made_pipeline is not first
    assert before == ["the", "first", "text"]


def test_the_memory_holds_the_last_texts_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedWords()
    texts = [f"text number {name}" for name in "abcdef"]
    first = shared.word_tokenize(texts[0])
    assert shared.word_tokenize(texts[0]) is first
    for text in texts[1:]:
        shared.word_tokenize(text)
    assert list(shared._words) == texts[-words.MAX_MEMO_TEXTS :]
    monkeypatch.setattr(words, "MAX_MEMO_CHARS", 10)
    shared.word_tokenize("a text longer than the memory")
    assert list(shared._words) == ["a text longer than the memory"]


@pytest.mark.parametrize(("num_chars", "num_words"), [(1000, 1), (1001, 11)])
def test_a_run_is_cut_only_beyond_1000_characters(num_chars: int, num_words: int) -> None:
    text = "a" * num_chars
    assert len(readable(text)) == num_chars
    assert len(SharedWords().word_tokenize(text)) == num_words


def test_an_endless_run_takes_linear_time() -> None:
    shared = SharedWords()
    start = time.process_time()
    assert len(shared.word_tokenize("#…" * 50_000)) > 50_000
    assert time.process_time() - start < 20, "spaCy alone takes many minutes"


def test_lone_surrogates_are_read_as_replacement_characters() -> None:
    assert SharedWords().word_tokenize("good \ud800 day\udfff") == ["good", "\ufffd", "day", "\ufffd"]


def test_enough_words_gives_the_true_words_where_the_split_has_too_few() -> None:
    enough = EnoughWords(lambda _, num_words: num_words >= 3)
    assert enough.word_tokenize("well, I say") == ["well,", "I", "say"]
    assert enough.word_tokenize("well, so") == ["well", ",", "so"]


def test_enough_sentences_reads_until_there_are_enough() -> None:
    enough = EnoughSentences(3)
    assert len(enough.span_tokenize("One. Two.")) == 2
    assert len(enough.span_tokenize("Three. Four.")) == 2
    assert enough.span_tokenize("Five. Six.") == [(0, 10)]
