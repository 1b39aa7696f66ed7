"""From screened shards to buckets: what this run read, in the order of ids, with a ledger row for every record.

    runs     per group of shards   what was screened -> one run of it, sorted by id
    gather   per bucket            the bucket's range of every run -> its documents, ledger rows and edits

A shard holds what was read together, in its order, and a bucket what has similar ids. Every shard is read once, and
every bucket reads of every run little more than what is its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.bucket import Bucket, buckets
from tasks.document import ShardReport
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tables import EDITS, LEDGER, TEXTS, PartWriter, read_between

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh


_MAX_RUN_SHARDS = 128
_MAX_RUN_BYTES = 32 << 20
"""Of compressed texts in a run: some 100 MB of memory while they are sorted."""
_DOCUMENTS_PER_SLICE = 4096
_TABLES = {
    DOCUMENTS_FILE: (TEXTS, "document_id"),
    LEDGER_FILE: (LEDGER, "record_id"),
    EDITS_FILE: (EDITS, "document_id"),
}


@dataclass(frozen=True)
class ScreenedShard:
    """One shard after the last screening stage: its documents, and the folders of all its stages."""

    documents: Path
    stages: tuple[Path, ...]


def screened_shards(screened: Mapping[str, StageOutput]) -> tuple[ScreenedShard, ...]:
    """The shards of the screening stages, which are given in order: a shard keeps its place from stage to stage."""
    if not screened:
        return ()
    by_shard = zip(*(output.shards for output in screened.values()), strict=True)
    return tuple(ScreenedShard(stages[-1], stages) for stages in by_shard)


def shard_groups(shards: Sequence[ScreenedShard]) -> list[tuple[ScreenedShard, ...]]:
    """Neighbouring shards that make one run together."""
    groups: list[list[ScreenedShard]] = []
    num_bytes = 0
    for shard in shards:
        size_bytes = (shard.documents / DOCUMENTS_FILE).stat().st_size
        if not groups or len(groups[-1]) == _MAX_RUN_SHARDS or num_bytes + size_bytes > _MAX_RUN_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1].append(shard)
        num_bytes += size_bytes
    return [tuple(group) for group in groups]


def edits_in_order(edits: pa.Table) -> pa.Table:
    """Rows of `EDITS` by document, and within one by stage, rule and place."""
    return edits.sort_by([(name, "ascending") for name in ("document_id", "stage", "rule", "start")])


def _kept_rows(documents: pa.Table) -> pa.Table:
    """Ledger rows of documents that nothing has removed so far."""
    known = {name: documents[name] for name in ("source", "source_file", "source_offset", "url")}
    known["record_id"] = documents["document_id"]
    known |= {"stage": pa.repeat("publish", len(documents)), "outcome": pa.repeat("kept", len(documents))}
    nothing = {field.name: pa.nulls(len(documents), field.type) for field in LEDGER if field.name not in known}
    columns = {**known, **nothing}
    return pa.table([columns[name] for name in LEDGER.names], schema=LEDGER)


def run_shard(shards: tuple[ScreenedShard, ...], directory: Path) -> ShardReport:
    """Write the documents, ledger rows and edits of some shards, sorted by id. Memory: all of them."""

    def rows(schema: pa.Schema, files: Sequence[Path]) -> pa.Table:
        return pa.concat_tables([schema.empty_table(), *(pq.read_table(file) for file in files)])

    folders = [stage for shard in shards for stage in shard.stages]
    documents = rows(TEXTS, [shard.documents / DOCUMENTS_FILE for shard in shards])
    removed = rows(LEDGER, [folder / LEDGER_FILE for folder in folders])
    edits = rows(EDITS, [folder / EDITS_FILE for folder in folders])
    tables = {
        DOCUMENTS_FILE: documents.sort_by("document_id"),
        LEDGER_FILE: pa.concat_tables([removed, _kept_rows(documents)]).sort_by("record_id"),
        EDITS_FILE: edits_in_order(edits),
    }
    for name, table in tables.items():
        with PartWriter(directory / name, table.schema) as writer:
            writer.write(table)
    return ShardReport(len(tables[LEDGER_FILE]), len(documents), edits=len(edits))


def gather_bucket(bucket: Bucket, directory: Path, *, runs: Sequence[Path], num_slices: int) -> ShardReport:
    """Write the bucket's documents, ledger rows and edits, each sorted by id, a slice of its ids at a time."""
    num_rows: dict[str, int] = {}
    for name, (schema, key) in _TABLES.items():
        with PartWriter(directory / name, schema) as writer:
            for low, high in bucket.slices(num_slices):
                parts = [read_between(run / name, key, low, high) for run in runs]
                table = pa.concat_tables([schema.empty_table(), *parts])
                writer.write(edits_in_order(table) if name == EDITS_FILE else table.sort_by(key))
        num_rows[name] = writer.num_rows
    return ShardReport(num_rows[LEDGER_FILE], num_rows[DOCUMENTS_FILE], edits=num_rows[EDITS_FILE])


def gather(
    refresh: Refresh, screened: Mapping[str, StageOutput], shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """One shard a bucket: what this run has read and screened; empty buckets where it has read nothing.

    `screened` holds the outputs of the screening stages from extract on by name, in order. Memory of a bucket: some
    4,096 documents, whatever its size.
    """
    run = functools.partial(run_stage, work=refresh.store.work, shard_map=shard_map, progress=progress)
    runs = run(
        refresh.stages["gather_runs"],
        function=run_shard,
        items=shard_groups(screened_shards(screened)),
    )
    num_buckets = refresh.recipe.num_buckets
    num_slices = runs.report.kept // (num_buckets * _DOCUMENTS_PER_SLICE) + 1
    return run(
        refresh.stages["gather"],
        function=functools.partial(gather_bucket, runs=runs.shards, num_slices=num_slices),
        items=buckets(num_buckets),
    )
