"""What a person should know of a published corpus version, and what its rules kept and removed, as Markdown.

Everything comes from the version's folder: manifest, documents, originals, ledger. Only the texts of records that were
screened out do not; they are looked for in the outputs of the stages, which stay in the store until they are cleared
away. Nothing that was taken down is shown.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.funnel import DEDUP_STAGES, funnel_rows
from tasks.manifest import read_manifest
from tasks.markdown import markdown_cell, markdown_code, markdown_facts, markdown_table
from tasks.quality_share import Cut
from tasks.screen import DOCUMENTS_FILE
from tasks.tombstones import Tombstones

SAMPLES_PER_RULE = 3
NUM_CLUSTERS, MEMBERS_PER_CLUSTER = 10, 2
_EXCERPT_CHARS = 200
_TEXT_STAGES = ("extract", "language", "quality", "toxicity", "decontaminate", "share")
"""Stages whose output holds texts, in order; what comes before them has none."""
_NUM_DOMAINS = 10
_MAX_SHARDS_SEARCHED = 10_000  # for texts of removed records: about a minute, and a million records
_LEDGER_COLUMNS = ["record_id", "url", "stage", "outcome", "reason", "value", "threshold", "detail", "survivor_id"]


@dataclass(frozen=True)
class Sample:
    """One record and what became of it. `text` is None where it is not in the store (any more)."""

    record_id: str
    url: str
    stage: str
    reason: str
    value: float | None
    threshold: float | None
    detail: str | None
    survivor_id: str | None
    text: str | None = None
    survivor_text: str | None = None


def _parts(directory: Path, kind: str) -> list[Path]:
    """The version's files of `kind` (documents, ledger), in the order of ids."""
    return sorted((directory / kind).glob("*.parquet"))


