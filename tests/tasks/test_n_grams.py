"""Counts of repeated n-grams are datatrove's, with all its quirks, and quick where everything repeats."""

from __future__ import annotations

import time

import pytest
from datatrove.pipeline.filters.gopher_repetition_filter import find_all_duplicate, find_top_duplicate, get_n_grams
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import n_grams
from tasks.n_grams import NGrams


def stock_top(words: list[str], n: int) -> int | None:
    grams = get_n_grams(words, n)
    return find_top_duplicate(grams) if grams else None


def check(words: list[str]) -> None:
    ours = NGrams(words)
    for n in range(1, 12):
        assert ours.top_chars(n) == stock_top(words, n), n
        assert ours.repeated_chars(n) == find_all_duplicate(words, n), n


ALPHABETS = [
    ["a", "b"],
    ["a", "aa", "aaa"],  # joined without spaces, many n-grams are one
    ["ab", "c", "a", "bc", "abc"],
    ["\0", "\0\0", "\x01"],
    ["日本", "日", "本", "語"],
    ["e\u0301", "e", "\u0301"],
    ["\ud800", "\udfff", "x"],
    ["в т.ч.", "в", "т.ч.", "т.ч. в"],  # words with a space inside, as some special cases of spaCy's
    list("abcdefgh"),
]


@settings(max_examples=400)
@given(st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.lists(st.sampled_from(alphabet), max_size=60)))
def test_few_words(words: list[str]) -> None:
    check(words)


@settings(max_examples=200)
@given(
    st.lists(st.text(min_size=1, max_size=3), max_size=40),
    st.integers(0, 30),
    st.integers(1, 15),
)
def test_any_words_with_a_repeated_part(words: list[str], start: int, length: int) -> None:
    check(words + words[start : start + length] + ["end"] + words[start : start + length])


def test_of_several_most_frequent_the_first_counts() -> None:
    words = "long words first a b long words last a b".split()
    assert NGrams(words).top_chars(2) == 2 * len("long words")
    assert NGrams(words[3:] + words[:3]).top_chars(2) == 2 * len("a b")


def test_without_repetition_the_first_n_gram_counts_once() -> None:
    assert NGrams(["first", "of", "all"]).top_chars(2) == len("first of")
    assert NGrams(["one"]).top_chars(2) is None


def test_joined_words_are_the_same_wherever_they_are_cut() -> None:
    words = ["ab", "c", "d", "e", "f", "-", "a", "bc", "d", "e", "f"]
    assert NGrams(words).repeated_chars(5) == find_all_duplicate(words, 5) == 6
    longer = ["ab", "c", "d", "e", "f", "g", "-", "a", "bc", "d", "e", "f", "g"]
    assert NGrams(longer).repeated_chars(6) == 7


def test_equal_hashes_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of 1 makes every arrangement of the same letters collide."""
    monkeypatch.setattr(n_grams, "_BASE", 1)
    monkeypatch.setattr(n_grams, "_INVERSE", 1)
    words = "a b c d e - e d c b a - a b c d e".split()
    assert NGrams(words).repeated_chars(5) == find_all_duplicate(words, 5) == 5


def test_a_vocabulary_too_large_for_one_number() -> None:
    """Codes of 4-grams are made small again where 70,000 ^ 4 would not fit."""
    words = [f"w{number}" for number in range(70_000)]
    words += words[100:110]
    ours = NGrams(words)
    assert ours.top_chars(4) == 2 * len("w100 w101 w102 w103")
    assert ours.top_chars(9) == 2 * len(" ".join(words[100:109]))
    assert ours.repeated_chars(5) == len("".join(words[100:110]))


@pytest.mark.parametrize("vocabulary", [["word"], ["a", "b", "c"], ["x" * 1000]])
def test_a_word_repeated_100_000_times_is_quick(vocabulary: list[str]) -> None:
    words = vocabulary * (100_000 // len(vocabulary))
    start = time.process_time()
    ours = NGrams(words)
    top = [ours.top_chars(n) for n in (2, 3, 4)]
    repeated = [ours.repeated_chars(n) for n in range(5, 11)]
    assert time.process_time() - start < 10, "measured: .5 s, and 3 s for words of 1,000 letters"
    if len(vocabulary[0]) < 1000:  # datatrove takes its time and memory for those
        assert top == [stock_top(words, n) for n in (2, 3, 4)]
        assert repeated == [find_all_duplicate(words, n) for n in range(5, 11)]
