"""The stages of a refresh, in order, as plain functions over files: the data story without any server.

    inventory -> read -> extract -> language -> quality -> toxicity -> deduplicate -> publish

Each stage's fingerprint holds that of the stage before it, so a changed threshold recomputes its own stage and what
follows, and nothing else. All fingerprints are known before anything runs.

Up to the signatures each shard is named by what went into it alone: where files have come, only their shards are
computed, and the shards of files that are gone stay part of the corpus. From the edges on, all shards are looked at
together, every time.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.atomic import write_json
from tasks.dedup.clusters import band_edges, exact_edges, resolve_clusters, write_signatures
from tasks.document import ShardReport
from tasks.inputs import inventory_input, ranges_of, read_input, read_shards, write_ranges
from tasks.ports import ShardMap
from tasks.publish import (
    Bucket,
    ScreenedShard,
    check_adds_up,
    publish_bucket,
    publish_version,
    settle_shard,
)
from tasks.read.inventory import inventory_file
from tasks.read.source import SourceFile
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.screen import (
    DOCUMENTS_FILE,
    OCCURRENCES_FILE,
    RecordShard,
    extract_shard,
    language_shard,
    number_occurrences,
    occurrences_by_shard,
    read_shard,
    rules_shard,
)
from tasks.stages import Progress, StageOutput, no_progress, run_stage

_SIGNATURES_FILE, _EDGES_FILE, CLUSTERS_FILE = "signatures.parquet", "edges.npy", "clusters.parquet"


def _inventory_shard(file: SourceFile, directory: Path, *, recipe: CurationRecipe) -> ShardReport:
    ranges = inventory_file(file, max_records=recipe.shard_records, max_bytes=recipe.shard_bytes, limits=recipe.reading)
    write_ranges(directory, ranges)
    num_records = sum(part.num_records for part in ranges)
    return ShardReport(records_in=num_records, kept=num_records)


def _signature_shard(shard: Path, directory: Path, *, recipe: CurationRecipe) -> ShardReport:
    write_signatures(shard / DOCUMENTS_FILE, directory / _SIGNATURES_FILE, recipe.deduplication)
    num_documents = pq.read_metadata(shard / DOCUMENTS_FILE).num_rows
    return ShardReport(num_documents, num_documents)


def _edges_shard(band: int, directory: Path, *, signatures: tuple[Path, ...]) -> ShardReport:
    if band < 0:
        exact_edges(signatures, directory / _EDGES_FILE)
    else:
        band_edges(signatures, band, directory / _EDGES_FILE)
    return ShardReport(0, 0)


def _clusters_shard(edges: tuple[Path, ...], directory: Path, *, signatures: tuple[Path, ...]) -> ShardReport:
    report = resolve_clusters(signatures, edges, directory / CLUSTERS_FILE)
    write_json(directory / "clusters.json", asdict(report))
    return ShardReport(0, 0)


def _shard_inputs(upstream: StageOutput) -> list[dict[str, Any]]:
    return [{"shard": shard.name} for shard in upstream.shards]


def inventory(refresh: Refresh, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Count the records, file by file, and cut the files into ranges: the independent pass.

    Raises ValueError where there is no record at all.
    """
    files = [entry.file for entry in refresh.inputs]
    output = run_stage(
        refresh.stages["inventory"],
        refresh.store.work,
        shard_map,
        functools.partial(_inventory_shard, recipe=refresh.recipe),
        files,
        inputs=[inventory_input(file) for file in files],
        progress=progress,
    )
    if output.report.records_in == 0:
        raise ValueError(
            f"no records in {files[0].path}{' and the other files' if len(files) > 1 else ''}"
            " (requests and metadata of a WARC file are none); give another --source"
        )
    return output


