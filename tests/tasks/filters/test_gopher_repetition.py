"""Each limit of Gopher's repetition rules: a page exactly at it is kept, the least bit beyond it is dropped."""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator

import pytest

from tasks.document import Document, Drop, Keep
from tasks.filters.gopher_repetition import GopherRepetition


def unique_words(num_chars: int) -> Iterator[str]:
    """Words of so many letters that no tokenizer splits, each different."""
    for letters in itertools.product(string.ascii_lowercase, repeat=4):
        yield "z" * (num_chars - 4) + "".join(letters)


def padded(text: str, num_chars: int, separator: str = " ") -> str:
    """The text with unique words of 30 letters added, each after a separator, and spaces, until so long."""
    for word in unique_words(30):
        if len(text) + len(separator) + len(word) > num_chars:
            break
        text += separator + word
    return text.ljust(num_chars)


def with_repeated_lines(num_repeated: int, num_lines: int, separator: str) -> str:
    """Lines of which so many repeat the first; the others are long, so that characters do not count."""
    long_words = unique_words(40)
    lines = [f"{next(long_words)} {next(long_words)}" for _ in range(num_lines - num_repeated - 1)]
    for index in range(num_repeated + 1):
        lines.insert(2 * index, "once")
    return separator.join(lines)


def with_repeated_line_chars(num_chars: int, separator: str) -> str:
    """So many characters, a fifth of which is in repeated lines; few lines repeat."""
    assert num_chars % 100 == 0
    repeated = list(itertools.islice(unique_words(20), num_chars // 100))
    between = unique_words(25)
    lines = [line for word in repeated * 2 for line in (word, next(between))]
    return padded(separator.join(lines), num_chars, separator)


@pytest.mark.parametrize(("separator", "reason"), [("\n", "dup_line_frac"), ("\n\n", "dup_para_frac")])
def test_repeated_lines_and_paragraphs(separator: str, reason: str, document: Callable[[str], Document]) -> None:
    decide = GopherRepetition().build()
    assert decide(document(with_repeated_lines(60, 200, separator))) == Keep()
    assert decide(document(with_repeated_lines(61, 200, separator))) == Drop(reason, 61 / 200, 0.3)


@pytest.mark.parametrize(("separator", "reason"), [("\n", "dup_line_char_frac"), ("\n\n", "dup_para_char_frac")])
def test_characters_in_repeated_lines(separator: str, reason: str, document: Callable[[str], Document]) -> None:
    decide = GopherRepetition().build()
    at_limit = with_repeated_line_chars(2000, separator)
    assert decide(document(at_limit)) == Keep()
    assert at_limit.endswith(" ")
    assert decide(document(at_limit[:-1])) == Drop(reason, 400 / 1999, 0.2)


@pytest.mark.parametrize(("n", "limit_percent", "num_times"), [(2, 20, 5), (3, 18, 9), (4, 16, 4)])
def test_most_frequent_n_gram(n: int, limit_percent: int, num_times: int, document: Callable[[str], Document]) -> None:
    phrase = " ".join(itertools.islice(unique_words(12), n))
    between = unique_words(15)
    num_repeated_chars = len(phrase) * num_times
    num_chars = num_repeated_chars * 100 // limit_percent
    assert num_repeated_chars * 100 == num_chars * limit_percent
    at_limit = padded(" ".join(f"{phrase} {next(between)}" for _ in range(num_times)), num_chars)
    decide = GopherRepetition().build()
    assert decide(document(at_limit)) == Keep()
    assert at_limit.endswith(" ")
    expected = Drop(f"top_{n}_gram", num_repeated_chars / (num_chars - 1), limit_percent / 100)
    assert decide(document(at_limit[:-1])) == expected


@pytest.mark.parametrize(("n", "limit_percent"), [(5, 15), (6, 14), (7, 13), (8, 12), (9, 11), (10, 10)])
def test_repeated_n_grams(n: int, limit_percent: int, document: Callable[[str], Document]) -> None:
    """Five blocks of n words, each twice: the second time counts, without the spaces."""
    block_words, between = unique_words(limit_percent), unique_words(25)
    blocks = [" ".join(itertools.islice(block_words, n)) for _ in range(5)]
    num_repeated_chars = 5 * n * limit_percent
    num_chars = num_repeated_chars * 100 // limit_percent
    at_limit = padded(" ".join(f"{block} {next(between)}" for block in blocks * 2), num_chars)
    decide = GopherRepetition().build()
    assert decide(document(at_limit)) == Keep()
    assert at_limit.endswith(" ")
    expected = Drop(f"duplicated_{n}_n_grams", num_repeated_chars / (num_chars - 1), limit_percent / 100)
    assert decide(document(at_limit[:-1])) == expected


def test_a_limit_of_its_own_is_used(document: Callable[[str], Document]) -> None:
    text = with_repeated_lines(61, 200, "\n")
    assert GopherRepetition(max_duplicate_line_fraction=0.305).build()(document(text)) == Keep()


@pytest.mark.parametrize("limit", [0, -0.1, 1.1])
def test_limits_are_fractions(limit: float) -> None:
    with pytest.raises(ValueError, match="max_duplicate_line_fraction"):
        GopherRepetition(max_duplicate_line_fraction=limit)
