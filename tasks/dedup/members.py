"""From components to work: per bucket, the documents that need a decision, with all that deciding takes.

A member is a document that shares a key with another one, in a component that this run has touched; whoever shares no
key is alone, is kept, and is not written (unless it is itself taken down, which is a decision, too). Members of one
component lie in several buckets, and are decided in one place: in the partition that its number falls into. So each
bucket's members are sorted by partition, and the reader of a partition opens the row groups that are its own.

Texts travel as they are. Shingles would take four times the space, and only the texts that share a band with another
text need theirs: copies, the most common members by far, are settled by their hashes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.components import find_labels
from tasks.dedup.config import Deduplication
from tasks.dedup.index import index_schema
from tasks.dedup.signature import Hashes, mix

ROWS_PER_GROUP = 1024
"""At most; a group has rows of one partition only."""

DOCUMENTS_PER_BATCH = 256
"""Documents whose texts a reader has in memory at the same time."""


def members_schema(config: Deduplication) -> pa.Schema:
    """The index's columns, the partition, and the screened text: null where deciding needs none, or where none is left.

    None is left of documents that were taken down, and of those that resembled them.
    """
    fields = [pa.field("partition", pa.int64(), nullable=False), pa.field("text", pa.large_string())]
    return pa.schema([*index_schema(config.minhash), *fields])


def partition_of(components: NDArray[np.int64], num_partitions: int) -> NDArray[np.int64]:
    """The partition in which each component is decided. Mixed, since the smallest nodes of components run low."""
    mixed: Hashes = mix(components.astype(np.uint64))
    return (mixed % np.uint64(num_partitions)).astype(np.int64)


def write_members(
    index_file: Path,
    first_node: int,
    labels: Path,
    touched_components: Path | None,
    texts: Sequence[Path],
    output_file: Path,
    config: Deduplication,
    num_partitions: int,
) -> int:
    """Write the members of one bucket, sorted by partition; returns how many.

    `first_node` is the node of the index file's first row; `labels` the folder of `connected_components`;
    `touched_components` an ascending array of int64 (.npy), or None for all. `texts` are Parquet files with columns
    `document_id` and `text`: the first that has a document's id gives its text.

    In memory: the bucket's members with their texts, and no other documents.
    """
    index = pq.ParquetFile(index_file)
    last_node = first_node + index.metadata.num_rows
    components = np.asarray(find_labels(labels).of_range(first_node, last_node))
    linked = np.asarray(find_labels(labels).linked(first_node, last_node)["node"]) - first_node
    taken_down = index.read(columns=["taken_down"])["taken_down"].to_numpy() != ""
    chosen = taken_down.copy()
    chosen[linked] = True
    if touched_components is not None:
        chosen &= _is_in(components, np.load(touched_components, mmap_mode="r", allow_pickle=False))
    rows = np.flatnonzero(chosen)

    members = _take(index, rows)
    partitions = partition_of(components[rows], num_partitions)
    wanted = members["document_id"].filter(pa.array(~taken_down[rows])) if config.min_jaccard > 0 else None
    found = _find_texts(wanted.to_pylist(), texts) if wanted is not None else {}
    column = pa.array((found.get(document_id) for document_id in members["document_id"].to_pylist()), pa.large_string())
    members = members.append_column("partition", pa.array(partitions)).append_column("text", column)
    members = members.cast(members_schema(config)).take(pa.array(np.argsort(partitions, kind="stable")))
    starts = np.flatnonzero(np.diff(np.sort(partitions), prepend=-1))
    with pq.ParquetWriter(
        output_file, members.schema, compression="zstd", use_dictionary=False, write_statistics=["partition"]
    ) as writer:
        for first, end in pairwise([*starts.tolist(), len(members)]):
            writer.write_table(members.slice(first, end - first), row_group_size=ROWS_PER_GROUP)
    return len(members)


def _is_in(components: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(components), dtype=np.bool_)
    places = np.searchsorted(ascending, components).clip(max=len(ascending) - 1)
    return np.asarray(ascending[places] == components)


def _take(file: pq.ParquetFile, rows: NDArray[np.int64]) -> pa.Table:
    """The given rows, which ascend: of each batch, no others stay in memory."""
    taken, first = [file.schema_arrow.empty_table()], 0
    for batch in file.iter_batches(DOCUMENTS_PER_BATCH):
        low, high = np.searchsorted(rows, (first, first + len(batch)))
        taken.append(pa.Table.from_batches([batch.take(pa.array(rows[low:high] - first))]))
        first += len(batch)
    return pa.concat_tables(taken).combine_chunks()


def _find_texts(document_ids: Sequence[str], texts: Sequence[Path]) -> dict[str, str]:
    """Text by id, of as many as there are; the first file that has an id wins."""
    wanted, found = set(document_ids), dict[str, str]()
    for path in texts:
        for batch in pq.ParquetFile(path).iter_batches(DOCUMENTS_PER_BATCH, columns=["document_id", "text"]):
            ids = batch.column("document_id").to_pylist()
            rows = [row for row, document_id in enumerate(ids) if document_id in wanted]
            for row, text in zip(rows, batch.column("text").take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
                found[ids[row]] = text
                wanted.remove(ids[row])
    return found


class PartitionReader:
    """One partition's rows of all buckets' member files, in their order, as often as they are asked for."""

    def __init__(self, member_files: Sequence[Path], partition: int) -> None:
        self._files, self._partition = member_files, partition

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows' columns, a batch at a time; the batches are the same ones each time."""
        for path in self._files:
            with pq.ParquetFile(path) as file:
                if groups := self._row_groups(file.metadata):
                    for batch in file.iter_batches(DOCUMENTS_PER_BATCH, groups, columns):
                        yield pa.Table.from_batches([batch]).replace_schema_metadata()

    def _row_groups(self, metadata: pq.FileMetaData) -> list[int]:
        column = metadata.schema.names.index("partition")

        def partition_of_group(group: int) -> int:
            return int(metadata.row_group(group).column(column).statistics.min)

        groups = range(metadata.num_row_groups)
        first = bisect_left(groups, self._partition, key=partition_of_group)
        return list(groups[first : bisect_right(groups, self._partition, first, key=partition_of_group)])
