"""Deduplication of a version, stage by stage: which documents survive, and which survivor stands for each other one.

    index       per bucket      base and new documents -> index, sorted run of keys, what is new
    edges       per partition   all runs of keys -> pairs of documents that share a key
    components  as a whole      all pairs -> connected components, and which of them hold anything new
    members     per bucket      documents of those components, with what it takes to compare them
    resolve     per partition   members -> decisions

Each is a module of tasks/dedup, and here its place in the stages. A partition of the keys is a range of them, one of
the members a share of the components. What base and new documents decide together is decided anew where a component
holds anything new, and stays as it is elsewhere: nothing else of the base's texts is read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.atomic import link_file, new_directory
from tasks.bucket import KEYS, Bucket, buckets
from tasks.dedup.components import connected_components, touched_components
from tasks.dedup.config import Deduplication
from tasks.dedup.edges import num_key_partitions, write_edges
from tasks.dedup.index import INDEX_FILE, KEYS_FILE, TOUCHED_FILE, open_index, write_index
from tasks.dedup.members import write_members
from tasks.dedup.resolve import resolve_partition
from tasks.document import ShardReport
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tombstones import Tombstones

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh

DECISIONS_FILE = "decisions.parquet"
_EDGES_FILE, _MEMBERS_FILE, _CARRIED_FILE = "edges.npy", "members.parquet", "carried.parquet"
_COMPONENTS, _LABELS, _TOUCHED_COMPONENTS = "components", "labels", "touched.npy"


@dataclass(frozen=True)
class DedupOutput:
    """What deduplication has found: the index by bucket, and the decisions by partition of the components."""

    index: StageOutput
    resolved: StageOutput

    @property
    def decisions(self) -> tuple[Path, ...]:
        """Files of decisions; a document may be in any of them, or in none where nothing new concerns it."""
        return tuple(shard / DECISIONS_FILE for shard in self.resolved.shards)


@dataclass(frozen=True)
class IndexBucket:
    """What one bucket's index is made of."""

    bucket: Bucket
    gathered: Path
    base: Path | None
    """Folder of the version that is built onto."""
    carried: Path | None
    """Folder of a version of which only what was taken down is taken over."""
    newly_taken_down: Mapping[str, str]
    """Of the base's documents in this bucket: id to scope."""


def index_bucket(item: IndexBucket, directory: Path, *, config: Deduplication, tombstones: Tombstones) -> ShardReport:
    """Write the bucket's index, keys and touched rows; link them where the bucket is as it was in the base."""
    documents = item.gathered / DOCUMENTS_FILE
    if item.base is not None and not item.newly_taken_down and not pq.read_metadata(documents).num_rows:
        link_file(item.base / item.bucket.part("index"), directory / INDEX_FILE)
        link_file(item.base / item.bucket.part(KEYS), directory / KEYS_FILE)
        np.save(directory / TOUCHED_FILE, np.empty(0, np.int64), allow_pickle=False)
        num_documents = pq.read_metadata(directory / INDEX_FILE).num_rows
        return ShardReport(num_documents, num_documents)
    report = write_index(
        base=item.base / item.bucket.part("index") if item.base is not None else None,
        carried=_carried(item, directory),
        new=documents,
        directory=directory,
        config=config.minhash,
        scope_of=tombstones.scope_of,
        newly=item.newly_taken_down,
    )
    return ShardReport(report.num_documents, report.num_documents)


def _carried(item: IndexBucket, directory: Path) -> Path | None:
    """The bucket's taken-down rows of the version they are carried over from, whose buckets may be others."""
    if item.carried is None:
        return None
    low, high = item.bucket.bounds()
    within = (pc.field("document_id") >= low) & (pc.field("document_id") < high) & (pc.field("taken_down") != "")
    parts = [pq.read_table(part, filters=within) for part in sorted((item.carried / "index").glob("*.parquet"))]
    path = directory / _CARRIED_FILE
    pq.write_table(pa.concat_tables(parts), path)
    return path


def edges_partition(
    partition: int, directory: Path, *, key_runs: Sequence[Path], starts: NDArray[np.int64], num_partitions: int
) -> ShardReport:
    """Write the pairs of documents that share a key of this partition."""
    write_edges(key_runs, starts, partition, num_partitions, directory / _EDGES_FILE)
    return ShardReport(0, 0)


