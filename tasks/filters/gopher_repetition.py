"""Gopher's repetition rules: pages that repeat lines, paragraphs or phrases.

Source of every limit: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher"
(arXiv:2112.11446), table A1, as FineWeb uses them. Decisions are those of datatrove's `GopherRepetitionFilter`.

The fractions of characters divide by all characters of the text, white space included, as datatrove does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Literal

from datatrove.pipeline.filters.gopher_repetition_filter import (
    GopherRepetitionFilter,
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)
from pydantic import Field

from tasks.document import Decision, Document, Drop
from tasks.filters.datatrove_adapter import decide_with
from tasks.filters.words import SHARED_WORDS
from tasks.rule import Rule

_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
_LINE_BREAK = re.compile(r"\n+")


def _fraction(default: float, of_what: str) -> float:
    limit: float = Field(default, gt=0, le=1, description=f"{of_what}, at most (Gopher, table A1).")
    return limit


class GopherRepetition(Rule):
    """Drops pages that repeat themselves.

    Reasons: empty, dup_para_frac, dup_para_char_frac, dup_line_frac, dup_line_char_frac, top_{2,3,4}_gram,
    duplicated_{5..10}_n_grams; the value is the fraction that the reason names.
    """

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    libraries: ClassVar[tuple[str, ...]] = ("datatrove", "spacy")

    max_duplicate_line_fraction: float = _fraction(0.30, "Lines that repeat an earlier line, of all lines")
    max_duplicate_paragraph_fraction: float = _fraction(
        0.30, "Paragraphs that repeat an earlier one, of all paragraphs"
    )
    max_duplicate_line_char_fraction: float = _fraction(0.20, "Characters in repeated lines, of all characters")
    max_duplicate_paragraph_char_fraction: float = _fraction(
        0.20, "Characters in repeated paragraphs, of all characters"
    )
    max_top_2_gram_char_fraction: float = _fraction(
        0.20, "Characters in the most frequent word pair, of all characters"
    )
    max_top_3_gram_char_fraction: float = _fraction(0.18, "Characters in the most frequent 3-gram, of all characters")
    max_top_4_gram_char_fraction: float = _fraction(0.16, "Characters in the most frequent 4-gram, of all characters")
    max_duplicate_5_gram_char_fraction: float = _fraction(0.15, "Characters in repeated 5-grams, of all characters")
    max_duplicate_6_gram_char_fraction: float = _fraction(0.14, "Characters in repeated 6-grams, of all characters")
    max_duplicate_7_gram_char_fraction: float = _fraction(0.13, "Characters in repeated 7-grams, of all characters")
    max_duplicate_8_gram_char_fraction: float = _fraction(0.12, "Characters in repeated 8-grams, of all characters")
    max_duplicate_9_gram_char_fraction: float = _fraction(0.11, "Characters in repeated 9-grams, of all characters")
    max_duplicate_10_gram_char_fraction: float = _fraction(0.10, "Characters in repeated 10-grams, of all characters")

    def build(self) -> Callable[[Document], Decision]:
        top_limits = {n: getattr(self, f"max_top_{n}_gram_char_fraction") for n in (2, 3, 4)}
        duplicate_limits = {n: getattr(self, f"max_duplicate_{n}_gram_char_fraction") for n in range(5, 11)}
        oracle = GopherRepetitionFilter(
            dup_line_frac=self.max_duplicate_line_fraction,
            dup_para_frac=self.max_duplicate_paragraph_fraction,
            dup_line_char_frac=self.max_duplicate_line_char_fraction,
            dup_para_char_frac=self.max_duplicate_paragraph_char_fraction,
            top_n_grams=tuple(top_limits.items()),
            dup_n_grams=tuple(duplicate_limits.items()),
            language=SHARED_WORDS,
        )

        def explain(text: str, reason: str) -> Drop:
            if reason == "dup_para_frac":
                paragraphs = _PARAGRAPH_BREAK.split(text.strip())
                value = find_duplicates(paragraphs)[0] / len(paragraphs)
                return Drop(reason, value, self.max_duplicate_paragraph_fraction)
            if reason == "dup_para_char_frac":
                value = find_duplicates(_PARAGRAPH_BREAK.split(text.strip()))[1] / len(text)
                return Drop(reason, value, self.max_duplicate_paragraph_char_fraction)
            if reason == "dup_line_frac":
                lines = _LINE_BREAK.split(text)
                return Drop(reason, find_duplicates(lines)[0] / len(lines), self.max_duplicate_line_fraction)
            if reason == "dup_line_char_frac":
                value = find_duplicates(_LINE_BREAK.split(text))[1] / len(text)
                return Drop(reason, value, self.max_duplicate_line_char_fraction)
            n = int(reason.split("_")[1])
            words = SHARED_WORDS.word_tokenize(text)
            if reason.startswith("top_"):
                return Drop(reason, find_top_duplicate(get_n_grams(words, n)) / len(text), top_limits[n])
            return Drop(reason, find_all_duplicate(words, n) / len(text), duplicate_limits[n])

        return decide_with(oracle, explain)
