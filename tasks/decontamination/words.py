"""A text as the words that contamination is looked for in: runs of letters and digits, in lower case.

GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) compares words without case, punctuation and white space, and so
does the decontamination of lm-evaluation-harness. Other than there, punctuation of every script is none of a word, and
parts words that it stands between: "don't", with whatever apostrophe, is two. So line breaks, hyphens, quotation marks
and markup between words change nothing. Nor does it matter how Unicode writes a word: with accents of their own or as
one character with its letter, with ligatures or full-width letters, with soft hyphens or joiners in it. Words are
compared as its NFKC_Casefold (The Unicode Standard, section 3.13), for the invisible characters that stand in words.
Languages written without spaces have no words in this sense: a run of characters up to the next punctuation mark is
one, and only whole such runs are found.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from itertools import chain

NGRAM_WORDS, MIN_WORDS = 13, 8
"""GPT-3's: words in a row that are contamination, and the fewest of a passage that is looked for as a whole."""

_WORD = re.compile(r"[^\W_]+")
_INVISIBLE = dict.fromkeys([0xAD, 0x34F, 0x200C, 0x200D, 0x2060, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
"""Soft hyphen, joiners and variation selectors: within a word, and nothing of it."""


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    if text.isascii():
        return _WORD.findall(text.lower())
    return [word.lower() if word.isascii() else _folded(word) for word in _pattern(text).findall(text)]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words_of` begins and ends in the text, in characters."""
    return [word.span() for word in _pattern(text).finditer(text)]


def _pattern(text: str) -> re.Pattern[str]:
    """What a word of this text is: the plain pattern, five times as fast, where no marks stand in it."""
    return _WORD if text.isascii() or _inside_words().isdisjoint(set(text)) else _word_with_marks()


@functools.cache
def _inside_words() -> frozenset[str]:
    """Marks and invisible characters, which belong to the word before them. Takes some 30 ms the first time."""
    planes = chain(range(0x20000), range(0xE0100, 0xE01F0))  # no marks but these, in any version up to Unicode 16
    marks = {chr(point) for point in planes if unicodedata.category(chr(point)).startswith("M")}
    return frozenset(marks | set(map(chr, _INVISIBLE)))


@functools.cache
def _word_with_marks() -> re.Pattern[str]:
    inside = re.escape("".join(sorted(_inside_words())))
    return re.compile(rf"[^\W_]+(?:[{inside}]+[^\W_]*)*")


@functools.lru_cache(1 << 16)
def _folded(word: str) -> str:
    """A word as it is compared. The dot of the Turkish capital İ, which its lower case keeps as a mark, goes."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word.translate(_INVISIBLE)).casefold())
    return folded.replace("i\u0307", "i")
