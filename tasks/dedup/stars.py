"""Passes over a graph that no process holds: its edges lie in sorted runs, and each pass writes new ones.

Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, "Connected Components in MapReduce and Beyond" (SoCC 2014):

- *contraction* takes the edges whose larger node lies in a range, and hangs every node of each component that they
  form on its smallest node (the paper's small star, and more: it also joins what the range's edges connect);
- the *large star* takes all edges of a range's nodes, and hangs every larger neighbour of a node on the smallest one.

Neither changes what is connected. Neither adds edges, and each lowers the sum over all edges of their nodes unless it
leaves every edge as it is: so taking turns ends. Where both in turn left all as it was, no node has two smaller
neighbours (contraction would have joined them), and none has both smaller and larger ones (the large star would have
moved those): the graph is stars, each around the smallest node of its component.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.dedup.array_file import open_array, sorted_range

Edges = NDArray[np.int64]
"""Of shape (edges, 2). In a run: (node by which it is sorted and found, its neighbour), ascending, each once."""


def spanning_stars(edges: Edges) -> Edges:
    """The spanning forest in which every node hangs on the smallest of its connected component.

    Takes edges of shape (edges, 2) in any order and direction, repetitions and loops among them. Gives (smaller,
    larger), ascending by the larger one, each once. Holds some 120 bytes an edge.
    """
    if not len(edges):
        return np.empty((0, 2), dtype=np.int64)
    nodes, inverse = np.unique(edges, return_inverse=True)
    places = inverse.astype(np.int32).reshape(edges.shape)
    graph = coo_array((np.ones(len(edges)), (places[:, 0], places[:, 1])), shape=(len(nodes), len(nodes)))
    _, labels = connected_components(graph, directed=False)
    _, first_of_label = np.unique(labels, return_index=True)  # nodes ascend, so the first is the smallest
    centres = nodes[first_of_label[labels]]
    stars: Edges = np.column_stack([centres, nodes])[centres != nodes]
    return stars


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass made of an edge file or a range."""

    runs: tuple[Path, ...]
    num_edges: int
    changed: bool


class _RunWriter:
    """Gathers edges into sorted runs of some `max_edges` each, named after `path`."""

    def __init__(self, path: Path, max_edges: int) -> None:
        self._path, self._max_edges = path, max_edges
        self._waiting: list[Edges] = []
        self._num_waiting = 0
        self._runs: list[Path] = []
        self._num_edges = 0

    def write(self, edges: Edges) -> None:
        if self._num_waiting + len(edges) > self._max_edges:
            self._flush()
        self._waiting.append(edges)
        self._num_waiting += len(edges)

    def _flush(self) -> None:
        if self._num_waiting:
            run = sorted_edges(self._waiting)
            path = self._path.with_name(f"{self._path.name}-{len(self._runs):05d}.npy")
            np.save(path, run)
            self._runs.append(path)
            self._num_edges += len(run)
        self._waiting, self._num_waiting = [], 0

    def close(self, changed: bool, num_directions: int = 1) -> Passed:
        self._flush()
        return Passed(tuple(self._runs), self._num_edges // num_directions, changed)


def sorted_edges(pieces: Sequence[Edges]) -> Edges:
    """All edges of some pieces, ascending, each once."""
    edges = np.concatenate(pieces)
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    is_new = np.ones(len(edges), dtype=bool)
    is_new[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    return edges[is_new]


@dataclass(frozen=True, slots=True)
class NodeRange:
    """One range of nodes in one pass, as it travels to a worker."""

    runs: tuple[Path, ...]
    first: int
    last: int
    max_edges: int

    def pieces(self) -> Iterator[list[Edges]]:
        """The edges found by nodes of this range, as views into the runs: nodes by nodes, ascending.

        A piece has at most `max_edges` edges, unless a single node has more.
        """
        yield from self._between([open_array(path) for path in self.runs], self.first, self.last)

    def _between(self, runs: Sequence[Edges], first: int, last: int) -> Iterator[list[Edges]]:
        parts = [part for run in runs if len(part := run[sorted_range(run[:, 0], first, last)])]
        if sum(map(len, parts)) <= self.max_edges or last - first == 1:
            if parts:
                yield parts
        else:
            middle = (first + last) // 2
            yield from self._between(parts, first, middle)
            yield from self._between(parts, middle, last)

    def is_heavy(self, piece: Sequence[Edges]) -> bool:
        """Whether a piece is one node with more neighbours than may be held."""
        return sum(map(len, piece)) > self.max_edges

    def chunks(self, piece: Sequence[Edges]) -> Iterator[Edges]:
        """A heavy piece, by and by."""
        for part in piece:
            for offset in range(0, len(part), self.max_edges):
                yield np.asarray(part[offset : offset + self.max_edges])


@dataclass(frozen=True, slots=True)
class EdgeFile:
    """Edges as they come."""

    path: Path
    max_edges: int


# --- the passes -------------------------------------------------------------------------------------------------------


def cut_up(work: tuple[EdgeFile, Path]) -> Passed:
    """Edges in any order in, (larger, smaller) runs out; what is connected within a chunk is contracted already."""
    edge_file, output = work
    writer = _RunWriter(output, edge_file.max_edges)
    edges = open_array(edge_file.path)
    for offset in range(0, len(edges), edge_file.max_edges):
        writer.write(spanning_stars(edges[offset : offset + edge_file.max_edges])[:, ::-1])
    return writer.close(changed=True)


def _both_ways(edges: Edges) -> Edges:
    return np.concatenate([edges, edges[:, ::-1]])


def contract(work: tuple[NodeRange, Path]) -> Passed:
    """(larger, smaller) edges in, both directions out."""
    nodes_range, output = work
    writer = _RunWriter(output, nodes_range.max_edges)
    changed = False
    for piece in nodes_range.pieces():
        if nodes_range.is_heavy(piece):
            node = piece[0][0, 0]
            centre = min(part[0, 1] for part in piece)
            chunks = (chunk[chunk[:, 1] != centre, 1] for chunk in nodes_range.chunks(piece))
            for others in chain([np.array([node])], chunks):
                writer.write(_both_ways(np.column_stack([np.full_like(others, centre), others])))
                changed |= bool((others != node).any())
        else:
            edges = sorted_edges(piece)[:, ::-1]
            stars = spanning_stars(edges)
            writer.write(_both_ways(stars))
            changed |= not np.array_equal(stars, edges)
    return writer.close(changed, num_directions=2)


def large_star(work: tuple[NodeRange, Path]) -> Passed:
    """Both directions in, (larger, smaller) edges out."""
    nodes_range, output = work
    writer = _RunWriter(output, nodes_range.max_edges)
    changed = False
    for piece in nodes_range.pieces():
        heavy = nodes_range.is_heavy(piece)
        smallest = min(part[0].min() for part in piece)
        for edges in nodes_range.chunks(piece) if heavy else [sorted_edges(piece)]:
            nodes, others = edges.T
            if heavy:
                centres = np.full_like(nodes, smallest)
            else:
                _, first_of_node, node_of_edge = np.unique(nodes, return_index=True, return_inverse=True)
                centres = np.minimum(nodes, others[first_of_node][node_of_edge])
            outward = others > nodes
            writer.write(np.column_stack([others, centres])[outward])
            changed |= bool((centres < nodes)[outward].any())
    return writer.close(changed)
