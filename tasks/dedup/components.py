"""Connected components of graphs that no process holds.

Two passes take turns over files of edges (`tasks.dedup.stars`) until the graph is stars around the smallest nodes of
its components. Once what is left fits into memory, it is solved there at once: at the beginning, mostly.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.array_file import ArrayWriter, open_array, sorted_range
from tasks.dedup.stars import EdgeFile, NodeRange, Passed, contract, cut_up, large_star, sorted_edges, spanning_stars
from tasks.ports import ShardMap
from tasks.stages import Progress, no_progress

MAX_EDGES = 1 << 22
"""Edges that a process holds at the same time, at some 200 bytes each."""

LABEL = np.dtype([("node", "<i8"), ("component", "<i8")])
_BOUNDS_FILE = "bounds.npy"
_STAGE = "components"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labels:
    """Which component every node is in; a component is called by its smallest node. Files, one per range of nodes."""

    directory: Path

    def linked(self, first: int, last: int) -> NDArray[np.void]:
        """Those of the nodes `first` up to, not including, `last` that are not alone, ascending: of dtype `LABEL`."""
        bounds = open_array(self.directory / _BOUNDS_FILE)
        found = [np.empty(0, dtype=LABEL)]
        for index in range(len(bounds) - 1):
            if bounds[index] < last and bounds[index + 1] > first:
                labels = open_array(_labels_file(self.directory, index))
                found.append(labels[sorted_range(labels["node"], first, last)])
        return np.concatenate(found)

    def of_range(self, first: int, last: int) -> NDArray[np.int64]:
        """The components of the nodes `first` up to, not including, `last`; a node that is alone is its own."""
        components = np.arange(first, last, dtype=np.int64)
        linked = self.linked(first, last)
        components[linked["node"] - first] = linked["component"]
        return components


def _labels_file(directory: Path, index: int) -> Path:
    return directory / f"labels-{index:05d}.npy"


def find_labels(directory: Path) -> Labels:
    """What `connected_components` wrote into `directory`."""
    assert (directory / _BOUNDS_FILE).exists(), f"{directory}: no complete labels"
    return Labels(directory)


def connected_components(
    edge_files: Sequence[Path],
    starts: NDArray[np.int64],
    directory: Path,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    max_edges: int = MAX_EDGES,
) -> Labels:
    """Label the components of the graph over nodes 0 up to `starts[-1]`; the labels lie in `directory`.

    `starts` are the first nodes of the buckets, along which the ranges run. What an earlier, killed call left in
    `directory` is cleared away. `progress` hears of passes; how many there will be is not known before.
    Memory of each process: `max_edges` edges (some 200 bytes each), also for a node with more neighbours than that.
    Disk: the runs that a pass reads and those it writes, 48 bytes an edge.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _BOUNDS_FILE).unlink(missing_ok=True)
    num_edges = sum(len(open_array(path)) for path in edge_files)
    bounds = _range_bounds(starts, -(-num_edges // max_edges))
    graph = _Passes(tuple(edge_files), num_edges, bounds, directory / "passes", shard_map, progress, max_edges)
    shutil.rmtree(graph.directory, ignore_errors=True)
    if graph.num_edges > max_edges:
        graph.run(cut_up, [EdgeFile(path, max_edges) for path in edge_files])
    unlike_stars = True
    while graph.num_edges > max_edges:
        contracted = graph.run(contract, graph.ranges())
        if not (contracted or unlike_stars):
            shard_map.map(
                _label, [(work, _labels_file(directory, i)) for i, work in enumerate(graph.ranges())], name=_STAGE
            )
            break
        unlike_stars = graph.run(large_star, graph.ranges())
    else:
        bounds = starts[[0, -1]]
        shard_map.map(_label_at_once, [(graph.runs, _labels_file(directory, 0))], name=_STAGE)
    shutil.rmtree(graph.directory, ignore_errors=True)
    np.save(directory / _BOUNDS_FILE, bounds)
    if graph.num_passes:
        progress(_STAGE, graph.num_passes, graph.num_passes)
    return Labels(directory)


def _range_bounds(starts: NDArray[np.int64], num_ranges: int) -> NDArray[np.int64]:
    """First nodes of the ranges, and the end: as many buckets in each as may be."""
    num_buckets = len(starts) - 1
    places = np.linspace(0, num_buckets, max(1, min(num_ranges, num_buckets)) + 1).round()
    return starts[places.astype(np.int64)]


class _Passes:
    """The graph between two passes: the runs that hold it. Every pass clears away the runs it has read."""

    def __init__(
        self,
        runs: tuple[Path, ...],
        num_edges: int,
        bounds: NDArray[np.int64],
        directory: Path,
        shard_map: ShardMap,
        progress: Progress,
        max_edges: int,
    ) -> None:
        self.runs, self.num_edges, self.num_passes = runs, num_edges, 0
        self.directory, self._bounds, self._max_edges = directory, bounds, max_edges
        self._shard_map, self._progress = shard_map, progress

    def ranges(self) -> list[NodeRange]:
        pairs = pairwise(self._bounds.tolist())
        return [NodeRange(self.runs, first, last, self._max_edges) for first, last in pairs]

    def run(self, function: Callable[[tuple[T, Path]], Passed], items: Sequence[T]) -> bool:
        """Replace the graph by what one pass makes of it; whether any edge was changed."""
        self._progress(_STAGE, self.num_passes, self.num_passes + 1, note=f"{self.num_edges} edges")
        folder = self.directory / f"{self.num_passes:04d}"
        folder.mkdir(parents=True)
        works = [(item, folder / f"{index:05d}") for index, item in enumerate(items)]
        results = self._shard_map.map(function, works, name=_STAGE)
        shutil.rmtree(self.directory / f"{self.num_passes - 1:04d}", ignore_errors=True)
        self.runs = tuple(run for result in results for run in result.runs)
        self.num_edges = sum(result.num_edges for result in results)
        self.num_passes += 1
        return any(result.changed for result in results)


def _label(work: tuple[NodeRange, Path]) -> None:
    """Stars in both directions in, the labels of the range's nodes out."""
    nodes_range, output = work
    with ArrayWriter(output, LABEL) as writer:
        for piece in nodes_range.pieces():
            edges = np.stack([part[0] for part in piece]) if nodes_range.is_heavy(piece) else sorted_edges(piece)
            nodes, first_of_node = np.unique(edges[:, 0], return_index=True)
            writer.write(_labels(nodes, edges[:, 1][first_of_node]))


def _labels(nodes: NDArray[np.int64], neighbours: NDArray[np.int64]) -> NDArray[np.void]:
    labels = np.empty(len(nodes), dtype=LABEL)
    labels["node"], labels["component"] = nodes, np.minimum(nodes, neighbours)
    return labels


def _label_at_once(work: tuple[tuple[Path, ...], Path]) -> None:
    """Edges in any order and direction in, the labels of all nodes out: for a graph that one process may hold."""
    edge_files, output = work
    stars = spanning_stars(np.concatenate([np.empty((0, 2), np.int64), *map(open_array, edge_files)]))
    nodes, first_of_node = np.unique(stars, return_index=True)  # in a flat view: a node's neighbour stands beside it
    np.save(output, _labels(nodes, stars.reshape(-1)[first_of_node ^ 1]))


def touched_components(
    labels: Labels, touched_files: Sequence[Path], starts: NDArray[np.int64], output_file: Path
) -> int:
    """Write, ascending and each once, the components that hold a touched node; returns how many.

    `touched_files` are the buckets' ascending rows that are new or newly flagged; a touched node that is alone is its
    own component. The output is a `.npy` of int64. Memory: one bucket's touched nodes and labels.
    """
    with tempfile.TemporaryDirectory(dir=output_file.parent) as name:
        runs = []
        for index, (path, (first, last)) in enumerate(zip(touched_files, pairwise(starts.tolist()), strict=True)):
            of_bucket = np.unique(labels.of_range(first, last)[open_array(path)])
            np.save(Path(name) / f"{index}.npy", of_bucket)
            runs.append(open_array(Path(name) / f"{index}.npy"))
        with ArrayWriter(output_file, np.dtype("<i8")) as output:
            for first, last in pairwise(starts.tolist()):
                output.write(np.unique(np.concatenate([run[sorted_range(run, first, last)] for run in runs])))
    return output.num_rows
