"""Each limit of FineWeb's rules: a page exactly at it is kept, the least bit beyond it is dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.document import Document, Drop, Keep
from tasks.filters.fineweb import FineWebQuality

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def line(index: int, num_chars: int, end: str = ".") -> str:
    """A line of words with exactly so many characters, different for each index."""
    name = LETTERS[index // 26] + LETTERS[index % 26]
    words = " ".join([f"w{name}"] * num_chars)
    return words[: num_chars - 1 - len(end)].rstrip().ljust(num_chars - len(end), "x") + end


def page(*lines: str) -> str:
    return "\n".join(lines)


def punctuated(num_lines: int) -> str:
    return page(*(line(index, 40, "." if index < num_lines else ":") for index in range(100)))


def short(num_lines: int, num_chars: int = 30) -> str:
    return page(*(line(index, num_chars if index < num_lines else 40) for index in range(100)))


def repeated(num_chars: int) -> str:
    """A line of 40 characters twice in so many characters, line breaks not counted."""
    lines = [line(index, 40) for index in range(98)]
    lines += [lines[0], line(98, num_chars - 99 * 40)]
    return page(*lines)


def broken(num_words: int) -> str:
    """Ten lines, 9 line breaks, with so many words; two are full stops, which no white space sets apart."""
    words = [f"{letter * 12}" for letter in LETTERS + LETTERS.upper()][: num_words - 2]
    lines = [words[start : start + 3] for start in range(0, 24, 3)] + [words[24:26], words[26:]]
    texts = [" ".join(words) for words in lines]
    return page(*texts[:8], texts[8] + ".", texts[9] + ".")


CASES = {
    "punctuation": (punctuated(12), punctuated(11), Drop("line_punct_ratio", 0.11, 0.12)),
    "short lines": (short(67), short(68), Drop("short_line_ratio", 0.68, 0.67)),
    "length of a short line": (short(68, 31), short(68, 30), Drop("short_line_ratio", 0.68, 0.67)),
    "repeated lines": (repeated(4000), repeated(3999), Drop("char_dup_ratio", 40 / 3999, 0.01)),
    "line breaks": (broken(30), broken(29), Drop("list_ratio", 9 / 29, 0.3)),
}


@pytest.mark.parametrize(("at_limit", "beyond", "expected"), CASES.values(), ids=CASES)
def test_boundary(at_limit: str, beyond: str, expected: Drop, document: Callable[[str], Document]) -> None:
    decide = FineWebQuality().build()
    assert decide(document(at_limit)) == Keep()
    assert decide(document(beyond)) == expected


def test_limits_of_its_own_are_used(document: Callable[[str], Document]) -> None:
    assert FineWebQuality(min_line_punctuation_fraction=0.11).build()(document(punctuated(11))) == Keep()
    assert FineWebQuality(max_short_line_fraction=0.68).build()(document(short(68))) == Keep()
    assert FineWebQuality(short_line_chars=29).build()(document(short(68))) == Keep()
    assert FineWebQuality(max_duplicate_line_char_fraction=0.011).build()(document(repeated(3999))) == Keep()
    assert FineWebQuality(max_newlines_per_word=0.32).build()(document(broken(29))) == Keep()
