"""The columns of every Parquet file the pipeline writes, and the way they are written.

Published: `DOCUMENTS`, `ORIGINALS`, `LEDGER`, `EDITS`, `QUARANTINE`. Between stages: `RECORDS` (what was read), `TEXTS`
(documents on their way).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.document import Document, Drop, Record

RECORDS = pa.schema(
    [
        ("base_id", pa.string()),
        ("payload_digest", pa.string()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_offset", pa.int64()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("kind", pa.string()),
        ("content", pa.binary()),
        ("charset", pa.string()),
        ("problem_reason", pa.string()),
        ("problem_value", pa.float64()),
        ("problem_threshold", pa.float64()),
        ("problem_detail", pa.string()),
        ("problem_stage", pa.string()),
        ("quarantine", pa.binary()),
        ("quarantine_of_bytes", pa.int64()),
    ]
)
TEXTS = pa.schema(
    [
        ("document_id", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_offset", pa.int64()),
    ]
)
DOCUMENTS = pa.schema([*TEXTS, ("text_sha256", pa.string()), ("cluster_id", pa.string()), ("cluster_size", pa.int64())])
ORIGINALS = pa.schema([*TEXTS, ("cluster_size", pa.int64())])
"""Texts as they were screened, of documents that deduplication removed or shortened. The size is that of the cluster
which the document stands for; null for one that is itself a duplicate."""
LEDGER = pa.schema(
    [
        ("record_id", pa.string()),
        ("source", pa.string()),
        ("source_file", pa.string()),
        ("source_offset", pa.int64()),
        ("url", pa.string()),
        ("stage", pa.string()),
        ("outcome", pa.string()),  # kept, removed, quarantined
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("survivor_id", pa.string()),
    ]
)
EDITS = pa.schema(
    [
        ("document_id", pa.string()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("start", pa.int64()),
        ("removed", pa.string()),
        ("replacement", pa.string()),
    ]
)
QUARANTINE = pa.schema(
    [
        ("document_id", pa.string()),  # of the record, as `record_id` in the ledger
        ("url", pa.string()),
        ("source_file", pa.string()),
        ("source_offset", pa.int64()),
        ("reason", pa.string()),
        ("num_bytes", pa.int64()),  # in all; `content` holds the first of them
        ("sha256", pa.string()),  # of `content`, as the ledger's detail names it
        ("content", pa.binary()),
    ]
)

_ROWS_PER_GROUP = 64
_BYTES_PER_GROUP = 8 << 20
_ROWS_PER_PART_GROUP = 256


def clean(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 file can hold, replaced by U+FFFD."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


class TableWriter:
    """Appends rows to one Parquet file in small row groups, so that memory stays bounded whatever the rows hold."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[Mapping[str, Any]] = []
        self._pending_bytes = 0
        self.num_rows = 0

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._pending_bytes += sum(len(row.get(name) or b"") for name in ("content", "text", "quarantine"))
        self.num_rows += 1
        if len(self._rows) >= _ROWS_PER_GROUP or self._pending_bytes >= _BYTES_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._pending_bytes = [], 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class PartWriter:
    """Writes one part of a version. Rows come in order; equal rows give equal bytes, in whatever pieces they came.

    Row groups have 256 rows, so that a reader of few ids reads little. Memory: the pieces not yet written, below 256
    rows and the last piece.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending = schema.empty_table()
        self.num_rows = 0

    def write(self, table: pa.Table) -> None:
        self.num_rows += len(table)
        self._pending = pa.concat_tables([self._pending, table.select(self._schema.names).cast(self._schema)])
        full = len(self._pending) // _ROWS_PER_PART_GROUP * _ROWS_PER_PART_GROUP
        if full:
            self._write_groups(self._pending.slice(0, full))
            self._pending = self._pending.slice(full)

    def _write_groups(self, table: pa.Table) -> None:
        for start in range(0, len(table), _ROWS_PER_PART_GROUP):
            # one chunk a column: where chunks end would show in the pages
            self._writer.write_table(table.slice(start, _ROWS_PER_PART_GROUP).combine_chunks())

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_groups(self._pending)
        self._writer.close()


def read_between(path: Path, key: str, low: str, high: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part whose `key` is at least `low` and below `high`; reads only the row groups that may hold any.

    Where the part is sorted by `key`, that is little more than these rows.
    """
    within = (pc.field(key) >= low) & (pc.field(key) < high)
    return pq.read_table(path, columns=list(columns) if columns is not None else None, filters=within)


def write_rows(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a row group at a time."""
    for rows in read_row_groups(path, columns):
        yield from rows


def read_row_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The row groups of a Parquet file, each as its rows.

    On this thread alone: a worker has one core, and to wake others costs more than a group of rows has to read.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns, use_threads=False).to_pylist()


def record_row(record: Record) -> dict[str, Any]:
    problem = record.problem
    return {
        "base_id": record.base_id,
        "payload_digest": record.payload_digest,
        "source": record.source,
        "source_file": record.source_file,
        "source_offset": record.source_offset,
        "url": clean(record.url),
        "date": record.date,
        "kind": record.kind,
        "content": b"" if problem else record.content,
        "charset": record.charset,
        "problem_reason": problem.reason if problem else None,
        "problem_value": problem.value if problem else None,
        "problem_threshold": problem.threshold if problem else None,
        "problem_detail": clean(problem.detail) if problem and problem.detail else None,
        "problem_stage": record.problem_stage if problem else None,
        "quarantine": record.quarantine or None,
        "quarantine_of_bytes": record.quarantine_of_bytes or None,
    }


def record_problem(row: Mapping[str, Any]) -> Drop | None:
    if row["problem_reason"] is None:
        return None
    return Drop(row["problem_reason"], row["problem_value"], row["problem_threshold"], row["problem_detail"])


def text_row(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in TEXTS.names}


def document_of(row: Mapping[str, Any]) -> Document:
    return Document(**{name: row[name] for name in TEXTS.names})
