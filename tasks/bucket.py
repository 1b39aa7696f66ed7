"""Buckets of a corpus version: what lies in which part, and how the parts are called.

A record's bucket is the leading 16 bits of its id, which is a hash: buckets are even, their number is fixed for a
corpus, and reading them in order is reading in the order of ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PART_KINDS = ("documents", "originals", "ledger", "edits", "index")
"""The folders of a version: one Parquet part a bucket in each."""
KEYS = "keys"
"""Of the index there is a second file a bucket: the sorted run of its keys."""


@dataclass(frozen=True)
class Bucket:
    """One of the equal parts of all ids."""

    index: int
    num_buckets: int

    def bounds(self) -> tuple[str, str]:
        """Ids in this bucket: at least the first, below the second (16 bits of the id, as hexadecimal digits)."""
        width = 65536 // self.num_buckets
        end = (self.index + 1) * width
        return f"{self.index * width:04x}", f"{end:04x}" if end < 65536 else "g"

    def share_of(self, by_id: Mapping[str, str]) -> dict[str, str]:
        """The entries whose ids are in this bucket."""
        low, high = self.bounds()
        return {record_id: value for record_id, value in by_id.items() if low <= record_id < high}

    def slices(self, number: int) -> tuple[tuple[str, str], ...]:
        """The bucket's bounds cut into `number` ranges of ids, which are as even as ids are: 32 bits are looked at."""
        width = (1 << 32) // self.num_buckets
        first = self.index * width
        cuts = [f"{first + width * index // number:08x}" for index in range(1, number)]
        low, high = self.bounds()
        return tuple(itertools.pairwise([low, *cuts, high]))

    def part(self, kind: str) -> str:
        """Where the bucket's part of this kind lies in a version's folder: `documents/bucket-000.parquet`.

        The order of the names is that of the ids.
        """
        stem = f"bucket-{self.index:0{max(3, len(str(self.num_buckets - 1)))}d}"
        return f"index/{stem}.keys.npy" if kind == KEYS else f"{kind}/{stem}.parquet"

    def paths(self) -> tuple[str, ...]:
        """Of all files that the bucket has in a version."""
        return tuple(self.part(kind) for kind in (*PART_KINDS, KEYS))

    def parts(self, version: Path | None, *kinds: str) -> tuple[Path, ...]:
        """The files of these kinds in the folder of a version; none where there is no version."""
        return tuple(version / self.part(kind) for kind in kinds) if version is not None else ()


def buckets(num_buckets: int) -> tuple[Bucket, ...]:
    """All of them, in the order of ids."""
    return tuple(Bucket(index, num_buckets) for index in range(num_buckets))
