"""A corpus version of made texts: the pipeline's own stages from gathering's output on, through any `ShardMap`.

gather      is made here: its shards are written as that stage leaves them       (made_texts)
index       may be made here: signatures with planted clusters, without texts    (made_signatures)
edges, components, members, resolve, settle: as in every refresh                 (tasks/deduplicate, tasks/settle)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from tasks.bucket import buckets
from tasks.dedup.config import Deduplication
from tasks.dedup.signature import MinHash
from tasks.deduplicate import DedupOutput, deduplicate
from tasks.document import ShardReport
from tasks.ports import ShardMap
from tasks.recipes.curation import fineweb
from tasks.refresh import Refresh
from tasks.refresh_stages import deciding_fingerprints
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.settle import settle
from tasks.sources import Collected
from tasks.stages import StageOutput, run_stage
from tasks.store import Store
from tasks.tables import EDITS, LEDGER, write_rows
from tasks.tombstones import Tombstones
from tests.benchmarks.made_signatures import MadeSignatures
from tests.benchmarks.made_texts import MadeTexts

MODULES = ("tasks.deduplicate", "tasks.settle", "tests.benchmarks.made_version", "pyarrow.dataset")
"""What a worker imports for these stages; pyarrow imports its last one where it first filters."""


def planned(root: Path, num_buckets: int, deduplication: Deduplication) -> Refresh:
    """The first version of a corpus in the store `root`, of no inputs: its documents are made."""
    recipe = fineweb().model_copy(update={"num_buckets": num_buckets, "deduplication": deduplication})
    return Refresh(
        store=Store.open(root),
        name="made",
        version=1,
        sources=(),
        collected=Collected((), {}),
        inputs=(),
        waiting_files=0,
        recipe=recipe,
        last=None,
        base=None,
        mode_reason="everything, for the first time",
        decided_by=deciding_fingerprints(recipe),
        tombstones=Tombstones(),
        newly_taken_down={},
    )


@functools.lru_cache(maxsize=1)
def made_texts(num_documents: int) -> MadeTexts:
    return MadeTexts.plan(num_documents)


@dataclass(frozen=True)
class MadeBucket:
    index: int
    num_buckets: int
    num_documents: int
    """Of all buckets."""


def make_bucket(item: MadeBucket, directory: Path) -> ShardReport:
    """A shard of gathering: documents, a ledger row for each, no edits."""
    path = directory / DOCUMENTS_FILE
    num_rows = made_texts(item.num_documents).write_bucket(item.index, item.num_buckets, path)
    columns = ["document_id", "source", "source_file", "source_offset", "url"]
    documents = pq.read_table(path, columns=columns).rename_columns(["record_id", *columns[1:]]).to_pylist()
    rows = [{**dict.fromkeys(LEDGER.names), **row, "stage": "publish", "outcome": "kept"} for row in documents]
    write_rows(directory / LEDGER_FILE, LEDGER, rows)
    write_rows(directory / EDITS_FILE, EDITS, ())
    return ShardReport(num_rows, num_rows)


def gathered(refresh: Refresh, num_documents: int, shard_map: ShardMap) -> StageOutput:
    num_buckets = refresh.recipe.num_buckets
    items = [MadeBucket(bucket.index, num_buckets, num_documents) for bucket in buckets(num_buckets)]
    return run_stage(refresh.stages["gather"], refresh.store.work, shard_map, make_bucket, items)


def make_signatures(item: MadeBucket, directory: Path, *, config: MinHash) -> ShardReport:
    """A shard of the index stage."""
    made = MadeSignatures.plan(item.num_documents, config)
    num_rows = made.write_bucket(item.index, item.num_buckets, directory)
    return ShardReport(num_rows, num_rows)


def gathered_signatures(refresh: Refresh, num_documents: int, shard_map: ShardMap) -> StageOutput:
    """A gathering stage without documents, whose index is complete: `deduplicate` goes on from there.

    Verification has to be off, since there are no texts.
    """
    config, num_buckets, work = refresh.recipe.deduplication, refresh.recipe.num_buckets, refresh.store.work
    assert config.min_jaccard == 0
    items = [MadeBucket(bucket.index, num_buckets, num_documents) for bucket in buckets(num_buckets)]
    make = functools.partial(make_signatures, config=config.minhash)
    run_stage(refresh.stages["index"], work, shard_map, make, items)
    return run_stage(
        refresh.stages["gather"], work, shard_map, make_bucket, [replace(item, num_documents=0) for item in items]
    )


def deduplicated(refresh: Refresh, documents: StageOutput, shard_map: ShardMap) -> tuple[DedupOutput, StageOutput]:
    """The decisions, and the documents that stay."""
    dedup = deduplicate(refresh, documents, shard_map)
    return dedup, settle(refresh, documents, dedup, shard_map)


def kept_ids(settled: StageOutput) -> list[str]:
    """Of the documents that stayed, in order."""
    return [
        document_id
        for shard in settled.shards
        for document_id in pq.read_table(shard / DOCUMENTS_FILE, columns=["document_id"])["document_id"].to_pylist()
    ]
