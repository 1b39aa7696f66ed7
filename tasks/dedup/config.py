"""What counts as a duplicate, and which of the copies stays.

Documents are decided one after the other in the recipe's order. A document goes if and only if an earlier survivor
stands for it: equal text, equal canonical URL, or a shared MinHash band together with a true Jaccard similarity of at
least `min_jaccard`. So every removed document resembles the survivor that it is traced to, and the surviving set
depends on the documents alone: neither chains of near-duplicates nor shared templates swallow unrelated ones.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.dedup.signature import MinHash
from tasks.rule import Configuration


class Deduplication(Configuration):
    """How a corpus is deduplicated; enters the fingerprint of its versions as a whole."""

    minhash: MinHash = MinHash()
    min_jaccard: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Near-duplicates resemble their survivor at least so much: true Jaccard similarity of the word "
        "shingles; 0 trusts a shared band without looking (FineWeb's way)",
    )
    order: Literal["earliest", "longest"] = Field(
        default="earliest",
        description="Which of several copies stays: the earliest by date, or the longest text; ties by date, then id",
    )
    canonical_url: bool = Field(
        default=True, description="Documents of one address, whatever its tracking parameters, are copies of each other"
    )
    min_paragraph_chars: int = Field(
        default=0,
        ge=0,
        description="Paragraphs of at least so many characters are kept once in the corpus; 0 leaves paragraphs alone",
    )
