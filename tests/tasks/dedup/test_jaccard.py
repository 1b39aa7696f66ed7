from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.dedup.jaccard import MISS_PROBABILITY, SharedShingles, jaccard, jaccard_bounds, min_equal_hashes

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


@given(st.lists(HASHES, min_size=1, max_size=6))
def test_no_similarity_exceeds_its_bound(texts: list[set[int]]) -> None:
    arrays = [np.array(sorted(text), dtype=np.uint64) for text in texts]
    shared = SharedShingles(len(texts))
    for array in arrays:
        shared.add(array)
    sizes, counts = np.array([len(array) for array in arrays]), np.array([shared.count(array) for array in arrays])
    for number, array in enumerate(arrays):
        others = [other for other in range(len(arrays)) if other != number]
        bounds = jaccard_bounds(sizes[number], counts[number], sizes[others], counts[others])
        assert all(jaccard(array, arrays[other]) <= bound for other, bound in zip(others, bounds, strict=True))


def test_texts_of_their_own_are_ruled_out_by_their_number() -> None:
    """100 texts of 70 common shingles and 30 of their own each: 70 of 130 at most."""
    rng = np.random.default_rng(9)
    common = rng.integers(0, 2**64, 70, dtype=np.uint64)
    texts = [np.unique(np.concatenate([common, rng.integers(0, 2**64, 30, dtype=np.uint64)])) for _ in range(100)]
    shared = SharedShingles(len(texts))
    for text in texts:
        shared.add(text)
    counts = np.array([shared.count(text) for text in texts])
    assert np.mean(counts == 70) > 0.3  # 10,000 shingles in 131,072 slots: of 30, two look shared on average
    assert counts.max() <= 80
