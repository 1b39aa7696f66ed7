from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.dedup.edges import num_key_partitions, write_edges
from tasks.dedup.keys import KEY
from tasks.dedup.stars import spanning_stars

Run = Sequence[tuple[int, int]]  # (key, row)
LARGEST = 2**64 - 1


def write_runs(folder: Path, runs: Sequence[Run]) -> tuple[list[Path], NDArray[np.int64]]:
    """Key runs of buckets, and the buckets' first nodes."""
    paths = [folder / f"keys-{number}.npy" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        np.save(path, np.array(sorted(run), dtype=KEY))
    return paths, np.cumsum([0, *(max((row for _, row in run), default=-1) + 1 for run in runs)], dtype=np.int64)


def all_edges(folder: Path, runs: Sequence[Run], num_partitions: int = 1, max_keys: int = 100) -> list[list[int]]:
    """The edges of all partitions together."""
    paths, starts = write_runs(folder, runs)
    found: list[list[int]] = []
    for partition in range(num_partitions):
        output = folder / f"edges-{partition}.npy"
        num_edges = write_edges(paths, starts, partition, num_partitions, output, max_keys)
        edges = np.load(output, allow_pickle=False)
        assert edges.dtype == np.int64 and edges.shape == (num_edges, 2)
        assert (edges[:, 0] < edges[:, 1]).all()
        found += edges.tolist()
    return found


def test_equal_keys_within_and_between_buckets(tmp_path: Path) -> None:
    runs = [[(7, 0), (9, 1), (7, 2)], [], [(9, 0), (8, 1), (LARGEST, 0), (LARGEST, 2)]]
    assert all_edges(tmp_path, runs) == [[0, 2], [1, 3], [1, 5]]  # 1 and 3 by 9, 3 and 5 by the largest key


def test_a_group_of_any_size_gives_less_edges_than_it_has_documents(tmp_path: Path) -> None:
    assert all_edges(tmp_path, [[(key, row) for key in range(5) for row in range(10)]]) == [
        [0, n] for n in range(1, 10)
    ]


@pytest.mark.parametrize("runs", [[[]], [[], []], [[(5, 0)], [(6, 0)]]])
def test_nothing_in_common(tmp_path: Path, runs: Sequence[Run]) -> None:
    assert all_edges(tmp_path, runs, num_partitions=3, max_keys=1) == []


def test_the_ends_of_the_key_space_are_in_a_partition(tmp_path: Path) -> None:
    runs = [[(0, 0), (LARGEST, 1)], [(0, 0), (LARGEST, 1)]]
    for num_partitions in (1, 2, 3, 7):
        assert sorted(all_edges(tmp_path, runs, num_partitions)) == [[0, 2], [1, 3]]


keys = st.sampled_from([0, 1, 2**63 - 1, 2**63, LARGEST - 1, LARGEST]) | st.integers(0, LARGEST)
key_runs = st.lists(st.sets(st.tuples(keys, st.integers(0, 5)), max_size=12), min_size=1, max_size=4)


@settings(max_examples=150)
@given(key_runs, st.integers(1, 5), st.integers(1, 8))
def test_connects_just_what_has_equal_keys(
    runs: list[set[tuple[int, int]]], num_partitions: int, max_keys: int
) -> None:
    with TemporaryDirectory() as name:
        found = all_edges(Path(name), [list(run) for run in runs], num_partitions, max_keys)
        _, starts = write_runs(Path(name), [list(run) for run in runs])
    nodes = [(key, start + row) for start, run in zip(starts.tolist(), runs, strict=False) for key, row in run]
    pairs = [[a, b] for key, a in nodes for other, b in nodes if key == other and a < b]
    connected = (spanning_stars(np.array(edges, dtype=np.int64).reshape(-1, 2)).tolist() for edges in (found, pairs))
    assert next(connected) == next(connected)


def test_number_of_partitions() -> None:
    assert [num_key_partitions(number, 10) for number in (0, 1, 10, 11, 100, 101)] == [1, 1, 1, 2, 10, 11]
    assert num_key_partitions(16_000_000_000) == 3815  # a thousand million documents with 14 bands, text and URL
