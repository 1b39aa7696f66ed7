"""The stages of a refresh, in order, as plain functions over files: the data story without any server.

    inventory -> read -> extract -> language -> quality -> toxicity -> deduplicate -> publish

Each stage's fingerprint holds that of the stage before it, so a changed threshold recomputes its own stage and what
follows, and nothing else. All fingerprints are known before anything runs.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import write_json
from tasks.dedup.clusters import band_edges, exact_edges, resolve_clusters, write_signatures
from tasks.document import ShardReport
from tasks.manifest import files_identity, read_manifest
from tasks.ports import ShardMap
from tasks.publish import (
    Bucket,
    ScreenedShard,
    check_adds_up,
    publish_bucket,
    publish_version,
    settle_shard,
)
from tasks.read.inventory import RecordRange, group_ranges, inventory_file
from tasks.read.source import SourceFile
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Configuration, Rule
from tasks.screen import (
    DOCUMENTS_FILE,
    OCCURRENCES_FILE,
    RecordShard,
    extract_shard,
    language_shard,
    number_occurrences,
    read_shard,
    rules_shard,
)
from tasks.stages import Progress, Stage, StageOutput, no_progress, run_stage
from tasks.store import Store

_RANGES_FILE = "ranges.json"
_SIGNATURES_FILE, _EDGES_FILE, CLUSTERS_FILE = "signatures.parquet", "edges.npy", "clusters.parquet"


class _Ranges(Configuration):
    ranges: tuple[RecordRange, ...]


def _inventory_shard(file: SourceFile, directory: Path, *, recipe: CurationRecipe) -> ShardReport:
    ranges = inventory_file(file, max_records=recipe.shard_records, max_bytes=recipe.shard_bytes, limits=recipe.reading)
    (directory / _RANGES_FILE).write_text(_Ranges(ranges=ranges).model_dump_json())
    num_records = sum(part.num_records for part in ranges)
    return ShardReport(records_in=num_records, kept=num_records)


def _signature_shard(shard: Path, directory: Path, *, recipe: CurationRecipe) -> ShardReport:
    write_signatures(shard / DOCUMENTS_FILE, directory / _SIGNATURES_FILE, recipe.deduplication)
    return ShardReport(0, 0)


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


def _rules_identity(rules: tuple[Rule, ...]) -> dict[str, Any]:
    return {"rules": rules, "files": [files_identity(rule.files()) for rule in rules]}


def _libraries(*rules: Rule) -> tuple[str, ...]:
    return tuple(sorted({name for rule in rules for name in rule.libraries}))


@dataclass(frozen=True)
class Refresh:
    """One refresh, resolved: what is read, by which recipe, into which store. Nothing has been done yet."""

    store: Store
    name: str
    source: str
    files: tuple[SourceFile, ...]
    recipe: CurationRecipe

    @functools.cached_property
    def stages(self) -> Mapping[str, Stage]:
        """Every stage with its fingerprint."""
        recipe = self.recipe
        stages: dict[str, Stage] = {}

        def add(name: str, identity: Mapping[str, Any], libraries: tuple[str, ...], after: str | None) -> None:
            upstream = {"after": stages[after].fingerprint} if after else {}
            stages[name] = Stage(name, {**identity, **upstream}, libraries)

        # a remote file without any version can change unseen: its inventory is never taken for the same
        unversioned = {"once": uuid.uuid4().hex} if any(not file.version for file in self.files) else {}
        limits = {"reading": recipe.reading, "shard": [recipe.shard_records, recipe.shard_bytes]}
        add("inventory", {"files": self.files, **limits, **unversioned}, ("pyarrow",), None)
        add("read", {"source": self.source}, ("fastwarc", "brotli", "pyarrow"), "inventory")
        add(
            "extract",
            {**_rules_identity((recipe.url_filter,)), "extraction": recipe.extraction},
            (
                "trafilatura",
                "justext",
                "courlan",
                "lxml",
                "lxml-html-clean",
                "charset-normalizer",
                *_libraries(recipe.url_filter),
            ),
            "read",
        )
        add("language", _rules_identity((recipe.language,)), _libraries(recipe.language), "extract")
        add("quality", _rules_identity(recipe.quality_rules), _libraries(*recipe.quality_rules), "language")
        add("toxicity", _rules_identity(recipe.toxicity_rules), _libraries(*recipe.toxicity_rules), "quality")
        add("signatures", {"minhash": recipe.deduplication}, ("numpy",), "toxicity")
        add("edges", {}, ("numpy",), "signatures")
        add("clusters", {}, ("numpy", "scipy"), "edges")
        add("settle", {}, ("pyarrow",), "clusters")
        add("publish", {"buckets": recipe.num_buckets}, ("pyarrow",), "settle")
        return stages

    def published(self) -> tuple[Path, dict[str, Any]] | None:
        """The latest version of this name, if this very refresh made it: there is nothing to do."""
        versions = self.store.versions(self.name)
        if not versions:
            return None
        directory = self.store.corpora / self.name / str(versions[-1])
        manifest = read_manifest(directory)
        if manifest is None or manifest["fingerprint"] != self.stages["publish"].fingerprint:
            return None
        return directory, manifest


def inventory(refresh: Refresh, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Count the records, file by file, and cut the files into ranges: the independent pass.

    Raises ValueError where there is no record at all.
    """
    output = run_stage(
        refresh.stages["inventory"],
        refresh.store.work,
        shard_map,
        functools.partial(_inventory_shard, recipe=refresh.recipe),
        refresh.files,
        progress=progress,
    )
    if output.report.records_in == 0:
        raise ValueError(
            f"no records in {refresh.files[0].path}{' and the other files' if len(refresh.files) > 1 else ''}"
            " (requests and metadata of a WARC file are none); give another --source"
        )
    return output


def read(refresh: Refresh, counted: StageOutput, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Read every record; number those whose ids repeat."""
    ranges = [
        part
        for shard in counted.shards
        for part in _Ranges.model_validate_json((shard / _RANGES_FILE).read_bytes()).ranges
    ]

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        return {"repeated_ids": number_occurrences(shards, directory / OCCURRENCES_FILE)}

    output = run_stage(
        refresh.stages["read"],
        refresh.store.work,
        shard_map,
        functools.partial(read_shard, source=refresh.source, limits=refresh.recipe.reading),
        group_ranges(ranges, refresh.recipe.shard_records),
        progress=progress,
        finish=finish,
    )
    if output.report.records_in != counted.report.records_in:
        raise ValueError(
            f"{refresh.source}: {counted.report.records_in} records were counted and {output.report.records_in} read; "
            "the source changed in between: run the refresh again"
        )
    return output


def extract(
    refresh: Refresh, records: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """URL filter, then extraction."""
    occurrences = records.directory / OCCURRENCES_FILE
    return run_stage(
        refresh.stages["extract"],
        refresh.store.work,
        shard_map,
        functools.partial(extract_shard, url_filter=refresh.recipe.url_filter, extraction=refresh.recipe.extraction),
        [RecordShard(shard, index, occurrences) for index, shard in enumerate(records.shards)],
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
            "source": refresh.source,
            "inputs": [file.model_dump(mode="json") for file in refresh.files],
            "recipe": refresh.recipe.model_dump(mode="json"),
            **asdict(result),
            "edits": gathered.report.edits,
            "clusters": json.loads((clusters.shards[0] / "clusters.json").read_bytes()),
            **(facts or {}),
        },
    )
