"""The stages of a refresh, in order, as plain functions over files: the data story without any server.

    inventory -> read -> extract -> language -> quality -> toxicity      shards of the input, one after the other
      [-> decontaminate]                                               without what models are evaluated on
      [-> share]                                                       the best of all that is left, by one cut
      -> guard                                                         what no stage may remove nearly all of
      -> gather -> deduplicate -> settle [-> paragraphs] -> publish      buckets of ids, together with the base's

Each stage's fingerprint holds that of the stage before it, so a changed threshold recomputes its own stage and what
follows, and nothing else. All fingerprints are known before anything runs.

Up to the decontamination each shard is named by what went into it alone: where files have come, only their shards are
computed. From there on work is by bucket, and what the version that is built onto knows already comes from its files.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.bucket import buckets
from tasks.deduplicate import DedupOutput, deduplicate
from tasks.document import ShardReport
from tasks.extract_records import RecordShard, extract_shard
from tasks.gather import gather
from tasks.group_counts import count_groups
from tasks.inputs import inventory_input, read_input, read_shards
from tasks.keep_best import SHARE_STAGE, cut_fact, keep_best
from tasks.occurrences import OCCURRENCES_FILE, number_occurrences, occurrences_by_shard
from tasks.ports import ShardMap
from tasks.publish import publish_version
from tasks.quarantine import QuarantineFiles, shard_files
from tasks.read.shard import inventory_shard, ranges_of, read_shard
from tasks.refresh import Refresh
from tasks.refresh_stages import DECONTAMINATE
from tasks.screen import language_shard, rules_shard
from tasks.seal import SealBucket, seal_bucket
from tasks.settle import LedgerError, settle
from tasks.shorten import shorten_documents
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.wipe_out import Groups, Tally, WipeOut, WipeOutError, find_wipe_outs, recorded, unjudged, unjudged_before


@dataclass(frozen=True)
class Screened:
    """What was read and screened in this run; nothing where a version is made without new files."""

    num_records: int
    """By the independent count."""
    outputs: Mapping[str, StageOutput]
    """Of extract, language, quality, toxicity, and of decontaminate and share where the recipe has them; in order."""

    @property
    def guarded(self) -> Mapping[str, StageOutput]:
        """Those whose removals the guard judges: a share that was asked for is no wipe-out."""
        return {name: output for name, output in self.outputs.items() if name != SHARE_STAGE}


def _shard_inputs(upstream: StageOutput) -> list[dict[str, Any]]:
    return [{"shard": shard.name} for shard in upstream.shards]


def inventory(refresh: Refresh, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Count the records, file by file, and cut the files into ranges: the independent pass.

    Raises ValueError where there is no record at all, neither here nor in what is built onto.
    """
    recipe, files = refresh.recipe, [entry.file for entry in refresh.inputs_to_read]
    output = run_stage(
        refresh.stages["inventory"],
        refresh.store.work,
        shard_map,
        functools.partial(
            inventory_shard, limits=recipe.reading, max_records=recipe.shard_records, max_bytes=recipe.shard_bytes
        ),
        files,
        inputs=[inventory_input(file) for file in files],
        progress=progress,
    )
    if output.report.records_in == 0 and refresh.base is None:
        raise ValueError(
            f"no records in {files[0].path}{' and the other files' if len(files) > 1 else ''}"
            " (requests and metadata of a WARC file are none); give another --source"
        )
    return output


def read(refresh: Refresh, counted: StageOutput, shard_map: ShardMap, progress: Progress = no_progress) -> StageOutput:
    """Read every record but those whose URL is filtered; number the ids that repeat, here or in what is built onto."""
    inputs = refresh.inputs_to_read
    ranges = {entry.path: ranges_of(shard) for entry, shard in zip(inputs, counted.shards, strict=True)}
    items = read_shards(inputs, ranges, refresh.recipe.shard_records)

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        return {"repeated_ids": number_occurrences(shards, directory / OCCURRENCES_FILE, refresh.base_ledgers)}

    return run_stage(
        refresh.stages["read"],
        refresh.store.work,
        shard_map,
        functools.partial(read_shard, limits=refresh.recipe.reading, url_filter=refresh.recipe.url_filter),
        items,
        inputs=[read_input(item) for item in items],
        progress=progress,
        finish=finish,
    )


