from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.array_file import ArrayWriter, open_array, sorted_range
from tasks.dedup.keys import KEY


@pytest.mark.parametrize("lengths", [[], [0], [3], [1, 0, 2], [7] * 200])
def test_pieces_become_the_file_that_numpy_would_write(tmp_path: Path, lengths: list[int]) -> None:
    pieces = [np.arange(2 * length, dtype=np.int64).reshape(length, 2) for length in lengths]
    with ArrayWriter(tmp_path / "pieces.npy", np.dtype("<i8"), 2) as writer:
        for piece in pieces:
            writer.write(piece)
    whole = np.concatenate([np.empty((0, 2), np.int64), *pieces])
    np.save(tmp_path / "whole.npy", whole)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert writer.num_rows == len(whole)
    assert np.array_equal(open_array(tmp_path / "pieces.npy"), whole)


def test_records_and_views(tmp_path: Path) -> None:
    keys = np.array([(3, 1), (5, 2), (2**64 - 1, 3)], dtype=KEY)
    with ArrayWriter(tmp_path / "keys.npy", KEY) as writer:
        writer.write(keys[::2])
    assert open_array(tmp_path / "keys.npy").tolist() == [(3, 1), (2**64 - 1, 3)]


def test_an_unfinished_file_is_seen_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ArrayWriter(tmp_path / "a.npy", np.dtype("<i8")) as writer:
        writer.write(np.arange(5))
        raise KeyboardInterrupt
    assert len(open_array(tmp_path / "a.npy")) == 0


values = st.integers(0, 2**64 - 1) | st.integers(0, 9)


@given(st.lists(values, max_size=20), values, st.integers(0, 2**64))
def test_sorted_range_finds_what_lies_between(numbers: list[int], first: int, last: int) -> None:
    keys = np.zeros(len(numbers), dtype=KEY)
    keys["key"] = sorted(numbers)
    found = keys["key"][sorted_range(keys["key"], first, last)].tolist()
    assert found == sorted(number for number in numbers if first <= number < last)
