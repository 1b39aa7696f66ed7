"""From records to screened documents: what happens to one shard in each stage before deduplication.

Every function reads files, writes `documents.parquet`, `ledger.parquet` and `edits.parquet` into a new folder, and
returns a report. Each record of its input ends in exactly one of the first two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.document import QUARANTINE_REASONS, Decision, Document, Drop, Edit, Keep, Rewrite, ShardReport
from tasks.extract import Extraction, Extractor
from tasks.language import LanguageRule
from tasks.read.inventory import RecordRange
from tasks.read.records import ReadLimits, read_range
from tasks.rule import Rule
from tasks.tables import (
    EDITS,
    LEDGER,
    RECORDS,
    TEXTS,
    TableWriter,
    clean,
    document_of,
    read_rows,
    record_problem,
    record_row,
    text_row,
    write_rows,
)
from tasks.url_filter import UrlFilter

DOCUMENTS_FILE, LEDGER_FILE, EDITS_FILE = "documents.parquet", "ledger.parquet", "edits.parquet"
RECORDS_FILE, OCCURRENCES_FILE = "records.parquet", "occurrences.parquet"


class ShardOutput:
    """The three files of a shard's output, and the counts of its report."""

    def __init__(self, directory: Path, stage: str) -> None:
        self._stage = stage
        self._documents = TableWriter(directory / DOCUMENTS_FILE, TEXTS)
        self._ledger = TableWriter(directory / LEDGER_FILE, LEDGER)
        self._edits = TableWriter(directory / EDITS_FILE, EDITS)
        self._removed: dict[str, int] = {}

    def keep(self, document: Document) -> None:
        self._documents.write(text_row(document))

    def drop(self, document: Document, drop: Drop, stage: str | None = None) -> None:
        stage = stage or self._stage
        key = f"{stage}/{drop.reason}"
        self._removed[key] = self._removed.get(key, 0) + 1
        self._ledger.write(
            {
                "record_id": document.document_id,
                "source": document.source,
                "source_file": document.source_file,
                "source_offset": document.source_offset,
                "url": document.url,
                "stage": stage,
                "outcome": "quarantined" if drop.reason in QUARANTINE_REASONS else "removed",
                "reason": drop.reason,
                "value": drop.value,
                "threshold": drop.threshold,
                "detail": clean(drop.detail) if drop.detail else None,
                "survivor_id": None,
            }
        )

    def edit(self, document: Document, rule: str, edits: Sequence[Edit]) -> None:
        for edit in edits:
            self._edits.write(
                {
                    "document_id": document.document_id,
                    "stage": self._stage,
                    "rule": rule,
                    "kind": edit.kind,
                    "reason": edit.reason,
                    "start": edit.start,
                    "removed": edit.removed,
                    "replacement": edit.replacement,
                }
            )

    def report(self) -> ShardReport:
        kept, removed = self._documents.num_rows, self._ledger.num_rows
        return ShardReport(kept + removed, kept, dict(sorted(self._removed.items())), self._edits.num_rows)

    def __enter__(self) -> ShardOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._documents, self._ledger, self._edits):
            writer.__exit__(kind, error, trace)


@dataclass(frozen=True)
class ReadShard:
    """Ranges of the input that are read together, and the logical name that their records carry."""

    source: str
    ranges: tuple[RecordRange, ...]


def read_shard(shard: ReadShard, directory: Path, *, limits: ReadLimits) -> ShardReport:
    """Write the records of some ranges of the input, as they are, to `records.parquet`.

    Raises ValueError where a range holds more or fewer records than were counted: such a shard must not be kept.
    """
    num_records = 0
    with TableWriter(directory / RECORDS_FILE, RECORDS) as writer:
        for part in shard.ranges:
            before = num_records
            for record in read_range(part, source=shard.source, limits=limits):
                writer.write(record_row(record))
                num_records += 1
            if num_records - before != part.num_records:
                raise ValueError(
                    f"{part.file.path}: {part.num_records} records were counted from {part.start} on and"
                    f" {num_records - before} read; the file changed in between: run the refresh again"
                )
    return ShardReport(records_in=num_records, kept=num_records)


