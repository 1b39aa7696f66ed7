"""FineWeb's own quality rules: pages that are lists, menus or repeated lines.

Source of every limit: Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale"
(arXiv:2406.17557), section 3.6. The paper finds line punctuation 0.12, duplicate-line characters 0.1 and short lines
0.67; the published data set was made with 0.01 for duplicate-line characters, which is what datatrove and this rule
have by default. Decisions are those of datatrove's `FineWebQualityFilter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.utils.text import TERMINAL_PUNCTUATION
from pydantic import Field

from tasks.document import Decision, Document, Drop
from tasks.filters.datatrove_adapter import decide_with
from tasks.filters.words import SHARED_WORDS, EnoughWords
from tasks.rule import Rule


class FineWebQuality(Rule):
    """Drops pages whose lines are not those of running text; lines without any character but white space do not count.

    Reasons: empty, line_punct_ratio, short_line_ratio, char_dup_ratio, list_ratio.
    """

    kind: Literal["fineweb"] = "fineweb"
    libraries: ClassVar[tuple[str, ...]] = ("datatrove", "spacy")

    min_line_punctuation_fraction: float = Field(
        0.12, ge=0, le=1, description="Lines that end with terminal punctuation, of all lines, at least (FineWeb 3.6)."
    )
    max_short_line_fraction: float = Field(
        0.67, ge=0, le=1, description="Short lines, of all lines, at most (FineWeb 3.6)."
    )
    short_line_chars: int = Field(30, ge=0, description="A line of at most so many characters is short (FineWeb 3.6).")
    max_duplicate_line_char_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Characters in repeated lines, of all but line breaks, at most (the FineWeb data set).",
    )
    max_newlines_per_word: float = Field(
        0.3, ge=0, description="Line breaks per word (punctuation marks are words), at most (the FineWeb data set)."
    )

    def build(self) -> Callable[[Document], Decision]:
        def list_ratio_is_kept(text: str, num_words: int) -> bool:
            return text.count("\n") / num_words <= self.max_newlines_per_word

        oracle = FineWebQualityFilter(
            line_punct_thr=self.min_line_punctuation_fraction,
            short_line_thr=self.max_short_line_fraction,
            short_line_length=self.short_line_chars,
            char_duplicates_ratio=self.max_duplicate_line_char_fraction,
            new_line_ratio=self.max_newlines_per_word,
            language=EnoughWords(list_ratio_is_kept),
        )

        def explain(text: str, reason: str) -> Drop:
            lines = [line for line in text.split("\n") if line.strip()]
            if reason == "line_punct_ratio":
                value = sum(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in lines) / len(lines)
                return Drop(reason, value, self.min_line_punctuation_fraction)
            if reason == "short_line_ratio":
                value = sum(len(line) <= self.short_line_chars for line in lines) / len(lines)
                return Drop(reason, value, self.max_short_line_fraction)
            if reason == "char_dup_ratio":
                value = find_duplicates(lines)[1] / len(text.replace("\n", ""))
                return Drop(reason, value, self.max_duplicate_line_char_fraction)
            assert reason == "list_ratio", reason
            value = text.count("\n") / len(SHARED_WORDS.word_tokenize(text))
            return Drop(reason, value, self.max_newlines_per_word)

        return decide_with(oracle, explain)
