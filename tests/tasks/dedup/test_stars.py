from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.dedup.stars import EdgeFile, NodeRange, Passed, contract, cut_up, large_star, spanning_stars

Pairs = Sequence[tuple[int, int]]
NUM_NODES = 12
graphs = st.lists(st.tuples(*2 * [st.integers(0, NUM_NODES - 1)]), max_size=30)


def as_array(edges: Pairs) -> NDArray[np.int64]:
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


def smallest_connected(edges: Pairs) -> dict[int, int]:
    """Every node's component, by handing the smaller number on until nothing changes."""
    label = {node: node for edge in edges for node in edge}
    for _ in label:
        for a, b in edges:
            label[a] = label[b] = min(label[a], label[b])
    return label


def read_runs(passed: Passed) -> set[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for path in passed.runs:
        run = [tuple(edge) for edge in np.load(path, allow_pickle=False).tolist()]
        assert run == sorted(set(run))
        found += run
    return set(found)


def write_run(folder: Path, name: str, edges: Pairs) -> Path:
    np.save(folder / name, as_array(sorted(set(edges))))
    return folder / name


# --- at once ----------------------------------------------------------------------------------------------------------


@given(graphs)
def test_spanning_stars_are_the_components(edges: Pairs) -> None:
    expected = smallest_connected(edges)
    stars = spanning_stars(as_array(edges))
    assert stars.dtype == np.int64
    assert stars.tolist() == [[centre, node] for node, centre in sorted(expected.items()) if centre != node]


def test_spanning_stars_of_repeated_edges() -> None:
    """More than any small integer counts, so that no sum of them comes to nothing."""
    assert spanning_stars(np.tile(as_array([(9, 4)]), (1 << 16, 1))).tolist() == [[4, 9]]


# --- passes -----------------------------------------------------------------------------------------------------------


def passed_over(
    function: Callable[[tuple[NodeRange, Path]], Passed], folder: Path, runs: Sequence[Path], cut: int, max_edges: int
) -> tuple[set[tuple[int, int]], bool]:
    """What a pass over two ranges of nodes gives, and whether it changed anything."""
    results = [
        function((NodeRange(tuple(runs), first, last, max_edges), folder / f"{function.__name__}-{first}"))
        for first, last in ((0, cut), (cut, NUM_NODES))
    ]
    return set().union(*map(read_runs, results)), any(result.changed for result in results)


limits = st.integers(1, 8) | st.just(100)


@settings(max_examples=150)
@given(graphs, st.integers(0, NUM_NODES), limits, st.integers(0, 30))
def test_a_pass_keeps_the_components_and_comes_closer_to_stars(edges: Pairs, cut: int, limit: int, split: int) -> None:
    before = [(max(edge), min(edge)) for edge in edges if edge[0] != edge[1]]
    with TemporaryDirectory() as name:
        folder = Path(name)
        runs = [write_run(folder, "one.npy", before[:split]), write_run(folder, "two.npy", before[split:])]
        both_ways, changed = passed_over(contract, folder, runs, cut, limit)
        assert both_ways == {(b, a) for a, b in both_ways}  # found by both its nodes
        contracted = [edge for edge in both_ways if edge[0] > edge[1]]
        check_step(before, contracted, changed)
        halves = sorted(both_ways)[::2], sorted(both_ways)[1::2]
        runs = [write_run(folder, "one.npy", halves[0]), write_run(folder, "two.npy", halves[1])]
        starred, changed = passed_over(large_star, folder, runs, cut, limit)
        assert all(node > neighbour for node, neighbour in starred)
        check_step(contracted, list(starred), changed)


def check_step(before: Pairs, after: Pairs, changed: bool) -> None:
    assert smallest_connected(before) == smallest_connected(after)
    assert changed == (set(before) != set(after))
    assert len(set(after)) <= len(set(before))
    total = [sum(map(sum, set(edges))) for edges in (before, after)]
    assert total[1] < total[0] if changed else total[1] == total[0]


def test_what_neither_pass_changes_is_stars(tmp_path: Path) -> None:
    stars = write_run(tmp_path, "stars.npy", [(3, 0), (5, 0), (7, 2)])
    assert passed_over(contract, tmp_path, [stars], 4, 2) == ({(3, 0), (0, 3), (5, 0), (0, 5), (7, 2), (2, 7)}, False)
    both = write_run(tmp_path, "both.npy", [(3, 0), (0, 3), (5, 0), (0, 5), (7, 2), (2, 7)])
    assert passed_over(large_star, tmp_path, [both], 4, 1) == ({(3, 0), (5, 0), (7, 2)}, False)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_large_star_hangs_the_larger_neighbours_on_the_smallest(tmp_path: Path, limit: int) -> None:
    path = write_run(tmp_path, "path.npy", [(1, 0), (0, 1), (2, 1), (1, 2), (3, 2), (2, 3)])
    assert passed_over(large_star, tmp_path, [path], 2, limit) == ({(1, 0), (2, 0), (3, 1)}, True)


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, {(2, 1), (4, 1), (5, 1), (6, 5)}), (100, {(2, 1), (5, 1), (6, 1)})]
)
def test_a_contraction_joins_what_the_range_connects(
    tmp_path: Path, limit: int, expected: set[tuple[int, int]]
) -> None:
    edges = [(5, 1), (5, 2), (6, 5)] + [(5, 4)] * (limit == 1)
    found, changed = passed_over(contract, tmp_path, [write_run(tmp_path, "fork.npy", edges)], 0, limit)
    assert ({edge for edge in found if edge[0] > edge[1]}, changed) == (expected, True)


@given(graphs, st.integers(1, 8))
def test_edges_are_cut_up_into_runs(edges: Pairs, limit: int) -> None:
    with TemporaryDirectory() as name:
        np.save(Path(name) / "edges.npy", as_array(edges))
        passed = cut_up((EdgeFile(Path(name) / "edges.npy", limit), Path(name) / "run"))
        found = read_runs(passed)
        assert all(len(np.load(path)) <= limit for path in passed.runs)
    assert all(node > neighbour for node, neighbour in found)
    without_loops = [edge for edge in edges if edge[0] != edge[1]]
    assert smallest_connected(list(found)) == smallest_connected(without_loops)
