from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components

from tasks.dedup.components import Labels, connected_components, find_labels, touched_components
from tasks.dedup.keys import KEY
from tasks.ports import InProcessMap

Edges = NDArray[np.int64]


def expected_components(edges: Edges, num_nodes: int) -> NDArray[np.int64]:
    """By SciPy: the smallest node of every node's component."""
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    labels = scipy_components(graph, directed=False)[1]
    smallest = np.full(num_nodes, num_nodes)
    np.minimum.at(smallest, labels, np.arange(num_nodes))
    return smallest[labels]


def found_components(
    folder: Path, edges: Edges, starts: Sequence[int], num_files: int = 1, max_edges: int = 1 << 22
) -> tuple[Labels, list[int]]:
    """The labels, and how many edges there were before each pass."""
    files = [folder / f"edges-{number}.npy" for number in range(num_files)]
    for path, part in zip(files, np.array_split(edges, num_files), strict=True):
        np.save(path, part)
    num_edges: list[int] = []

    def progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        assert (stage, len(num_edges)) == ("components", done)
        if done < total:
            num_edges.append(int(note.split()[0]))

    labels = connected_components(files, np.array(starts), folder / "labels", InProcessMap(), progress, max_edges)
    assert (
        sorted(path.name for path in (folder / "labels").iterdir())[0] == "bounds.npy"
    )  # nothing of the passes is left
    assert not (folder / "labels" / "passes").exists()
    return labels, num_edges


def as_array(edges: Any) -> Edges:
    return np.array(edges, dtype=np.int64).reshape(-1, 2)


CHAIN = as_array([(node, node + 1) for node in range(999)])


