"""Deduplication across all shards, step by step. Only the steps that see one shard see texts.

    write_signatures   per shard          documents.parquet -> signature file
    band_edges         per band           signature files -> edges between documents with equal band keys
    exact_edges        once               signature files -> edges between documents with equal texts
    resolve_clusters   once               edges -> clusters, survivors, and why each other document goes

A cluster is a connected component: a resembles b, b resembles c, so all three are one. Its survivor is the document
with the smallest (date, document_id), an order that is the documents' own; so neither the number of shards nor their
order changes who survives. Survivors of different clusters share no band and no text by construction, so
deduplicating them again removes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.dedup.edges import band_edges, exact_edges, read_edges
from tasks.dedup.signature import estimated_jaccard
from tasks.dedup.signature_file import (
    SignatureFileError,
    SignatureFiles,
    binary_to_hashes,
    open_signature_files,
    write_signatures,
)

__all__ = [
    "CLUSTER_SCHEMA",
    "Cluster",
    "DedupReport",
    "SignatureFileError",
    "band_edges",
    "exact_edges",
    "resolve_clusters",
    "write_signatures",
]

SURVIVORS_PER_PASS = 1 << 17
"""Survivors whose signatures are in memory at the same time, 117 MB at 112 hashes; more take another pass."""

NUM_LARGEST_CLUSTERS = 20

CLUSTER_SCHEMA = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("cluster_size", pa.int64(), nullable=False),
        pa.field("survivor_id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("stage", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
    ]
)
"""Of every document in a cluster of two or more.

`cluster_id` and `survivor_id` are the id of the one kept document. For removed documents, `stage` is `exact_dedup`
where a document with an equal text comes earlier in the order, else `near_dedup`, and `value` is the estimated
Jaccard similarity with the survivor, which in a chain of resemblances may be low. Both are null for kept ones.
`threshold` is null throughout: a shared band decides, not a limit on `value`.
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    cluster_id: str
    num_documents: int


@dataclass(frozen=True, slots=True)
class DedupReport:
    """What deduplication did. `num_clusters` counts clusters of two or more documents."""

    num_documents: int
    num_clusters: int
    removed_exact: int
    removed_near: int
    largest_clusters: tuple[Cluster, ...]

    @property
    def kept(self) -> int:
        return self.num_documents - self.removed_exact - self.removed_near


def resolve_clusters(signature_files: Sequence[Path], edge_files: Sequence[Path], output_file: Path) -> DedupReport:
    """Write the documents of all clusters of two or more (`CLUSTER_SCHEMA`), sorted by cluster and order within.

    Documents that are not in the file are clusters of one. Memory grows with the documents in clusters, about 300
    bytes each beyond their ids, and with `SURVIVORS_PER_PASS`; signatures are read shard by shard.

    Raises `SignatureFileError` for signature or edge files that do not belong together, for a missing level of edges
    and for a document_id that occurs twice among the clusters.
    """
    files = open_signature_files(signature_files)
    edges = read_edges(edge_files, files)
    rows, nodes = np.unique(edges, return_inverse=True)  # the documents that are in clusters
    num_clusters, labels = _components(nodes.reshape(-1, 2), len(rows))
    columns = ["document_id", "date", "text_sha256"]
    parts = [part for _, part in files.take(rows, columns)]
    members = pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in columns})
    order = pc.sort_indices(members, [("date", "ascending"), ("document_id", "ascending")]).to_numpy()
    _refuse_repeated(members["document_id"])

    survivors = _earliest(labels, order, num_clusters)[labels]
    texts = pc.dictionary_encode(members["text_sha256"]).combine_chunks().indices.to_numpy()
    removed = survivors != np.arange(len(rows))
    repeats_text = _earliest(texts, order, len(rows))[texts] != np.arange(len(rows))
    values = _similarity_with_survivor(files, rows, survivors)
    sizes = np.bincount(labels, minlength=num_clusters)

    ids = members["document_id"].combine_chunks()
    survivor_ids = ids.take(pa.array(survivors))
    stages = np.where(repeats_text, "exact_dedup", "near_dedup")
    table = pa.table(
        [
            ids,
            survivor_ids,
            pa.array(sizes[labels].astype(np.int64)),
            survivor_ids,
            pa.array(~removed),
            pa.array(stages.tolist(), pa.string(), mask=~removed),
            pa.array(values, pa.float64(), mask=~removed),
            pa.nulls(len(rows), pa.float64()),
        ],
        schema=CLUSTER_SCHEMA,
    ).take(pa.array(order))
    table = table.take(pc.sort_indices(table, [("cluster_id", "ascending")]))
    pq.write_table(table, output_file, compression="zstd")

    kept = table.filter(table["kept"]).sort_by([("cluster_size", "descending"), ("cluster_id", "ascending")])
    largest = kept.slice(0, NUM_LARGEST_CLUSTERS).select(["cluster_id", "cluster_size"]).to_pylist()
    return DedupReport(
        num_documents=files.num_documents,
        num_clusters=num_clusters,
        removed_exact=int(repeats_text.sum()),
        removed_near=int((removed & ~repeats_text).sum()),
        largest_clusters=tuple(Cluster(row["cluster_id"], row["cluster_size"]) for row in largest),
    )


def _components(edges: NDArray[np.int64], num_nodes: int) -> tuple[int, NDArray[np.int32]]:
    graph = coo_array((np.ones(len(edges), dtype=np.int16), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    num_components, labels = connected_components(graph, directed=False)
    return int(num_components), labels


def _earliest(groups: NDArray[np.int32], order: NDArray[np.uint64], num_groups: int) -> NDArray[np.int64]:
    """Per group the member that comes first in `order`."""
    earliest = np.full(num_groups, -1, dtype=np.int64)
    earliest[groups[order[::-1]]] = order[::-1]  # of several values for one place, the last one stays
    return earliest


def _refuse_repeated(document_ids: pa.ChunkedArray) -> None:
    counts = document_ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if repeated:
        raise SignatureFileError(
            f"document_id {min(repeated)} occurs in more than one place ({len(repeated)} such ids); "
            "was a shard given twice? Ids must be unique, since removal goes by them"
        )


def _similarity_with_survivor(
    files: SignatureFiles, rows: NDArray[np.int64], survivors: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of each member (`rows[i]`) with its survivor (`rows[survivors[i]]`)."""
    values = np.empty(len(rows), dtype=np.float64)
    kept = np.unique(survivors)
    for start in range(0, len(kept), SURVIVORS_PER_PASS):
        in_memory = kept[start : start + SURVIVORS_PER_PASS]
        references = np.concatenate(
            [binary_to_hashes(table["signature"]) for _, table in files.take(rows[in_memory], ["signature"])]
        )
        positions = np.searchsorted(in_memory, survivors).clip(max=len(in_memory) - 1)
        compared = np.flatnonzero(in_memory[positions] == survivors)
        for part, table in files.take(rows[compared], ["signature"]):
            members = compared[part]
            values[members] = estimated_jaccard(binary_to_hashes(table["signature"]), references[positions[members]])
    return values
