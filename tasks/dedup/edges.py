"""From equal keys to edges between documents: out of core, each range of the key space on its own.

The space of 64-bit keys is cut into equal ranges. A range is read from every bucket's sorted key run, documents with
an equal key are joined, and only a spanning forest of what that gave is written: fewer edges than documents, however
many pairs there are. Documents are named by their nodes, their row numbers over all index files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.dedup.array_file import ArrayWriter, open_array, sorted_range
from tasks.dedup.stars import spanning_stars

MAX_KEYS = 1 << 22
"""Keys that a process holds at the same time."""

_NUM_KEYS = 1 << 64


def num_key_partitions(num_keys: int, max_keys: int = MAX_KEYS) -> int:
    """Into how many ranges of the key space to cut so many keys, for some `max_keys` in each; at least one."""
    return max(1, -(-num_keys // max_keys))


def write_edges(
    key_runs: Sequence[Path],
    starts: NDArray[np.int64],
    partition: int,
    num_partitions: int,
    output_file: Path,
    max_keys: int = MAX_KEYS,
) -> int:
    """Write the edges between documents with equal keys in one range of the key space; returns how many.

    `key_runs` are the buckets' in order, and `starts` their first nodes (`open_index`). The output is a `.npy` of int64
    and shape (edges, 2), each edge (smaller, larger node); where the range was cut further, an edge may occur again.

    Memory: `max_keys` keys at some 50 bytes each, and for those that are equal another 120, whatever the keys: a range
    with more is halved until it fits, and the documents of a single key (a text with ten million copies) stream by.
    """
    assert 0 <= partition < num_partitions and len(starts) == len(key_runs) + 1
    runs = [open_array(path) for path in key_runs]
    first, last = (_NUM_KEYS * bound // num_partitions for bound in (partition, partition + 1))
    with ArrayWriter(output_file, np.dtype("<i8"), 2) as output:
        for edges in _edges_between(runs, starts, first, last, max_keys):
            output.write(edges)
    return output.num_rows


def _edges_between(
    runs: Sequence[NDArray[np.void]], starts: NDArray[np.int64], first: int, last: int, max_keys: int
) -> Iterator[NDArray[np.int64]]:
    """Edges from keys of at least `first`, below `last`."""
    parts = [run[sorted_range(run["key"], first, last)] for run in runs]
    if sum(map(len, parts)) <= max_keys:
        keys = np.concatenate([part["key"] for part in parts])
        nodes = np.concatenate([start + part["row"] for start, part in zip(starts, parts, strict=False)])
        order = np.argsort(keys, kind="stable")
        keys, nodes = keys[order], nodes[order]
        equal = keys[1:] == keys[:-1]
        yield spanning_stars(np.column_stack([nodes[:-1][equal], nodes[1:][equal]]))
    elif last - first == 1:
        yield from _edges_of_one_key(parts, starts, max_keys)
    else:
        middle = (first + last) // 2
        yield from _edges_between(runs, starts, first, middle, max_keys)
        yield from _edges_between(runs, starts, middle, last, max_keys)


def _edges_of_one_key(
    parts: Sequence[NDArray[np.void]], starts: NDArray[np.int64], max_keys: int
) -> Iterator[NDArray[np.int64]]:
    """All documents of one key hang on the first of them; rows ascend within a part, nodes from part to part."""
    centre: np.int64 | None = None
    for start, part in zip(starts, parts, strict=False):
        for offset in range(0, len(part), max_keys):
            nodes = start + part["row"][offset : offset + max_keys].astype(np.int64)
            if centre is None:
                centre, nodes = nodes[0], nodes[1:]
            yield np.column_stack([np.full(len(nodes), centre), nodes])
