"""Keeping the best share of a corpus: one cut on the scores of all its documents, whatever shard each one is in.

A share is a property of a corpus and not of a document, so such a rule cannot decide on a shard alone. Every document
is scored first; then one cut, in the order of scores, parts those that are kept from the others. Scores are rounded to
four digits before that, so that they can be counted: the cut is exact for them, ties on it are all kept, and neither
shards, their order nor the number of workers enters it.

The cut is recorded with the version that it was found for, and stands for all that is built onto that version: what was
decided stays decided. A version that is made again from all of its inputs has a cut of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Self

from pydantic import Field

from tasks.rule import Configuration

TICKS = 10_000
"""Scores are whole numbers of ten-thousandths."""


def rounded(score: float) -> float:
    """A score as it is compared and recorded: four digits."""
    return round(score * TICKS) / TICKS


def lowest_kept(counts: Mapping[int, int], keep_share: float) -> int:
    """The highest score, in ticks, such that at least `keep_share` of the documents score so much; 0 of no documents.

    `counts` are documents by score. More than the share is kept only where several score just as much.
    """
    wanted = math.ceil(Fraction(str(keep_share)) * sum(counts.values()))  # as it is written: .1 of 30 are 3
    num_kept = 0
    for ticks in sorted(counts, reverse=True):
        num_kept += counts[ticks]
        if num_kept >= wanted:
            return ticks
    return 0


class Cut(Configuration):
    """The score that parts what a corpus keeps from what it does not, as its manifests record it."""

    min_score: float = Field(ge=0, le=1, description="The lowest that is kept")
    keep_share: float = Field(description="The share that was asked for")
    version: int = Field(ge=1, description="Of the corpus, among whose documents the cut was found")
    inputs: str = Field(description="Fingerprint of the files that these came from")
    num_texts: int = Field(ge=0, description="Documents that were scored then")
    num_kept: int = Field(ge=0, description="Of these, those on or above the cut")
    num_texts_since: int = Field(0, ge=0, description="Documents that were scored for versions built onto that one")
    num_kept_since: int = Field(0, ge=0, description="Of these, those on or above the cut")

    def with_more(self, counts: Mapping[int, int]) -> Self:
        """The same cut, after more documents were decided by it."""
        return self.model_copy(
            update={
                "num_texts_since": self.num_texts_since + sum(counts.values()),
                "num_kept_since": self.num_kept_since + num_from(counts, self.min_score),
            }
        )

    def __str__(self) -> str:
        return f"the cut at a score of {self.min_score:.4f}, found for version {self.version}"


def find_cut(counts: Mapping[int, int], keep_share: float, *, version: int, inputs: str) -> Cut:
    """The cut that keeps `keep_share` of the documents counted by score."""
    min_score = lowest_kept(counts, keep_share) / TICKS
    return Cut(
        min_score=min_score,
        keep_share=keep_share,
        version=version,
        inputs=inputs,
        num_texts=sum(counts.values()),
        num_kept=num_from(counts, min_score),
    )


def num_from(counts: Mapping[int, int], min_score: float) -> int:
    """How many documents score at least so much."""
    return sum(count for ticks, count in counts.items() if ticks / TICKS >= min_score)