def _texts(files: Iterable[Path], ids: set[str]) -> dict[str, str]:
    """Texts of the documents `ids`; looks into no more files than it takes to find them all."""
    found: dict[str, str] = {}
    for file in files:
        if len(found) == len(ids):
            break
        wanted = pa.array(sorted(ids - found.keys()), pa.string())
        if pc.any(pc.is_in(pq.read_table(file, columns=["document_id"])["document_id"], wanted)).as_py():
            table = pq.read_table(file, columns=["document_id", "text"], filters=pc.field("document_id").isin(wanted))
            found |= dict(zip(table["document_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return found


def _removed_rows(directory: Path, wanted: Mapping[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    """Up to SAMPLES_PER_RULE ledger rows of every (stage, reason). Ids are hashes: the first ones are a fair sample."""
    missing = {rule: min(count, SAMPLES_PER_RULE) for rule, count in wanted.items()}
    for part in _parts(directory, "ledger"):
        if not missing:
            return
        ledger = pq.read_table(part, columns=_LEDGER_COLUMNS, filters=pc.field("outcome") != "kept")
        for rule in list(missing):
            of_rule = pc.and_(pc.equal(ledger["stage"], rule[0]), pc.equal(ledger["reason"], rule[1]))
            rows = ledger.filter(of_rule).slice(0, missing[rule]).to_pylist()
            yield from rows
            missing[rule] -= len(rows)
            if not missing[rule]:
                del missing[rule]


def _screened_texts(work: Path, manifest: Mapping[str, Any], stage: str) -> Iterator[Path]:
    """The files of texts that `stage` took in, in every run that the version's records came through; the latest first.

    They are the output of the stage before it, in a recipe that may do without some.

    `work` is the store's folder of stage outputs; what was cleared away there is left out.
    """
    for run in reversed(manifest["screening_runs"]):
        *_, before = (name for name in _TEXT_STAGES[: _TEXT_STAGES.index(stage)] if name in run)
        folder = work / before / run[before]
        output = read_manifest(folder)
        for shard in output["shards"] if output is not None else ():
            if (file := folder.parent / shard / DOCUMENTS_FILE).is_file():
                yield file


def removed_samples(
    directory: Path, manifest: Mapping[str, Any], work: Path, hide: Callable[[str], str]
) -> tuple[Sample, ...]:
    """Some records of every rule that removed any, in the order of the funnel; `work` as for `_screened_texts`.

    `hide` is applied to the texts, which were removed before anything in them was masked (`CurationRecipe.hide`).
    """
    rules = {(stage, reason): count for stage, reason, count in funnel_rows(manifest["removed"])}
    order = {rule: index for index, rule in enumerate(rules)}
    samples = []
    for row in _removed_rows(directory, rules):
        row.pop("outcome")
        samples.append(Sample(**row))
    samples.sort(key=lambda sample: (order[sample.stage, sample.reason], sample.record_id))
    tombstones = Tombstones(rules=manifest["tombstones"])
    shown = [sample for sample in samples if not tombstones.scope_of(sample.record_id, sample.url)]
    found: dict[str, str] = {}
    for stage in _TEXT_STAGES[1:]:
        if ids := {sample.record_id for sample in shown if sample.stage == stage}:
            found |= _texts(itertools.islice(_screened_texts(work, manifest, stage), _MAX_SHARDS_SEARCHED), ids)
    found |= _texts(_parts(directory, "originals"), {s.record_id for s in shown if s.stage in DEDUP_STAGES})
    survivors = _texts(_parts(directory, "documents"), {s.survivor_id for s in samples if s.survivor_id})
    return tuple(
        replace(
            sample,
            text=hide(text) if (text := found.get(sample.record_id)) is not None else None,
            survivor_text=survivors.get(sample.survivor_id) if sample.survivor_id else None,
        )
        for sample in samples
    )


@dataclass(frozen=True)
class ClusterSample:
    """A survivor, and some of the documents that it stands for."""

    cluster_id: str
    num_documents: int
    url: str
    text: str | None
    members: tuple[tuple[str, str | None], ...]
    """URL and text."""


def largest_clusters(directory: Path, manifest: Mapping[str, Any]) -> tuple[ClusterSample, ...]:
    """The largest clusters of the version, each with its survivor and the first of the others in the order of ids."""
    clusters = manifest["clusters"]["largest_clusters"][:NUM_CLUSTERS]
    if not clusters:
        return ()
    ids = [cluster["cluster_id"] for cluster in clusters]
    urls: dict[str, str] = {}
    members: dict[str, list[str]] = {cluster_id: [] for cluster_id in ids}
    named = pc.field("survivor_id").isin(ids) | pc.field("record_id").isin(ids)
    for part in _parts(directory, "ledger"):
        for row in pq.read_table(part, columns=["record_id", "url", "survivor_id"], filters=named).to_pylist():
            of_cluster = members.get(row["survivor_id"])
            if of_cluster is None:
                urls[row["record_id"]] = row["url"]
            elif len(of_cluster) < MEMBERS_PER_CLUSTER:
                of_cluster.append(row["record_id"])
                urls[row["record_id"]] = row["url"]
    texts = _texts(_parts(directory, "documents"), set(ids))
    texts |= _texts(_parts(directory, "originals"), urls.keys() - texts.keys())
    return tuple(
        ClusterSample(
            each["cluster_id"],
            each["num_documents"],
            urls[each["cluster_id"]],
            texts.get(each["cluster_id"]),
            tuple((urls[member], texts.get(member)) for member in members[each["cluster_id"]]),
        )
        for each in clusters
    )


def _clusters_markdown(clusters: Sequence[ClusterSample]) -> str:
    lines = []
    for cluster in clusters:
        lines.append(f"**{cluster.num_documents:,} documents**, survivor {markdown_cell(cluster.url or '(no URL)')}")
        lines.append(f"> {_excerpt(cluster.text)}")
        for url, text in cluster.members:
            lines += [f"one of the others, {markdown_cell(url or '(no URL)')}:", f"> {_excerpt(text)}"]
    return "\n\n".join(lines) or "Every document stands for itself alone."


def kept_samples(directory: Path) -> tuple[Sample, ...]:
    """The first documents of the version in the order of ids, which are hashes."""
    rows: list[dict[str, Any]] = []
    for part in _parts(directory, "documents"):
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(batch_size=SAMPLES_PER_RULE, columns=["document_id", "url", "text"]):
                rows += batch.to_pylist()
                break
        if len(rows) >= SAMPLES_PER_RULE:
            break
    return tuple(
        Sample(row["document_id"], row["url"], "publish", "kept", None, None, None, None, row["text"])
        for row in rows[:SAMPLES_PER_RULE]
    )


def _excerpt(text: str | None) -> str:
    if text is None:
        return "(no text of it is in the store)"
    return markdown_cell(text[:_EXCERPT_CHARS] + (" ..." if len(text) > _EXCERPT_CHARS else ""))


def _figure(value: float) -> str:
    return f"{value:,.4g}"


def samples_markdown(kept: Sequence[Sample], removed: Sequence[Sample]) -> str:
    """Kept documents, then for every rule records that it removed, with the figures it went by. Pages' text escaped."""
    sections = ["### Kept", *(sample_markdown(sample) for sample in kept)]
    for rule in dict.fromkeys((sample.stage, sample.reason) for sample in removed):
        sections.append(f"### Removed by {markdown_cell(rule[0])}: {markdown_cell(rule[1])}")
        sections += [sample_markdown(sample) for sample in removed if (sample.stage, sample.reason) == rule]
    return "\n\n".join(sections)


def sample_markdown(sample: Sample) -> str:
    """One line on the record, its text quoted, and for a duplicate the text of its survivor."""
    facts = [sample.url] if sample.url else []
    if sample.value is not None:
        limit = "" if sample.threshold is None else f" against {_figure(sample.threshold)}"
        facts.append(f"{_figure(sample.value)}{limit}")
    facts += [sample.detail] if sample.detail else []
    lines = [f"{markdown_cell('; '.join([*facts, f'ledger id {sample.record_id}']))}", "", f"> {_excerpt(sample.text)}"]
    if sample.survivor_id:
        survivor = markdown_cell(sample.survivor_id)
        lines += ["", f"Its survivor, {survivor}:", "", f"> {_excerpt(sample.survivor_text)}"]
    return "\n".join(lines)


def corpus_facts(directory: Path) -> dict[str, dict[str, int]]:
    """Documents by language and by domain, from the published files, a few columns at a time."""
    languages: Counter[str] = Counter()
    domains: Counter[str] = Counter()
    for part in _parts(directory, "documents"):
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(columns=["url", "language"]):
                languages.update(batch.column("language").to_pylist())
                domains.update(_domain(url) for url in batch.column("url").to_pylist())
    return {"languages": dict(languages.most_common()), "domains": dict(domains.most_common(_NUM_DOMAINS))}


def _domain(url: str) -> str:
    try:
        return urlsplit(url).hostname or "(none)"
    except ValueError:  # `http://[` and the like: pages hold any text
        return "(none)"


def ledger_summary(directory: Path) -> list[dict[str, Any]]:
    """For each stage, outcome and reason: the records, and between which values and thresholds they lie."""
    keys = ["stage", "outcome", "reason"]
    figures = [("value", "min"), ("value", "max"), ("threshold", "min"), ("threshold", "max")]
    parts = [
        pq.read_table(part, columns=[*keys, "value", "threshold"])
        .group_by(keys)
        .aggregate([("stage", "count"), *figures])
        for part in _parts(directory, "ledger")
    ]
    total = pa.concat_tables(parts).group_by(keys)
    table = total.aggregate([("stage_count", "sum"), *((f"{name}_{how}", how) for name, how in figures)])
    rows = [
        {key: row[key] for key in keys}
        | {"records": row["stage_count_sum"]}
        | {f"{how}_{name}": row[f"{name}_{how}_{how}"] for name, how in figures}
        for row in table.to_pylist()
    ]
    return sorted(rows, key=lambda row: tuple(str(row[key]) for key in keys))


def _rule_rows(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every rule with its settings."""
    for name, value in recipe.items():
        for rule in value if isinstance(value, list) else [value]:
            if isinstance(rule, Mapping):
                yield str(rule.get("kind", name)), ", ".join(_settings(rule))


def _settings(rule: Mapping[str, Any]) -> Iterator[str]:
    for key, each in rule.items():
        if isinstance(each, Mapping):
            yield from _settings(each)
        elif key != "kind":
            yield f"{key}={each}"


def _size(num_bytes: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes = num_bytes // 1000
    return f"{num_bytes:,} {unit}"


def _wipe_outs_markdown(wipe_outs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Groups of which a stage removed nearly all, and which were published all the same."""
    if not wipe_outs:
        return []
    rows = [
        (
            each["version"],
            each["stage"],
            f"{each['kind']} {each['group']}",
            f"{each['removed']:,} of {each['documents_in']:,}",
            ", ".join(each["reasons"]),
        )
        for each in wipe_outs
    ]
    return [
        "### Wiped out, and allowed",
        markdown_table(["since version", "stage", "group", "removed", "rules"], rows),
    ]


def _decontamination_fact(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The evaluation examples that no document holds, where the recipe names any."""
    removed = sum(manifest["removed"].get("decontaminate", {}).values())
    names = ", ".join(
        f"{name} (SHA-256 {each['sha256'][:12]}, {each['num_searched']:,} of {each['num_examples']:,} examples could"
        " be looked for)"
        for name, each in manifest.get("decontaminated", {}).items()
    )
    return {"decontaminated": f"{names}: {removed:,} documents dropped, edits in the others"} if names else {}


def _share_fact(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The score that parts the best share from the rest, where the recipe keeps one."""
    if (known := manifest.get("quality_share")) is None:
        return {}
    cut = Cut.model_validate(known)
    fact = f"{cut.keep_share:.1%} was asked for: {cut}, kept {cut.num_kept:,} of {cut.num_texts:,} documents"
    if cut.num_texts_since:
        fact += f", and {cut.num_kept_since:,} of {cut.num_texts_since:,} that have come since"
    return {"best share": fact}


def corpus_card(directory: Path, manifest: Mapping[str, Any]) -> str:
    """The card of a version: what it holds, from where, by which rules, and how it is used."""
    reference = f"{manifest['name']}@{manifest['version']}"
    kept, records = manifest["documents_kept"], manifest["records_in"]
    facts = corpus_facts(directory)
    sources = Counter(str(file["source"]) for file in manifest["inputs"])
    removed = [(*row, f"{row[-1] / max(records, 1):.1%}") for row in funnel_rows(manifest["removed"])]
    return "\n\n".join(
        [
            f"## Corpus {reference}",
            markdown_facts(
                {
                    "documents": kept,
                    "of records": f"{records:,} ({kept / max(records, 1):.1%} kept)",
                    "tokens, estimated": manifest["estimated_tokens"],
                    "text": _size(manifest["text_bytes"]),
                    "made": manifest["created"],
                    "built": manifest["mode"],
                    "recipe": manifest["recipe"]["name"],
                    "models": ", ".join(manifest.get("models", ())) or "not recorded",
                    **_decontamination_fact(manifest),
                    **_share_fact(manifest),
                    "files read": len(manifest["inputs"]),
                    "licences": "unknown: nothing of the pages' licences is looked at",
                    "digest": manifest["digest"],
                }
            ),
            "### Languages",
            markdown_table(["language", "documents"], facts["languages"].items()),
            "### Domains with the most documents",
            markdown_table(["domain", "documents"], facts["domains"].items()),
            "### Sources",
            markdown_table(["source", "files"], sources.items()),
            "### Removed",
            markdown_table(["stage", "rule", "records", "of all"], removed),
            *_wipe_outs_markdown(manifest.get("wipe_outs", ())),
            "### Largest clusters",
            _clusters_markdown(largest_clusters(directory, manifest)),
            "### Rules and thresholds",
            markdown_facts(dict(_rule_rows(manifest["recipe"]))),
            "### How to use it",
            markdown_code(
                [
                    f"tokenmill pretrain --corpus {reference}",
                    "",
                    "import pyarrow.parquet as pq",
                    f'documents = pq.read_table("{directory / "documents"}")',
                    f'ledger = pq.read_table("{directory / "ledger"}")  # one row for every record, kept or not',
                ]
            ),
        ]
    )
