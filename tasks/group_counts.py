"""How many records of each source, domain and language left at which stage: what the wipe-out guard judges by.

    count      per chunk of neighbouring shards    ledgers and documents of all screening stages -> counts of its groups
    add up     once                                the chunks' counts -> those of the whole run

Nothing is written while pages are screened: where a record left, its ledger row says.

A crawl has more domains than memory holds. Only large ones are judged, at least a share f of all that enters a stage,
and a domain with a share f of the whole has it in at least one chunk. So only those that are large in some chunk are
added up, from every chunk, and their counts are exact. Memory: the groups of one chunk of 2^17 records, some 100 MB
where each has a domain of its own; then 5/f names for each chunk at most, 500 by default, and in a real crawl the same
few hundred in all of them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.document import ShardReport
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE, LEDGER_FILE
from tasks.stages import Progress, Stage, StageOutput, no_progress, run_stage
from tasks.wipe_out import JUDGED_BY, KEPT, Groups, Kind, entered_in_all, is_large

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh

GROUPS_FILE = "groups.parquet"
GROUPS = pa.schema(
    [
        ("kind", pa.string()),
        ("group", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("documents", pa.int64()),
        ("is_large", pa.bool_()),  # a source, a language, or a domain that is large in this chunk
    ]
)
_CHUNK_RECORDS, _CHUNK_SHARDS = 1 << 17, 1024
_LEDGER_COLUMNS = ["record_id", "source", "url", "stage", "reason", "value", "threshold", "detail"]

ScreenedShards = Mapping[str, Path]
"""The folders of one shard in the outputs of the stages that the guard judges, from extract on, in order."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Where a record left, or that it was kept, and the groups that it belongs to."""

    row: Mapping[str, Any]
    """record_id, url, stage, reason, value, threshold and detail, as in the ledger."""
    groups: Mapping[Kind, str]
    """Without those that are not known: a file has no domain, what was never identified no language."""


@functools.lru_cache(maxsize=1)
def _suffixes() -> Any:
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list inside the package: no network


@functools.lru_cache(maxsize=1 << 16)
def _domain_of_host(host: str) -> str:
    return _suffixes().extract_str(host).top_domain_under_public_suffix or host


def registered_domain(url: str) -> str:
    """`example.co.uk` of `https://www.example.co.uk/`; the whole host where it is under no public suffix.

    Empty where there is no host, or one that no screen should show.
    """
    try:
        host = urlsplit(url).hostname
    except ValueError:  # an unclosed bracket: pages hold any text
        return ""
    return _domain_of_host(host) if host and host.isprintable() else ""


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        rows: list[dict[str, Any]] = file.read(columns=list(columns)).to_pylist()
        return rows


def exits(shard: ScreenedShards) -> Iterator[Exit]:
    """Every record of a shard, where it left."""
    languages = {
        row["document_id"]: row["language"]
        for row in _rows(shard["language"] / DOCUMENTS_FILE, ["document_id", "language"])
    }
    for folder in shard.values():
        for row in _rows(folder / LEDGER_FILE, _LEDGER_COLUMNS):
            language = row["detail"] if row["reason"] == "language_score" else languages.get(row["record_id"])
            yield Exit(row, _groups(row["source"], row["url"], language))
    *_, last = shard.values()
    for row in _rows(last / DOCUMENTS_FILE, ["document_id", "source", "url", "language"]):
        yield Exit(
            {"record_id": row["document_id"], "url": row["url"], "stage": KEPT, "reason": ""},
            _groups(row["source"], row["url"], row["language"]),
        )


def _groups(source: str, url: str, language: str | None) -> dict[Kind, str]:
    groups: dict[Kind, str | None] = {"source": source, "domain": registered_domain(url), "language": language}
    return {kind: name for kind, name in groups.items() if name}


def count_chunk(shards: Sequence[ScreenedShards], directory: Path, *, min_domain_fraction: float) -> ShardReport:
    """Write the counts of every group in some shards."""
    counts: dict[tuple[Kind, str], Counter[tuple[str, str]]] = {}
    num_records = 0
    for shard in shards:
        for record in exits(shard):
            num_records += 1
            for group in record.groups.items():
                counts.setdefault(group, Counter())[record.row["stage"], record.row["reason"]] += 1
    _write(directory / GROUPS_FILE, counts, min_domain_fraction)
    return ShardReport(num_records, num_records)


def _write(path: Path, counts: Groups, min_domain_fraction: float) -> None:
    judging = [stage for stage, kinds in JUDGED_BY.items() if "domain" in kinds]
    num_entered = {stage: entered_in_all(counts, stage) for stage in judging}
    columns: dict[str, list[Any]] = {name: [] for name in GROUPS.names}
    for (kind, group), of_group in sorted(counts.items()):
        large = kind != "domain" or any(
            is_large(of_group, stage, num_entered[stage], min_domain_fraction) for stage in judging
        )
        for (stage, reason), documents in sorted(of_group.items()):
            for name, value in zip(GROUPS.names, (kind, group, stage, reason, documents, large), strict=True):
                columns[name].append(value)
    pq.write_table(pa.table(columns, schema=GROUPS), path, compression="zstd")


def add_up(chunks: Sequence[Path]) -> Groups:
    """The counts of all sources and languages, and of every domain that is large in at least one chunk; exact."""
    names: set[str] = set()
    for chunk in chunks:
        large = (pc.field("kind") == "domain") & pc.field("is_large")
        names.update(pq.read_table(chunk / GROUPS_FILE, columns=["group"], filters=large)["group"].unique().to_pylist())
    counts: dict[tuple[Kind, str], Counter[tuple[str, str]]] = {}
    for chunk in chunks:
        judged = (pc.field("kind") != "domain") | pc.field("group").isin(pa.array(sorted(names), pa.string()))
        for row in pq.read_table(chunk / GROUPS_FILE, filters=judged).to_pylist():
            of_group = counts.setdefault((row["kind"], row["group"]), Counter())
            of_group[row["stage"], row["reason"]] += row["documents"]
    return counts


def screened_shards(outputs: Mapping[str, StageOutput]) -> tuple[ScreenedShards, ...]:
    """Every shard with its folders by stage: it keeps its place from stage to stage."""
    by_shard = zip(*(output.shards for output in outputs.values()), strict=True)
    return tuple(dict(zip(outputs, folders, strict=True)) for folders in by_shard)


def count_groups(
    refresh: Refresh, outputs: Mapping[str, StageOutput], shard_map: ShardMap, progress: Progress = no_progress
) -> Groups:
    """The counts of what this run has read and screened; counted once, whatever becomes of the run.

    No other stage comes after this one, so neither the guard nor its limits make anything else anew.
    """
    recipe, shards = refresh.recipe, screened_shards(outputs)
    *_, last = outputs
    size = max(1, min(_CHUNK_SHARDS, _CHUNK_RECORDS // recipe.shard_records))
    fraction = recipe.guard.min_domain_fraction
    counted = run_stage(
        Stage(
            "group_counts",
            {"min_domain_fraction": fraction},
            ("pyarrow", "tldextract"),
            ("tasks.group_counts",),
            after=refresh.stages[last].fingerprint,
        ),
        refresh.store.work,
        shard_map,
        functools.partial(count_chunk, min_domain_fraction=fraction),
        [shards[start : start + size] for start in range(0, len(shards), size)],
        progress=progress,
    )
    return add_up(counted.shards)
