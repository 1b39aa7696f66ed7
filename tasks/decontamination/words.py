"""A text as the words that contamination is looked for in: runs of letters and digits, in lower case.

GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C) compares words without case, punctuation and white space, and so
does the decontamination of lm-evaluation-harness. Other than there, punctuation of every script is none of a word, and
parts words that it stands between: "don't", with whatever apostrophe, is two. So line breaks, hyphens, quotation marks
and markup between words change nothing. Languages written without spaces have no words in this sense: a run of
characters up to the next punctuation mark is one, and only whole such runs are found.
"""

from __future__ import annotations

import re

NGRAM_WORDS, MIN_WORDS = 13, 8
"""GPT-3's: words in a row that are contamination, and the fewest of a passage that is looked for as a whole."""

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    return _WORD.findall(_folded(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words_of` begins and ends in the text, in characters."""
    return [word.span() for word in _WORD.finditer(_folded(text))]


def _folded(text: str) -> str:
    """The text in lower case, character for character.

    Two letters need care: the only one whose lower case is two characters, and the one whose lower case depends on
    what stands around it.
    """
    if text.isascii():
        return text.lower()
    return text.replace("\u0130", "i").lower().replace("ς", "σ")
