"""Occurrence numbers: records with one base id are told apart by 0, 1, 2, ...

Such records are interchangeable (tasks.read.identity), so it is free which of them gets which number, and those of a
version that is built upon keep theirs: a newcomer's number is how many have that base id already, plus its place among
the newcomers. Whatever comes first, n records of one base id end as the ids 0 to n - 1, each with the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.read.identity import BASE_ID_DIGITS
from tasks.read.shard import RECORDS_FILE
from tasks.tables import read_rows

OCCURRENCES_FILE = "occurrences.parquet"
MAX_IDS = 1 << 21
"""Base ids that are looked at together; with sorting each takes some 200 bytes. For more records than that, the ids are
gone through in as many ranges, and the records' ids are read once for each."""

_SCHEMA = pa.schema([("shard", pa.int32()), ("row", pa.int64()), ("occurrence", pa.int64())])
_PREFIXES = 1 << 16  # ids are hashes: their first four digits cut them into even ranges
_BATCH_ROWS = 1 << 16


def number_occurrences(
    shards: Sequence[Path], destination: Path, base_ledgers: Sequence[Path] = (), *, max_ids: int = MAX_IDS
) -> int:
    """Number the records of `shards` that are not the first of their base id; how many those are.

    `base_ledgers` are the ledger parts of the version that is built upon, whose records have their ids already. Writes
    (shard, row, occurrence), the shard as its place in `shards`. Earlier shards and rows have the lower numbers.
    """
    num_records = sum(pq.read_metadata(shard / RECORDS_FILE).num_rows for shard in shards)
    num_ranges = min(_PREFIXES, -(-num_records // max_ids))
    bounds = [f"{index * _PREFIXES // num_ranges:04x}" for index in range(num_ranges)] + ["g"]  # behind all digits
    num_repeated = 0
    with pq.ParquetWriter(destination, _SCHEMA, compression="zstd") as writer:
        for low, high in pairwise(bounds):
            repeated = _occurrences_between(low, high, shards, base_ledgers)
            writer.write_table(repeated)
            num_repeated += len(repeated)
    return num_repeated


def _occurrences_between(low: str, high: str, shards: Sequence[Path], base_ledgers: Sequence[Path]) -> pa.Table:
    """`number_occurrences` for base ids of at least `low` and below `high`."""
    base_ids, shard_of, row_of = _base_ids_between(low, high, shards)
    order = np.argsort(base_ids, kind="stable")  # stable: in the order of shards and rows
    distinct, first, counts = np.unique(base_ids[order], return_index=True, return_counts=True)
    numbers = np.arange(len(base_ids)) - np.repeat(first, counts)
    numbers += np.repeat(_next_numbers(distinct, low, high, base_ledgers), counts)
    again = numbers > 0
    place = order[again]
    return pa.Table.from_arrays([shard_of[place], row_of[place], numbers[again]], schema=_SCHEMA)


def _base_ids_between(
    low: str, high: str, shards: Sequence[Path]
) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64]]:
    """Base ids of the records, each with its shard and row, in the order of those."""
    base_ids = [np.empty(0, dtype=f"S{BASE_ID_DIGITS}")]
    shard_of, row_of = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    for index, shard in enumerate(shards):
        column = pq.read_table(shard / RECORDS_FILE, columns=["base_id"])["base_id"].combine_chunks()
        rows = np.flatnonzero(pc.and_(pc.greater_equal(column, low), pc.less(column, high)).to_numpy(False))
        base_ids.append(_as_bytes(column.take(pa.array(rows))))
        shard_of.append(np.full(len(rows), index, dtype=np.int32))
        row_of.append(rows)
    return np.concatenate(base_ids), np.concatenate(shard_of), np.concatenate(row_of)


def _next_numbers(base_ids: NDArray[np.bytes_], low: str, high: str, base_ledgers: Sequence[Path]) -> NDArray[np.int64]:
    """For each of the `base_ids`, sorted, one more than the highest number that a record has in the ledgers."""
    following = np.zeros(len(base_ids), dtype=np.int64)
    if not base_ledgers or not len(base_ids):
        return following
    ledgers = ds.dataset([str(path) for path in base_ledgers], format="parquet")
    within = (pc.field("record_id") >= low) & (pc.field("record_id") < high)
    for batch in ledgers.to_batches(columns=["record_id"], filter=within, batch_size=_BATCH_ROWS):
        record_ids = batch.column("record_id")
        known = _as_bytes(pc.utf8_slice_codeunits(record_ids, 0, BASE_ID_DIGITS))
        place = np.minimum(np.searchsorted(base_ids, known), len(base_ids) - 1)
        same = base_ids[place] == known
        if same.any():
            numbers = pc.utf8_slice_codeunits(record_ids.filter(pa.array(same)), BASE_ID_DIGITS + 1)
            np.maximum.at(following, place[same], numbers.cast(pa.int64()).to_numpy() + 1)
    return following


def _as_bytes(base_ids: pa.StringArray) -> NDArray[np.bytes_]:
    """Base ids, which all have the same length, as an array of bytes."""
    fixed = base_ids.cast(pa.binary()).cast(pa.binary(BASE_ID_DIGITS))
    digits = np.frombuffer(fixed.buffers()[1], dtype=f"S{BASE_ID_DIGITS}") if len(fixed) else np.empty(0, dtype="S32")
    return digits[fixed.offset : fixed.offset + len(fixed)]


def occurrences_by_shard(occurrences: Path) -> dict[int, tuple[tuple[int, int], ...]]:
    """What `number_occurrences` wrote: (row, occurrence) pairs by shard, for the shards that have any."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row in read_rows(occurrences):
        found.setdefault(row["shard"], []).append((row["row"], row["occurrence"]))
    return {shard: tuple(sorted(pairs)) for shard, pairs in found.items()}
