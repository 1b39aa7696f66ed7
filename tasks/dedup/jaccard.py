"""The true Jaccard similarity of two texts' shingle sets, and when a signature already says that it is too low.

The same shingles as the signatures are made of, so what is verified is what was estimated. The only error is that of
64-bit hashes: two different shingles count as one with probability 2^-64 a pair.
"""

from __future__ import annotations

import numpy as np
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


def min_equal_hashes(min_jaccard: float, num_hashes: int) -> int:
    """Equal entries that two signatures must have for their texts to be worth comparing.

    Over the choice of hash functions, the equal entries of two texts of similarity s are binomial (num_hashes, s).
    Texts with `s >= min_jaccard` have fewer than this number with a probability below `MISS_PROBABILITY`, at any
    number of hashes; that a pair shares a band besides only lowers it. At 112 hashes and .7 it is 48 (an estimate of
    .43); with few hashes it is 0 and rules nothing out; at `min_jaccard` 1 it is all of them, as equal sets have.
    """
    return int(binom.ppf(MISS_PROBABILITY, num_hashes, min_jaccard)) if min_jaccard > 0 else 0
