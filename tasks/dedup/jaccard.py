"""The true Jaccard similarity of two texts' shingle sets, and when a signature already says that it is too low.

The same shingles as the signatures are made of, so what is verified is what was estimated. The only error is that of
64-bit hashes: two different shingles count as one with probability 2^-64 a pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from tasks.dedup.signature import Hashes

MISS_PROBABILITY = 1e-9
"""Bound on the probability that `min_equal_hashes` rules out a pair whose true similarity is at the threshold."""


def jaccard(left: Hashes, right: Hashes) -> float:
    """Jaccard similarity of two sets of shingle hashes, each sorted, without repetitions and not empty."""
    merged = np.concatenate([left, right])
    merged.sort()  # numpy sorts with vector instructions: twice as fast as looking one set up in the other
    num_common = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return num_common / (len(merged) - num_common)


SLOTS_PER_TEXT = 1024
MAX_SLOTS = 1 << 26
"""64 MB; good for some 30 million different shingles, and merely less sharp beyond."""


class SharedShingles:
    """Which shingles may occur in several texts; the others cannot be common to any two.

    What it is for: pages of one template share the template's shingles, and each has a body of its own. They are
    similar enough to be candidates of each other, all with all, and the size of their bodies alone rules most of these
    pairs out, without looking at any.

    One byte a slot counts the texts with a shingle that falls there, up to two. Shingles that collide can only make
    some look shared that are not, so the bounds are always true.
    """

    def __init__(self, num_texts: int) -> None:
        bits = min(num_texts * SLOTS_PER_TEXT, MAX_SLOTS).bit_length()
        self._shift = np.uint64(64 - bits)
        self._num_texts = np.zeros(1 << bits, dtype=np.uint8)

    def add(self, shingles: Hashes) -> None:
        """The shingles of one more text."""
        slots = shingles >> self._shift
        self._num_texts[slots] = np.minimum(self._num_texts[slots] + 1, 2)

    def count(self, shingles: Hashes) -> int:
        """Of the shingles of a text that was added, those that another text may have, too."""
        return int(np.count_nonzero(self._num_texts[shingles >> self._shift] > 1))


def jaccard_bounds(
    size: np.int64, num_shared: np.int64, sizes: NDArray[np.int64], nums_shared: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Upper bounds of the similarity of one text with others, by their numbers of shingles and of shared ones."""
    common = np.minimum(num_shared, nums_shared)
    return np.asarray(common / (size + sizes - common))


def min_equal_hashes(min_jaccard: float, num_hashes: int) -> int:
    """Equal entries that two signatures must have for their texts to be worth comparing.

    Over the choice of hash functions, the equal entries of two texts of similarity s are binomial (num_hashes, s).
    Texts with `s >= min_jaccard` have fewer than this number with a probability below `MISS_PROBABILITY`, at any
    number of hashes; that a pair shares a band besides only lowers it. At 112 hashes and .7 it is 48 (an estimate of
    .43); with few hashes it is 0 and rules nothing out; at `min_jaccard` 1 it is all of them, as equal sets have.
    """
    return int(binom.ppf(MISS_PROBABILITY, num_hashes, min_jaccard)) if min_jaccard > 0 else 0
