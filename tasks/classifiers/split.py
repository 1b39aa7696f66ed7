"""Which side of a split a text is on: never another one than its near-duplicates, whatever else there is.

A retweet, a quoted comment or a page with another date would be learnt on one side and asked on the other, and the
figures would be those of memory. So texts that resemble each other are one cluster (connected components of pairs with
a true Jaccard similarity of at least `MIN_JACCARD`), and so are texts of one group, such as the pieces of a page. The
side is a hash of the smallest key in the cluster. It therefore depends on the cluster alone: not on order, files, or
unrelated texts that are added later.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.candidates import BandGroups, Scratch
from tasks.dedup.signature import MinHash, WordHashes, shingles, signatures

Side = Literal["train", "validation", "test"]

TRAIN_FRACTION = 0.8
VALIDATION_FRACTION = 0.1
MIN_JACCARD = 0.7

MINHASH = MinHash(num_bands=32, rows_per_band=4, shingle_words=3)
"""Finds 99.98 % of the pairs that are as similar as `MIN_JACCARD`, where a corpus is content with 56 %. Runs of three
words instead of five, because a changed word in a tweet of twelve changes five of its eight runs of five."""

_TEXTS_PER_BATCH = 4096
_RANGE = 2**64


def clusters(lines: Sequence[str], groups: Sequence[str] = ()) -> NDArray[np.int64]:
    """The cluster of each line, called by the number of its first line. Equal lines are one cluster, and so are lines
    of one of the `groups`, one for each line, where that is not empty.

    Memory: 1 kB a line for its signature, 8 bytes for each distinct run of words in lines that share a band with any.
    """
    from tasks.dedup.jaccard import jaccard, min_equal_hashes  # scipy.stats: a second that a form need not wait

    first_of: dict[str, int] = {}
    numbers = np.array([first_of.setdefault(line, len(first_of)) for line in lines], dtype=np.int64)
    distinct = list(first_of)
    if not distinct:
        return numbers
    word_hashes = WordHashes()
    table = np.concatenate(
        [
            signatures(distinct[start : start + _TEXTS_PER_BATCH], MINHASH, word_hashes)
            for start in range(0, len(distinct), _TEXTS_PER_BATCH)
        ]
    )
    bands = BandGroups(lambda texts: table[texts], len(distinct), MINHASH)
    leaders = _Leaders(len(distinct))
    first_in: dict[str, int] = {}
    for number, group in zip(numbers.tolist(), groups, strict=bool(groups)):
        if group:
            leaders.join(first_in.setdefault(group, number), number)
    with tempfile.TemporaryDirectory() as folder:
        shingle_sets = _ShingleSets(distinct, bands.shares_any(), word_hashes, Path(folder))
        min_equal = min_equal_hashes(MIN_JACCARD, MINHASH.num_hashes)
        for text in np.flatnonzero(bands.shares_any()).tolist():
            met = np.unique(bands.met(text))
            equal = np.count_nonzero(table[met] == table[text], axis=1)
            for other in met[equal >= min_equal].tolist():
                if leaders.of(other) != leaders.of(text) and (
                    jaccard(shingle_sets.of(text), shingle_sets.of(other)) >= MIN_JACCARD
                ):
                    leaders.join(other, text)
            bands.add(text, text)
    first_line = np.full(len(distinct), -1, dtype=np.int64)
    result = np.empty(len(lines), dtype=np.int64)
    for line, number in enumerate(numbers.tolist()):
        leader = leaders.of(number)
        if first_line[leader] < 0:
            first_line[leader] = line
        result[line] = first_line[leader]
    return result


def cluster_keys(lines: Sequence[str], cluster_of: NDArray[np.int64]) -> list[bytes]:
    """For each line the smallest SHA-256 of the lines in its cluster: what the cluster is known by anywhere."""
    smallest: dict[int, bytes] = {}
    of_line = cluster_of.tolist()
    for line, cluster in zip(lines, of_line, strict=True):
        key = hashlib.sha256(line.encode()).digest()
        smallest[cluster] = min(smallest.get(cluster, key), key)
    return [smallest[cluster] for cluster in of_line]


def side(cluster_key: bytes) -> Side:
    """Where a cluster goes: 80 % train, 10 % validation, 10 % test, by hash."""
    share = _share("side", cluster_key)
    if share < TRAIN_FRACTION:
        return "train"
    return "validation" if share < TRAIN_FRACTION + VALIDATION_FRACTION else "test"


def tunes(cluster_key: bytes) -> bool:
    """Of a cluster of background documents whether the threshold is chosen on it; the other half reports."""
    return _share("background", cluster_key) < 0.5


def _share(use: str, cluster_key: bytes) -> float:
    """Uniform in [0, 1); hashed once more, because the smallest key of many is small."""
    return int.from_bytes(hashlib.sha256(use.encode() + b"\0" + cluster_key).digest()[:8], "big") / _RANGE


class _Leaders:
    """Disjoint sets of numbers, each known by one of them."""

    def __init__(self, num_texts: int) -> None:
        self._above = list(range(num_texts))

    def of(self, text: int) -> int:
        while self._above[text] != text:
            self._above[text] = self._above[self._above[text]]
            text = self._above[text]
        return text

    def join(self, first: int, second: int) -> None:
        self._above[self.of(first)] = self.of(second)


class _ShingleSets:
    """The shingles of those texts that may be near-duplicates, sorted and distinct."""

    def __init__(self, texts: Sequence[str], wanted: NDArray[np.bool_], word_hashes: WordHashes, folder: Path) -> None:
        scratch = Scratch(folder)
        self._bounds: dict[int, tuple[int, int]] = {}
        for number in np.flatnonzero(wanted).tolist():
            start = len(scratch)
            scratch.append(np.unique(shingles(texts[number], MINHASH, word_hashes)))
            self._bounds[number] = start, len(scratch)
        self._values = scratch.mapped()

    def of(self, text: int) -> NDArray[np.uint64]:
        start, end = self._bounds[text]
        return self._values[start:end]