def number_occurrences(shards: Sequence[Path], destination: Path) -> int:
    """Tell records with the same `base_id` apart, over all shards; how many needed it.

    Writes (shard, row, occurrence) for every record that is not its id's first. The order among equal ids comes from
    everything the records hold, so the published result doesn't depend on files or shards; only where they hold the
    same does their place decide, by name of the file: whatever came first, the same record has the same number.
    """
    verdict = ["problem_reason", "problem_value", "problem_threshold", "problem_detail"]
    columns = ["base_id", "payload_digest", "url", "date", "kind", "charset", *verdict]
    tables = []
    for index, shard in enumerate(shards):
        table = pq.read_table(shard / RECORDS_FILE, columns=[*columns, "source_file", "source_offset"])
        table = table.append_column("shard", pa.array([index] * len(table), pa.int32()))
        tables.append(table.append_column("row", pa.array(range(len(table)), pa.int64())))
    ids = pa.concat_tables(tables) if tables else RECORDS.empty_table().select(["base_id"])
    counts = ids.group_by("base_id").aggregate([("base_id", "count")])
    repeated = counts.filter(pa.compute.greater(counts["base_id_count"], 1))["base_id"]
    rows: list[dict[str, Any]] = []
    if len(repeated):
        order = [(name, "ascending") for name in [*columns, "source_file", "source_offset", "shard", "row"]]
        previous, occurrence = None, 0
        for row in ids.filter(pa.compute.is_in(ids["base_id"], repeated)).sort_by(order).to_pylist():
            occurrence = occurrence + 1 if row["base_id"] == previous else 0
            previous = row["base_id"]
            if occurrence:
                rows.append({"shard": row["shard"], "row": row["row"], "occurrence": occurrence})
    schema = pa.schema([("shard", pa.int32()), ("row", pa.int64()), ("occurrence", pa.int64())])
    write_rows(destination, schema, rows)
    return len(rows)


def occurrences_by_shard(occurrences: Path) -> dict[int, tuple[tuple[int, int], ...]]:
    """What `number_occurrences` wrote: (row, occurrence) pairs by shard, for the shards that have any."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row in read_rows(occurrences):
        found.setdefault(row["shard"], []).append((row["row"], row["occurrence"]))
    return {shard: tuple(sorted(pairs)) for shard, pairs in found.items()}


@dataclass(frozen=True)
class RecordShard:
    """A shard of records, and (row, occurrence) of those whose id an earlier record has."""

    directory: Path
    occurrences: tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=2)
def _extractor(extraction: Extraction) -> Extractor:
    return Extractor(extraction)  # one warm child for each worker process, whatever the number of shards


@functools.lru_cache(maxsize=64)
def _built(kind: type[Rule], configuration: str) -> Callable[[Document], Decision]:
    return kind.model_validate_json(configuration).build()


def built(rule: Rule) -> Callable[[Document], Decision]:
    """The rule's function, built once for each process: models and lists are loaded once."""
    return _built(type(rule), rule.model_dump_json())


def extract_shard(shard: RecordShard, directory: Path, *, url_filter: UrlFilter, extraction: Extraction) -> ShardReport:
    """Give every record its id; apply the reader's verdict and the URL filter; extract the text of what is left."""
    occurrences = dict(shard.occurrences)
    judge_url = built(url_filter)
    extractor = _extractor(extraction)
    with ShardOutput(directory, "extract") as output:
        for index, row in enumerate(read_rows(shard.directory / RECORDS_FILE)):
            document = Document(
                document_id=f"{row['base_id']}-{occurrences.get(index, 0)}",
                text="",
                source=row["source"],
                url=row["url"],
                date=row["date"],
                source_file=row["source_file"],
                source_offset=row["source_offset"],
            )
            problem = record_problem(row)
            if problem is not None:
                output.drop(document, problem, stage="read")
                continue
            verdict = judge_url(document)
            if isinstance(verdict, Drop):
                output.drop(document, verdict, stage="url_filter")
                continue
            if row["kind"] == "text":
                text: str | Drop = row["content"].decode("utf-8", "replace")
            else:
                text = extractor.extract(row["content"], row["charset"])
            if isinstance(text, str) and not text.strip():
                text = Drop("no_content")
            if isinstance(text, Drop):
                output.drop(document, text)
            else:
                output.keep(replace(document, text=clean(text)))
        return output.report()


def language_shard(shard: Path, directory: Path, *, language: LanguageRule) -> ShardReport:
    """Identify each document's language and keep those that the recipe asks for."""
    identify = language.build_identified()
    with ShardOutput(directory, "language") as output:
        for row in read_rows(shard / DOCUMENTS_FILE):
            document, verdict = identify(document_of(row))
            if isinstance(verdict, Drop):
                output.drop(document, verdict)
            else:
                output.keep(document)
        return output.report()


def rules_shard(shard: Path, directory: Path, *, stage: str, rules: tuple[Rule, ...]) -> ShardReport:
    """Apply filters and formatters in order; the first that drops a document ends its way."""
    steps = [(str(getattr(rule, "kind", type(rule).__name__)), built(rule)) for rule in rules]
    with ShardOutput(directory, stage) as output:
        for row in read_rows(shard / DOCUMENTS_FILE):
            document = document_of(row)
            verdict: Decision = Keep()
            for name, step in steps:
                verdict = step(document)
                if isinstance(verdict, Rewrite):
                    output.edit(document, name, verdict.edits)
                    document = replace(document, text=clean(verdict.text))
                    if not document.text.strip():
                        verdict = Drop("empty", detail=f"nothing left after {name}")
                if isinstance(verdict, Drop):
                    break
            if isinstance(verdict, Drop):
                output.drop(document, verdict)
            else:
                output.keep(document)
        return output.report()
