from __future__ import annotations

import numpy as np

from tasks.dedup.keys import KEY, row_keys, sorted_run
from tasks.dedup.signature import MinHash, bands, mix, signatures

CONFIG = MinHash(num_bands=3, rows_per_band=2, shingle_words=1)
GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def test_one_key_of_each_level_and_none_of_a_missing_url() -> None:
    found = signatures(["a b c", "d e f"], CONFIG)
    keys = row_keys(found, np.array([10, 11], "u8"), np.array([20, 0], "u8"), np.array([True, False]), CONFIG, 5)
    assert keys.dtype == KEY
    assert keys["row"].tolist() == [5] * 5 + [6] * 4
    first, second = bands(found, CONFIG).tolist()
    hashes = [(1, 10), (2, 20), *enumerate(first, 3), (1, 11), *enumerate(second, 3)]
    values = np.array([(hash_ + level * GOLDEN_GAMMA) % 2**64 for level, hash_ in hashes], dtype=np.uint64)
    assert keys["key"].tolist() == mix(values).tolist()


def test_equal_hashes_of_different_levels_are_different_keys() -> None:
    twelve = np.array([12], dtype=np.uint64)
    keys = row_keys(signatures(["a"], CONFIG), twelve, twelve, np.array([True]), CONFIG)
    assert len(np.unique(keys["key"])) == 5


def test_a_url_hash_of_zero_is_a_url() -> None:
    zero = np.array([0], dtype=np.uint64)
    assert len(row_keys(signatures(["a"], CONFIG), zero, zero, np.array([True]), CONFIG)) == 5


def test_no_rows() -> None:
    none = np.empty(0, dtype=np.uint64)
    assert row_keys(signatures([], CONFIG), none, none, none.astype(bool), CONFIG).shape == (0,)


def test_runs_are_sorted_by_key_then_row() -> None:
    keys = np.array([(9, 0), (2, 0), (9, 1), (2**64 - 1, 1), (2, 2)], dtype=KEY)
    assert sorted_run(keys).tolist() == [(2, 0), (2, 2), (9, 0), (9, 1), (2**64 - 1, 1)]
