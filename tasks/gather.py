"""From screened shards to buckets: what this run read, in the order of ids, with a ledger row for every record.

A shard holds what was read together, a bucket what has similar ids; every bucket takes its rows from every shard.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.bucket import Bucket, buckets
from tasks.document import ShardReport
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tables import EDITS, LEDGER, TEXTS, PartWriter, read_between

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh


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


def gather_bucket(bucket: Bucket, directory: Path, *, shards: Sequence[ScreenedShard]) -> ShardReport:
    """Write the bucket's documents, ledger rows and edits, each sorted by id. Memory: the bucket's new texts."""
    low, high = bucket.bounds()

    def rows(schema: pa.Schema, key: str, files: Sequence[Path]) -> pa.Table:
        parts = [read_between(file, key, low, high) for file in files]
        return pa.concat_tables([schema.empty_table(), *parts])

    documents = rows(TEXTS, "document_id", [shard.documents / DOCUMENTS_FILE for shard in shards])
    documents = documents.sort_by("document_id")
    folders = [stage for shard in shards for stage in shard.stages]
    removed = rows(LEDGER, "record_id", [folder / LEDGER_FILE for folder in folders])
    ledger = pa.concat_tables([removed, _kept_rows(documents)]).sort_by("record_id")
    edits = edits_in_order(rows(EDITS, "document_id", [folder / EDITS_FILE for folder in folders]))
    for name, table in {DOCUMENTS_FILE: documents, LEDGER_FILE: ledger, EDITS_FILE: edits}.items():
        with PartWriter(directory / name, table.schema) as writer:
            writer.write(table)
    return ShardReport(len(ledger), len(documents), edits=len(edits))


def gather(
    refresh: Refresh, screened: Mapping[str, StageOutput], shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """One shard a bucket: what this run has read and screened; empty buckets where it has read nothing.

    `screened` holds the outputs of extract, language, quality and toxicity by name, in order.
    """
    return run_stage(
        refresh.stages["gather"],
        refresh.store.work,
        shard_map,
        functools.partial(gather_bucket, shards=screened_shards(screened)),
        buckets(refresh.recipe.num_buckets),
        progress=progress,
    )