@pytest.mark.parametrize(
    "edges",
    [
        pytest.param(CHAIN, id="chain"),
        pytest.param(CHAIN[::-1, ::-1], id="chain backwards"),
        pytest.param(np.random.default_rng(1).permutation(1000)[CHAIN], id="chain of shuffled nodes"),
        pytest.param(as_array([(999, node) for node in range(999)]), id="star around the largest node"),
        pytest.param(as_array([(0, node) for node in range(1, 1000)]), id="star around the smallest node"),
        pytest.param(as_array([(500, node) for node in range(1000)]), id="star around the middle, with a loop"),
        pytest.param(as_array([(a, b) for a in range(40) for b in range(a)]), id="clique"),
        pytest.param(as_array([(node // 2, node) for node in range(1, 1000)]), id="binary tree"),
        pytest.param(as_array([(node, node ^ 1) for node in range(1000)]), id="pairs, in both directions"),
    ],
)
@pytest.mark.parametrize("max_edges", [30, 1 << 22])
def test_graphs_of_a_thousand_nodes(tmp_path: Path, edges: Edges, max_edges: int) -> None:
    starts = [0, 0, 250, 333, 500, 999, 1000, 1000]
    labels, num_edges = found_components(tmp_path, edges, starts, num_files=3, max_edges=max_edges)
    assert np.array_equal(labels.of_range(0, 1000), expected_components(edges, 1000))
    assert num_edges == sorted(num_edges, reverse=True)
    assert len(num_edges) <= (24 if max_edges == 30 else 0)  # passes: some log2(1000) pairs of them at most


graphs = st.integers(1, 40).flatmap(
    lambda num_nodes: st.tuples(
        st.just(num_nodes), st.lists(st.tuples(*2 * [st.integers(0, num_nodes - 1)]), max_size=60).map(as_array)
    )
)


@settings(max_examples=100)
@given(graphs, st.lists(st.integers(0, 40), max_size=5), st.integers(1, 3), st.sampled_from([1, 2, 5, 100]))
def test_equals_scipy_however_it_is_partitioned(
    graph: tuple[int, Edges], cuts: list[int], num_files: int, max_edges: int
) -> None:
    num_nodes, edges = graph
    starts = sorted([0, *(min(cut, num_nodes) for cut in cuts), num_nodes])
    expected = expected_components(edges, num_nodes)
    with TemporaryDirectory() as name:
        labels, num_edges = found_components(Path(name), edges, starts, num_files, max_edges)
        assert num_edges == sorted(num_edges, reverse=True)
        assert np.array_equal(labels.of_range(0, num_nodes), expected)
        for first in range(0, num_nodes, 7):  # across the bounds of the files
            assert np.array_equal(labels.of_range(first, min(first + 9, num_nodes)), expected[first : first + 9])
        linked = labels.linked(0, num_nodes)
        not_alone = np.flatnonzero(np.bincount(expected, minlength=num_nodes)[expected] > 1)
        assert linked["node"].tolist() == not_alone.tolist()
        assert np.array_equal(linked["component"], expected[not_alone])


def test_a_graph_without_nodes(tmp_path: Path) -> None:
    labels, _ = found_components(tmp_path, as_array([]), [0, 0, 0])
    assert labels.of_range(0, 0).shape == labels.linked(0, 0).shape == (0,)
    assert touched_components(labels, [tmp_path / "edges-0.npy"] * 0, np.array([0]), tmp_path / "touched.npy") == 0


class Killed(BaseException):
    pass


class DyingMap(InProcessMap):
    """Is gone at the given call."""

    def __init__(self, calls: int) -> None:
        self.calls_left = calls

    def map(self, function: Callable[..., Any], items: Sequence[Any], **options: Any) -> list[Any]:
        if self.calls_left == 0:
            raise Killed
        self.calls_left -= 1
        return super().map(function, items, **options)


def test_after_a_kill_at_any_pass_the_next_call_gives_the_same(tmp_path: Path) -> None:
    starts = np.array([0, 300, 1000])
    (tmp_path / "expected").mkdir()
    expected, num_edges = found_components(tmp_path / "expected", CHAIN, starts.tolist(), max_edges=200)
    edge_files = [tmp_path / "expected" / "edges-0.npy"]
    assert len(num_edges) > 4
    for calls in range(len(num_edges) + 1):
        with pytest.raises(Killed):
            connected_components(edge_files, starts, tmp_path / "labels", DyingMap(calls), max_edges=200)
        with pytest.raises(AssertionError, match="no complete labels"):
            find_labels(tmp_path / "labels")
    connected_components(edge_files, starts, tmp_path / "labels", InProcessMap(), max_edges=200)
    names = sorted(path.name for path in expected.directory.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "labels").iterdir())
    for name in names:
        assert (expected.directory / name).read_bytes() == (tmp_path / "labels" / name).read_bytes()
    assert np.array_equal(find_labels(tmp_path / "labels").of_range(0, 1000), np.zeros(1000))


@settings(max_examples=60)
@given(graphs, st.lists(st.integers(0, 40), max_size=4), st.sets(st.integers(0, 39)), st.sampled_from([2, 100]))
def test_touched_components(graph: tuple[int, Edges], cuts: list[int], touched: set[int], max_edges: int) -> None:
    num_nodes, edges = graph
    starts = sorted([0, *(min(cut, num_nodes) for cut in cuts), num_nodes])
    nodes = sorted(node for node in touched if node < num_nodes)
    with TemporaryDirectory() as name:
        folder = Path(name)
        labels, _ = found_components(folder, edges, starts, max_edges=max_edges)
        files = []
        for bucket, (first, last) in enumerate(pairwise(starts)):
            files.append(folder / f"touched-{bucket}.npy")
            np.save(files[-1], np.array([node - first for node in nodes if first <= node < last], dtype=np.int64))
        num_components = touched_components(labels, files, np.array(starts), folder / "components.npy")
        found = np.load(folder / "components.npy", allow_pickle=False)
    assert found.dtype == np.int64
    assert found.tolist() == sorted(set(expected_components(edges, num_nodes)[nodes].tolist()))
    assert num_components == len(found)


# --- memory -----------------------------------------------------------------------------------------------------------

WITHIN = """
import resource, sys
from pathlib import Path
import numpy as np
import scipy.sparse.csgraph
from tasks.dedup.components import connected_components
from tasks.dedup.edges import num_key_partitions, write_edges
from tasks.ports import InProcessMap

folder, held, limit_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
starts = np.load(folder / "starts.npy")
keys = sorted(folder.glob("keys-*.npy"))
data_kib = next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]
resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(data_kib) + limit_bytes,) * 2)
num_partitions = num_key_partitions(sum(len(np.load(run, mmap_mode="r")) for run in keys), held)
edge_files = [folder / f"edges-{partition}.npy" for partition in range(num_partitions)]
for partition, path in enumerate(edge_files):
    write_edges(keys, starts, partition, num_partitions, path, held)
print("edges")
labels = connected_components(edge_files, starts, folder / "labels", InProcessMap(), max_edges=held)
components = (labels.of_range(first, first + 1000) for first in range(0, int(starts[-1]), 1000))
print("components", sum(np.count_nonzero(of_range == 0) for of_range in components))
"""


@pytest.mark.parametrize("held", [1 << 14, 1 << 22])
def test_memory_of_two_million_keys_is_bounded_by_what_may_be_held(tmp_path: Path, held: int) -> None:
    """100,000 documents have one key in common, and all others are in a chain: its components need many passes.

    The limit is on what a process may allocate beyond its imports; files that are mapped are no part of it.
    """
    num_documents, num_buckets, num_alike = 160_000, 4, 100_000
    rng = np.random.default_rng(1)
    order = rng.permutation(num_documents)  # the first in it are alike, and the rest is a chain
    nodes = [order[:num_alike], order[num_alike:-1], order[num_alike + 1 :], np.repeat(np.arange(num_documents), 12)]
    values = rng.integers(0, 2**64, num_documents, dtype=np.uint64)
    of_chain = values[: len(nodes[1])]
    of_all = [
        np.full(num_alike, 2**63, np.uint64),
        of_chain,
        of_chain,
        rng.integers(0, 2**64, len(nodes[3]), np.uint64),
    ]
    keys, owners = np.concatenate(of_all), np.concatenate(nodes)
    starts = np.linspace(0, num_documents, num_buckets + 1).astype(np.int64)
    for bucket, (first, last) in enumerate(pairwise(starts.tolist())):
        inside = (owners >= first) & (owners < last)
        run = np.empty(np.count_nonzero(inside), dtype=KEY)
        run["key"], run["row"] = keys[inside], owners[inside] - first
        np.save(tmp_path / f"keys-{bucket}.npy", run[np.lexsort((run["row"], run["key"]))])
    np.save(tmp_path / "starts.npy", starts)

    arguments = [str(tmp_path), str(held), str(16 << 20)]
    ended = subprocess.run([sys.executable, "-c", WITHIN, *arguments], capture_output=True, text=True)
    if held == 1 << 22:  # all at once: what the limit is for
        assert "MemoryError" in ended.stderr
        return
    assert ended.stderr == ""
    size_of_first = num_alike if 0 in nodes[0] else num_documents - num_alike
    assert ended.stdout.split() == ["edges", "components", str(size_of_first)]