def read(refresh: Refresh, counted: StageOutput, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Read every record; number those whose ids repeat."""
    ranges = {entry.path: ranges_of(shard) for entry, shard in zip(refresh.inputs, counted.shards, strict=True)}
    items = read_shards(refresh.inputs, ranges, refresh.recipe.shard_records)

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        return {"repeated_ids": number_occurrences(shards, directory / OCCURRENCES_FILE)}

    return run_stage(
        refresh.stages["read"],
        refresh.store.work,
        shard_map,
        functools.partial(read_shard, limits=refresh.recipe.reading),
        items,
        inputs=[read_input(item) for item in items],
        progress=progress,
        finish=finish,
    )


def extract(
    refresh: Refresh, records: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """URL filter, then extraction."""
    occurrences = occurrences_by_shard(records.directory / OCCURRENCES_FILE)
    items = [RecordShard(shard, occurrences.get(index, ())) for index, shard in enumerate(records.shards)]
    return run_stage(
        refresh.stages["extract"],
        refresh.store.work,
        shard_map,
        functools.partial(extract_shard, url_filter=refresh.recipe.url_filter, extraction=refresh.recipe.extraction),
        items,
        inputs=[{"shard": item.directory.name, "occurrences": item.occurrences} for item in items],
        progress=progress,
    )


def identify_language(
    refresh: Refresh, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """Keep the recipe's languages."""
    return run_stage(
        refresh.stages["language"],
        refresh.store.work,
        shard_map,
        functools.partial(language_shard, language=refresh.recipe.language),
        documents.shards,
        inputs=_shard_inputs(documents),
        progress=progress,
    )


def apply_rules(
    refresh: Refresh, stage: str, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """The rules of `stage`: "quality" or "toxicity"."""
    rules = {"quality": refresh.recipe.quality_rules, "toxicity": refresh.recipe.toxicity_rules}[stage]
    return run_stage(
        refresh.stages[stage],
        refresh.store.work,
        shard_map,
        functools.partial(rules_shard, stage=stage, rules=rules),
        documents.shards,
        inputs=_shard_inputs(documents),
        progress=progress,
    )


def deduplicate(
    refresh: Refresh, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """Signatures shard by shard, edges band by band, clusters of all: who survives, and whom."""
    work, stages = refresh.store.work, refresh.stages
    signed = run_stage(
        stages["signatures"],
        work,
        shard_map,
        functools.partial(_signature_shard, recipe=refresh.recipe),
        documents.shards,
        inputs=_shard_inputs(documents),
        progress=progress,
    )
    signatures = tuple(shard / _SIGNATURES_FILE for shard in signed.shards)
    linked = run_stage(
        stages["edges"],
        work,
        shard_map,
        functools.partial(_edges_shard, signatures=signatures),
        range(-1, refresh.recipe.deduplication.num_bands),
        progress=progress,
    )
    return run_stage(
        stages["clusters"],
        work,
        shard_map,
        functools.partial(_clusters_shard, signatures=signatures),
        [tuple(shard / _EDGES_FILE for shard in linked.shards)],
        progress=progress,
    )


@dataclass(frozen=True)
class Funnel:
    """What became of the records: in, removed by stage and reason, kept."""

    records_in: int
    removed: Mapping[str, Mapping[str, int]]
    documents_kept: int


def funnel(num_records: int, reports: Mapping[str, ShardReport], kept: int) -> Funnel:
    removed: dict[str, dict[str, int]] = {}
    for report in reports.values():
        for key, count in report.removed.items():
            stage, reason = key.split("/", 1)
            removed.setdefault(stage, {})[reason] = removed.get(stage, {}).get(reason, 0) + count
    return Funnel(num_records, removed, kept)


def publish(
    refresh: Refresh,
    counted: StageOutput,
    screened: Mapping[str, StageOutput],
    clusters: StageOutput,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Settle the clusters, gather the buckets, check that the ledger adds up, and publish the version.

    `screened` holds the outputs of extract, language, quality and toxicity by name, in order.
    Raises `LedgerError` where a record is missing or counted twice; nothing is published then.
    """
    last = list(screened.values())[-1]
    shards = [
        ScreenedShard(
            documents=shard,
            stages=tuple(output.shards[index] for output in screened.values()),
            clusters=clusters.shards[0] / CLUSTERS_FILE,
        )
        for index, shard in enumerate(last.shards)
    ]
    settled = run_stage(
        refresh.stages["settle"], refresh.store.work, shard_map, settle_shard, shards, progress=progress
    )
    num_buckets = refresh.recipe.num_buckets
    gathered = run_stage(
        refresh.stages["publish"],
        refresh.store.work,
        shard_map,
        publish_bucket,
        [Bucket(index, num_buckets, settled.shards) for index in range(num_buckets)],
        progress=progress,
    )
    num_records = counted.report.records_in
    check_adds_up(num_records, [gathered.report])
    reports = {name: output.report for name, output in screened.items()} | {"deduplicate": settled.report}
    result = funnel(num_records, reports, gathered.report.kept)
    return publish_version(
        refresh.store,
        refresh.name,
        gathered.shards,
        {
            "fingerprint": refresh.stages["publish"].fingerprint,
            "fingerprints": {name: stage.fingerprint for name, stage in refresh.stages.items()},
            "sources": list(refresh.sources),
            "inputs": [entry.model_dump(mode="json") for entry in refresh.inputs],
            "new_inputs": [entry.path for entry in refresh.new_inputs],
            "waiting_files": refresh.waiting_files,
            "ignored_files": dict(refresh.ignored_files),
            "recipe": refresh.recipe.model_dump(mode="json"),
            **asdict(result),
            "edits": gathered.report.edits,
            "clusters": json.loads((clusters.shards[0] / "clusters.json").read_bytes()),
            **(facts or {}),
        },
    )