@dataclass(frozen=True)
class MembersBucket:
    """A bucket of the index, and where the texts of its documents are."""

    index: Path
    first_node: int
    texts: tuple[Path, ...]


def members_bucket(
    item: MembersBucket,
    directory: Path,
    *,
    labels: Path,
    touched: Path | None,
    config: Deduplication,
    num_partitions: int,
) -> ShardReport:
    """Write the bucket's members of the components that hold anything new."""
    num_members = write_members(
        item.index, item.first_node, labels, touched, item.texts, directory / _MEMBERS_FILE, config, num_partitions
    )
    return ShardReport(num_members, num_members)


def resolve_shard(
    partition: int, directory: Path, *, member_files: Sequence[Path], config: Deduplication
) -> ShardReport:
    """Decide the components of one partition."""
    report = resolve_partition(member_files, partition, directory / DECISIONS_FILE, config)
    return ShardReport(report.num_documents, report.kept, dict(report.removed))


def _num_keys(key_runs: Sequence[Path]) -> int:
    return sum(len(np.load(run, mmap_mode="r", allow_pickle=False)) for run in key_runs)


def deduplicate(
    refresh: Refresh, gathered: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> DedupOutput:
    """Decide which of the base's and this run's documents survive; `gathered` has one shard a bucket."""
    work, stages, config = refresh.store.work, refresh.stages, refresh.recipe.deduplication
    in_buckets = tuple(zip(buckets(refresh.recipe.num_buckets), gathered.shards, strict=True))
    run = functools.partial(run_stage, work=work, shard_map=shard_map, progress=progress)

    index = run(
        stages["index"],
        function=functools.partial(index_bucket, config=config, tombstones=refresh.tombstones),
        items=[
            IndexBucket(bucket, shard, refresh.base_dir, refresh.carried_dir, bucket.share_of(refresh.newly_taken_down))
            for bucket, shard in in_buckets
        ],
    )
    starts = open_index([shard / INDEX_FILE for shard in index.shards]).starts

    key_runs = tuple(shard / KEYS_FILE for shard in index.shards)
    num_key_ranges = num_key_partitions(_num_keys(key_runs))
    edges = run(
        stages["edges"],
        function=functools.partial(edges_partition, key_runs=key_runs, starts=starts, num_partitions=num_key_ranges),
        items=range(num_key_ranges),
    )

    def label(directory: Path, _: tuple[Path, ...]) -> Mapping[str, Any]:
        if (directory / _COMPONENTS).is_dir():  # of a run that was killed between here and its manifest
            return {}
        with new_directory(directory / _COMPONENTS) as folder:
            (folder / _LABELS).mkdir()
            edge_files = [shard / _EDGES_FILE for shard in edges.shards]
            labels = connected_components(edge_files, starts, folder / _LABELS, shard_map, progress)
            if refresh.base is not None:
                touched_files = [shard / TOUCHED_FILE for shard in index.shards]
                touched_components(labels, touched_files, starts, folder / _TOUCHED_COMPONENTS)
        progress(stages["components"].name, 1, 1)
        return {}

    components = run(stages["components"], function=_no_shard, items=(), finish=label)
    found = components.directory / _COMPONENTS

    num_partitions = refresh.recipe.num_buckets
    members = run(
        stages["members"],
        function=functools.partial(
            members_bucket,
            labels=found / _LABELS,
            touched=found / _TOUCHED_COMPONENTS if refresh.base is not None else None,
            config=config,
            num_partitions=num_partitions,
        ),
        items=[
            MembersBucket(
                indexed / INDEX_FILE,
                int(first_node),
                (*bucket.parts(refresh.base_dir, "originals", "documents"), shard / DOCUMENTS_FILE),
            )
            for (bucket, shard), indexed, first_node in zip(in_buckets, index.shards, starts[:-1], strict=True)
        ],
    )
    resolved = run(
        stages["resolve"],
        function=functools.partial(
            resolve_shard, member_files=tuple(shard / _MEMBERS_FILE for shard in members.shards), config=config
        ),
        items=range(num_partitions),
    )
    return DedupOutput(index, resolved)


def _no_shard(item: Any, directory: Path) -> ShardReport:
    raise AssertionError(f"components are found as a whole, not by shards: {item} in {directory}")