def extract(
    refresh: Refresh, records: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """Take the main text out of what was read; pages that are plainly in other languages are dropped before."""
    recipe = refresh.recipe
    occurrences = occurrences_by_shard(records.directory / OCCURRENCES_FILE)
    items = [RecordShard(shard, occurrences.get(index, ())) for index, shard in enumerate(records.shards)]
    return run_stage(
        refresh.stages["extract"],
        refresh.store.work,
        shard_map,
        functools.partial(extract_shard, extraction=recipe.extraction, rough=recipe.rough_language),
        items,
        inputs=[{"shard": item.directory.name, "occurrences": item.occurrences} for item in items],
        progress=progress,
    )


def identify_language(
    refresh: Refresh, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """Identify languages and keep those of the recipe."""
    return run_stage(
        refresh.stages["language"],
        refresh.store.work,
        shard_map,
        functools.partial(language_shard, language=refresh.recipe.language, models=refresh.store.models),
        documents.shards,
        inputs=_shard_inputs(documents),
        progress=progress,
    )


def apply_rules(
    refresh: Refresh, stage: str, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """The rules of `stage`: "quality", "toxicity" or "decontaminate"."""
    recipe = refresh.recipe
    rules = {
        "quality": recipe.document_rules,
        "toxicity": recipe.toxicity_rules,
        DECONTAMINATE: (recipe.decontamination,),
    }[stage]
    return run_stage(
        refresh.stages[stage],
        refresh.store.work,
        shard_map,
        functools.partial(rules_shard, stage=stage, rules=rules, models=refresh.store.models),
        documents.shards,
        inputs=_shard_inputs(documents),
        progress=progress,
    )


def screen(refresh: Refresh, shard_map: ShardMap, progress: Progress = no_progress) -> Screened:
    """All stages up to here, in one call; none of them where there is nothing to read."""
    if not refresh.inputs_to_read:
        return Screened(0, {})
    counted = inventory(refresh, shard_map, progress)
    records = read(refresh, counted, shard_map, progress)
    extracted = extract(refresh, records, shard_map, progress)
    identified = identify_language(refresh, extracted, shard_map, progress)
    good = apply_rules(refresh, "quality", identified, shard_map, progress)
    clean = apply_rules(refresh, "toxicity", good, shard_map, progress)
    outputs = {"extract": extracted, "language": identified, "quality": good, "toxicity": clean}
    if refresh.recipe.decontamination.is_on:
        outputs[DECONTAMINATE] = clean = apply_rules(refresh, DECONTAMINATE, clean, shard_map, progress)
    if refresh.recipe.share_rule is not None:
        outputs[SHARE_STAGE] = keep_best(refresh, clean, shard_map, progress)
    return Screened(counted.report.records_in, outputs)


def guard(
    refresh: Refresh, screened: Screened, shard_map: ShardMap, progress: Progress = no_progress
) -> tuple[WipeOut, ...]:
    """The sources, domains and languages of which a stage has removed more than the recipe allows.

    Where nothing was screened, what is carried from the base has been judged before.
    """
    if not screened.outputs:
        return ()
    groups, recipe = _groups(refresh, screened, shard_map, progress), refresh.recipe
    return find_wipe_outs(groups, recipe.guard, recipe.language.languages, unjudged_before(refresh.base))


def _groups(refresh: Refresh, screened: Screened, shard_map: ShardMap, progress: Progress) -> Groups:
    return count_groups(refresh, screened.guarded, shard_map, progress) if screened.outputs else {}


def _carried(refresh: Refresh, screened: Screened, shard_map: ShardMap) -> tuple[Tally, ...]:
    """What is too little to be judged yet, for the next version. The guard has counted already."""
    groups, recipe = _groups(refresh, screened, shard_map, no_progress), refresh.recipe
    return unjudged(groups, recipe.guard, recipe.language.languages, unjudged_before(refresh.base))


@dataclass(frozen=True)
class Merged:
    """What was screened by bucket of ids, and what survives of it and of what is built onto."""

    gathered: StageOutput
    dedup: DedupOutput


def merge(refresh: Refresh, screened: Screened, shard_map: ShardMap, progress: Progress = no_progress) -> Merged:
    """Bring what was screened together with what is built onto, and decide which documents survive."""
    gathered = gather(refresh, screened.outputs, shard_map, progress)
    return Merged(gathered, deduplicate(refresh, gathered, shard_map, progress))


@dataclass(frozen=True)
class Funnel:
    """What became of the records: in, removed by stage and reason, kept."""

    records_in: int
    removed: Mapping[str, Mapping[str, int]]
    documents_kept: int


def funnel(report: ShardReport) -> Funnel:
    """The funnel of a whole version, from what its ledger counts ("stage/reason")."""
    removed: dict[str, dict[str, int]] = {}
    for key, count in report.removed.items():
        stage, reason = key.split("/", 1)
        removed.setdefault(stage, {})[reason] = count
    return Funnel(report.records_in, removed, report.kept)


def check_adds_up(num_records: int, reports: Sequence[ShardReport]) -> None:
    """Every record counted by the independent pass has its ledger row, or LedgerError."""
    rows = sum(report.records_in for report in reports)
    if rows != num_records:
        raise LedgerError(f"the input holds {num_records} records, the ledger {rows} rows: nothing was published")


def publish(
    refresh: Refresh,
    screened: Screened,
    merged: Merged,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    facts: Mapping[str, Any] | None = None,
    wipe_outs: Sequence[WipeOut] = (),
) -> tuple[Path, dict[str, Any]]:
    """Settle the decisions, check that the ledger adds up, and publish the version.

    `facts` are further entries of the manifest, and `wipe_outs`, which somebody has allowed, one more. Raises
    `LedgerError` where a record is missing or counted twice; nothing is published then.
    """
    settled = settle(refresh, merged.gathered, merged.dedup, shard_map, progress)
    num_known = refresh.base["records_in"] if refresh.base is not None else 0
    check_adds_up(num_known + screened.num_records, [settled.report])
    tables = settled
    if refresh.recipe.deduplication.min_paragraph_chars:
        tables = shorten_documents(refresh, settled, shard_map, progress)
    base_parts = {part["path"]: part for part in refresh.base["parts"]} if refresh.base is not None else {}
    extracted = screened.outputs["extract"].shards if screened.outputs else ()
    quarantine = QuarantineFiles(
        refresh.base_dir, tuple(base_parts.values()), shard_files(extracted), refresh.tombstones
    )
    items = [
        SealBucket(
            bucket,
            shard,
            indexed,
            refresh.base_dir,
            {path: base_parts[path] for path in bucket.paths() if path in base_parts},
        )
        for bucket, shard, indexed in zip(
            buckets(refresh.recipe.num_buckets), tables.shards, merged.dedup.index.shards, strict=True
        )
    ]
    sealed = run_stage(refresh.stages["publish"], refresh.store.work, shard_map, seal_bucket, items, progress=progress)
    return publish_version(
        refresh.store,
        refresh.name,
        refresh.version,
        list(zip(items, sealed.shards, strict=True)),
        {
            **refresh.facts,
            **asdict(funnel(sealed.report)),
            "edits": sealed.report.edits,
            **cut_fact(refresh, screened.outputs),
            "wipe_outs": recorded(wipe_outs, refresh.version, refresh.base),
            "unjudged": [asdict(each) for each in _carried(refresh, screened, shard_map)],
            **(facts or {}),
        },
        quarantine,
    )


def make_version(
    refresh: Refresh,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    facts: Mapping[str, Any] | None = None,
    *,
    allow_wipe_out: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Every stage in order: the published version and its manifest. The caller holds the lock of the corpus.

    Raises WipeOutError where a stage removed nearly all of a group, unless that is allowed; it is recorded then.
    """
    screened = screen(refresh, shard_map, progress)
    wipe_outs = guard(refresh, screened, shard_map, progress)
    if wipe_outs and not allow_wipe_out:
        raise WipeOutError(wipe_outs)
    merged = merge(refresh, screened, shard_map, progress)
    return publish(refresh, screened, merged, shard_map, progress, facts, wipe_outs)
