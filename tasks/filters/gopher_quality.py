"""Gopher's quality rules: pages that do not look like running text.

Source of every limit: Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1, "Quality filtering", as FineWeb uses them.
Decisions are those of datatrove's `GopherQualityFilter`: words are spaCy's tokens, so punctuation marks are words too;
length and mean word length leave out the words that are punctuation only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS, GopherQualityFilter
from datatrove.utils.text import PUNCTUATION_SET
from pydantic import Field

from tasks.document import Decision, Document, Drop
from tasks.filters.datatrove_adapter import decide_with
from tasks.filters.words import SHARED_WORDS
from tasks.rule import Rule


class GopherQuality(Rule):
    """Drops pages that are too short or too long, or are made of something other than sentences.

    Reasons: empty, gopher_short_doc, gopher_long_doc, gopher_below_avg_threshold, gopher_above_avg_threshold,
    gopher_too_many_hashes, gopher_too_many_ellipsis, gopher_too_many_bullets, gopher_too_many_end_ellipsis,
    gopher_below_alpha_threshold, gopher_enough_stop_words (datatrove's name; it means too few of them).
    """

    kind: Literal["gopher_quality"] = "gopher_quality"
    libraries: ClassVar[tuple[str, ...]] = ("datatrove", "spacy")

    min_words: int = Field(50, ge=1, description="Words that are not punctuation only, at least (Gopher A.1.1).")
    max_words: int = Field(100_000, ge=1, description="Words that are not punctuation only, at most (Gopher A.1.1).")
    min_mean_word_chars: float = Field(
        3.0, gt=0, description="Mean word length in characters, at least (Gopher A.1.1)."
    )
    max_mean_word_chars: float = Field(
        10.0, gt=0, description="Mean word length in characters, at most (Gopher A.1.1)."
    )
    max_symbols_per_word: float = Field(
        0.1, gt=0, description="Hash signs per word, and ellipses per word, each at most (Gopher A.1.1)."
    )
    max_bullet_line_fraction: float = Field(
        0.9, gt=0, le=1, description="Lines that begin with a bullet or hyphen, of all lines, at most (Gopher A.1.1)."
    )
    max_ellipsis_line_fraction: float = Field(
        0.3, gt=0, le=1, description="Lines that end with an ellipsis, of all lines, at most (Gopher A.1.1)."
    )
    min_alphabetic_word_fraction: float = Field(
        0.8, gt=0, le=1, description="Words with at least one letter, of all words, at least (Gopher A.1.1)."
    )
    min_stop_words: int = Field(
        2,
        ge=1,
        le=len(STOP_WORDS),
        description=f"Different words out of {', '.join(STOP_WORDS)} in the page, at least (Gopher A.1.1).",
    )

    def build(self) -> Callable[[Document], Decision]:
        oracle = GopherQualityFilter(
            min_doc_words=self.min_words,
            max_doc_words=self.max_words,
            min_avg_word_length=self.min_mean_word_chars,
            max_avg_word_length=self.max_mean_word_chars,
            max_symbol_word_ratio=self.max_symbols_per_word,
            max_bullet_lines_ratio=self.max_bullet_line_fraction,
            max_ellipsis_lines_ratio=self.max_ellipsis_line_fraction,
            max_non_alpha_words_ratio=self.min_alphabetic_word_fraction,
            min_stop_words=self.min_stop_words,
            language=SHARED_WORDS,
        )
        thresholds = {
            "gopher_short_doc": self.min_words,
            "gopher_long_doc": self.max_words,
            "gopher_below_avg_threshold": self.min_mean_word_chars,
            "gopher_above_avg_threshold": self.max_mean_word_chars,
            "gopher_too_many_hashes": self.max_symbols_per_word,
            "gopher_too_many_ellipsis": self.max_symbols_per_word,
            "gopher_too_many_bullets": self.max_bullet_line_fraction,
            "gopher_too_many_end_ellipsis": self.max_ellipsis_line_fraction,
            "gopher_below_alpha_threshold": self.min_alphabetic_word_fraction,
            "gopher_enough_stop_words": self.min_stop_words,
        }

        def explain(text: str, reason: str) -> Drop:
            return Drop(reason, float(_FIGURES[reason](text)), float(thresholds[reason]))

        return decide_with(oracle, explain)


def _words(text: str) -> list[str]:
    return SHARED_WORDS.word_tokenize(text)


def _word_lengths(text: str) -> list[int]:
    """Characters of each word that is not punctuation only."""
    return [len(word) for word in _words(text) if any(char not in PUNCTUATION_SET for char in word)]


def _num_words(text: str) -> int:
    return len(_word_lengths(text))


def _mean_word_chars(text: str) -> Any:
    return np.mean(_word_lengths(text))


def _line_fraction(text: str, is_counted: Callable[[str], bool]) -> float:
    lines = text.splitlines()
    return sum(map(is_counted, lines)) / len(lines)


_FIGURES: dict[str, Callable[[str], Any]] = {
    "gopher_short_doc": _num_words,
    "gopher_long_doc": _num_words,
    "gopher_below_avg_threshold": _mean_word_chars,
    "gopher_above_avg_threshold": _mean_word_chars,
    "gopher_too_many_hashes": lambda text: text.count("#") / len(_words(text)),
    "gopher_too_many_ellipsis": lambda text: (text.count("...") + text.count("…")) / len(_words(text)),
    "gopher_too_many_bullets": lambda text: _line_fraction(text, lambda line: line.lstrip().startswith(("•", "-"))),
    "gopher_too_many_end_ellipsis": lambda text: _line_fraction(
        text, lambda line: line.rstrip().endswith(("...", "…"))
    ),
    "gopher_below_alpha_threshold": lambda text: (
        sum(any(char.isalpha() for char in word) for word in _words(text)) / len(_words(text))
    ),
    "gopher_enough_stop_words": lambda text: len(set(STOP_WORDS).intersection(_words(text))),
}
"""By datatrove's reason, the figure that broke the limit, defined as datatrove defines it."""
