from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.dedup.jaccard import MISS_PROBABILITY, jaccard, min_equal_hashes

HASHES = st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 20) | st.integers(2**64 - 9, 2**64 - 1), min_size=1)


@given(HASHES, HASHES)
def test_jaccard_is_that_of_the_sets(left: set[int], right: set[int]) -> None:
    arrays = [np.array(sorted(side), dtype=np.uint64) for side in (left, right)]
    assert jaccard(*arrays) == jaccard(*reversed(arrays)) == len(left & right) / len(left | right)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_ratio_meets_a_threshold_of_the_same_value(common: int, more: int) -> None:
    """7 shingles of 10 are .7: the comparison with the recipe's threshold has no rounding of its own."""
    left = np.arange(common, dtype=np.uint64)
    right = np.arange(common + more, dtype=np.uint64)
    assert jaccard(left, right) == common / (common + more)
    assert jaccard(np.arange(7, dtype=np.uint64), np.arange(10, dtype=np.uint64)) >= 0.7


@pytest.mark.parametrize("num_hashes", [1, 8, 24, 112, 1000, 8192])
@pytest.mark.parametrize("similarity", [0.01, 0.3, 0.7, 0.95, 0.999, 1.0])
def test_the_bound_misses_as_rarely_as_it_says_and_is_the_largest_such(num_hashes: int, similarity: float) -> None:
    bound = min_equal_hashes(similarity, num_hashes)
    assert binom.cdf(bound - 1, num_hashes, similarity) < MISS_PROBABILITY
    assert binom.cdf(bound, num_hashes, similarity) >= MISS_PROBABILITY
    assert min_equal_hashes(0, num_hashes) == 0


def test_the_bound_of_the_defaults() -> None:
    assert min_equal_hashes(0.7, 112) == 48
    assert min_equal_hashes(1.0, 112) == 112
