"""Paragraphs that an earlier document has already: taken out of the kept documents, after the duplicates are gone.

    paragraph_runs        per bucket      settled documents -> run of their paragraphs     (tasks/dedup/paragraphs)
    repeated_paragraphs   per partition   all runs -> which paragraphs go, and where they stay
    paragraphs            per bucket      settled tables -> tables without them

What goes depends on all kept documents, so it is found anew in every version, from their whole texts. A document of
which nothing is left goes as a whole; those it stands for as a survivor keep naming it, and it names where its first
repeated paragraph stays.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.dedup.config import Deduplication
from tasks.dedup.paragraphs import repeated_in, repeated_paragraphs, shorten, write_paragraph_run
from tasks.document import ShardReport
from tasks.gather import edits_in_order
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.settle import (
    ORIGINALS_FILE,
    PARAGRAPH_STAGE,
    BaseBucket,
    aligned,
    base_buckets,
    is_in,
    replaced,
    superseded_edits,
    with_details,
)
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tables import DOCUMENTS, EDITS, LEDGER, ORIGINALS, PartWriter, read_between

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh

_RUN_FILE, _REPEATED_FILE = "paragraphs.npy", "repeated.npy"
_MAX_PARAGRAPHS = 1 << 20
"""In a partition: some 400 MB while it is sorted."""


def _run_shard(item: tuple[BaseBucket, Path], directory: Path, *, config: Deduplication) -> ShardReport:
    known, settled = item
    write_paragraph_run(settled / DOCUMENTS_FILE, known.bucket.index, directory / _RUN_FILE, config)
    return ShardReport(0, 0)


def _repeated_shard(
    partition: int, directory: Path, *, runs: Sequence[Path], num_partitions: int, config: Deduplication
) -> ShardReport:
    repeated_paragraphs(runs, partition, num_partitions, directory / _REPEATED_FILE, config)
    return ShardReport(0, 0)


@dataclass
class _Shortened:
    """What becomes of some documents: rows of each table."""

    documents: list[dict[str, Any]]
    originals: list[dict[str, Any]]
    edits: list[dict[str, Any]]
    gone: dict[str, str]
    """Documents of which nothing is left, and where their first repeated paragraph stays."""


def _shorten_rows(rows: Sequence[dict[str, Any]], repeated: Sequence[Mapping[int, str]]) -> _Shortened:
    result = _Shortened([], [], [], {})
    for row, keepers in zip(rows, repeated, strict=True):
        rewrite = shorten(row["text"], keepers)
        if not rewrite.text.strip():
            result.gone[row["document_id"]] = keepers[min(keepers)]
            result.originals.append(row)
            continue
        digest = hashlib.sha256(rewrite.text.encode()).hexdigest()
        result.documents.append({**row, "text": rewrite.text, "text_sha256": digest})
        result.originals.append({**row, "cluster_size": None})
        for edit in rewrite.edits:
            place = {"document_id": row["document_id"], "stage": PARAGRAPH_STAGE, "rule": "paragraphs"}
            result.edits.append(
                place | {name: getattr(edit, name) for name in ("kind", "reason", "start", "removed", "replacement")}
            )
    return result


def _without(ledger: pa.Table, gone: Mapping[str, str]) -> pa.Table:
    """The ledger after the documents `gone` are: each with its survivor."""
    drops = pa.table(
        {"record_id": pa.array(gone.keys(), pa.string()), "survivor_id": pa.array(gone.values(), pa.string())}
    )
    survivors = aligned(ledger["record_id"], drops, "record_id")["survivor_id"]
    is_gone = pc.is_valid(survivors)
    now = {
        "stage": PARAGRAPH_STAGE,
        "outcome": "removed",
        "reason": "all_paragraphs_repeated",
        "survivor_id": survivors,
    }
    for name, value in now.items():
        ledger = replaced(ledger, name, pc.if_else(is_gone, value, ledger[name]))
    return ledger


def shorten_bucket(item: tuple[BaseBucket, Path], directory: Path, *, repeated: Sequence[Path]) -> ShardReport:
    """Write a bucket's tables without the repeated paragraphs. Memory: as in `tasks.settle.settle_bucket`."""
    known, settled = item
    in_bucket = repeated_in(repeated, known.bucket.index)
    ledger = pq.read_table(settled / LEDGER_FILE)
    num_rows = 0
    gone: dict[str, str] = {}
    with (
        PartWriter(directory / DOCUMENTS_FILE, DOCUMENTS) as documents,
        PartWriter(directory / ORIGINALS_FILE, ORIGINALS) as originals,
    ):
        edits: list[pa.Table] = []
        for low, high in known.id_slices(ledger["record_id"]):
            kept = read_between(settled / DOCUMENTS_FILE, "document_id", low, high)
            rows = [row for row in range(len(kept)) if num_rows + row in in_bucket]
            result = _shorten_rows(
                kept.take(pa.array(rows, pa.int64())).to_pylist(), [in_bucket[num_rows + row] for row in rows]
            )
            num_rows += len(kept)
            gone |= result.gone
            mask = np.ones(len(kept), dtype=bool)
            mask[rows] = False
            whole = pa.concat_tables(
                [kept.filter(pa.array(mask)), pa.Table.from_pylist(result.documents, schema=DOCUMENTS)]
            )
            documents.write(whole.sort_by("document_id"))
            moved = pa.Table.from_pylist(result.originals, schema=ORIGINALS)
            others = read_between(settled / ORIGINALS_FILE, "document_id", low, high)
            originals.write(pa.concat_tables([others, moved]).sort_by("document_id"))
            edits.append(pa.Table.from_pylist(result.edits, schema=EDITS))
    before = known.base_rows("ledger", LEDGER)
    ledger = with_details(_without(ledger, gone), before, known.base_version)
    with PartWriter(directory / LEDGER_FILE, LEDGER) as writer:
        writer.write(ledger)
    superseded = superseded_edits(ledger)
    superseded = superseded.filter(is_in(superseded["document_id"], list(gone)))
    with PartWriter(directory / EDITS_FILE, EDITS) as writer:
        table = pa.concat_tables([pq.read_table(settled / EDITS_FILE), *edits, superseded])
        writer.write(edits_in_order(table))
    return ShardReport(len(ledger), num_rows - len(gone))


def shorten_documents(
    refresh: Refresh, settled: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """One shard a bucket: the tables of `settled` without the paragraphs that stand in an earlier document."""
    config = refresh.recipe.deduplication
    run = functools.partial(run_stage, work=refresh.store.work, shard_map=shard_map, progress=progress)
    items = list(zip(base_buckets(refresh), settled.shards, strict=True))
    found = run(refresh.stages["paragraph_runs"], function=functools.partial(_run_shard, config=config), items=items)
    runs = tuple(shard / _RUN_FILE for shard in found.shards)
    num_paragraphs = sum(len(np.load(file, mmap_mode="r", allow_pickle=False)) for file in runs)
    num_partitions = num_paragraphs // _MAX_PARAGRAPHS + 1
    repeated = run(
        refresh.stages["repeated_paragraphs"],
        function=functools.partial(_repeated_shard, runs=runs, num_partitions=num_partitions, config=config),
        items=range(num_partitions),
    )
    return run(
        refresh.stages["paragraphs"],
        function=functools.partial(shorten_bucket, repeated=tuple(shard / _REPEATED_FILE for shard in repeated.shards)),
        items=items,
    )
