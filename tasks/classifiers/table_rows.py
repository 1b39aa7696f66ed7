"""Rows of labelled data: JSONL, CSV or Parquet, plain, gzip or zstd, at any path that fsspec knows.

Labelled data is made with care, and a wrong row in it is a mistake to be mended, not a loss to be counted as in a
crawl: whatever can't be read ends the reading with the file and the row. Rows are numbered from 1, a CSV file's header
not counted. One row is held at a time (of Parquet, `BATCH_ROWS`).
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import has_magic
from typing import Any, BinaryIO

import pyarrow as pa

from tasks.address import connect, redacted
from tasks.read.byte_stream import BrokenStream, ByteStream, PlainStream
from tasks.read.compression import compression_of
from tasks.read.parquet import BATCH_ROWS, WatchedHandle, open_parquet
from tasks.read.raw_file import BLOCK_BYTES, RawFile, open_handle
from tasks.transient import refusal, retried

FORMATS = ("jsonl", "csv", "parquet")
MAX_ROW_BYTES = 64 << 20
"""Of a line; a file without any line's end is not held whole before that is noticed."""

_COMPRESSED = (".gz", ".zst")


class RowError(ValueError):
    """A row, or a file, that can't be used: which, why, and what to do."""

    def __init__(self, path: str, row: int, problem: str) -> None:
        where = f"{redacted(path)}, row {row}" if row else redacted(path)
        super().__init__(f"{where}: {problem}")


def format_of(path: str) -> str:
    """One of `FORMATS`, by the name's ending. Raises ValueError."""
    name = redacted(path).lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    found = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
    for suffix, of_format in found.items():
        if name.endswith(suffix):
            return of_format
    raise RowError(path, 0, "its name says no format: it must end in .jsonl, .csv or .parquet (and .gz or .zst)")


def find_files(paths: Sequence[str]) -> tuple[str, ...]:
    """The files that paths and globs name, in the order of their names, each once.

    Raises ValueError for a name of no known format and a glob that finds nothing, and what the storage says else.
    """
    found: set[str] = set()
    for path in paths:
        if not has_magic(path) or path.startswith(("http://", "https://")):
            found.add(path)
            continue
        try:
            filesystem, pattern = connect(path)
            names = retried(functools.partial(filesystem.glob, pattern), "listing", path)
        except Exception as error:  # each storage has its own
            raise refusal(error, "listing", path) from error
        if not names:
            raise RowError(path, 0, "no file has such a name: check the path")
        found.update(filesystem.unstrip_protocol(name) if "://" in path else name for name in names)
    for path in found:
        format_of(path)
    return tuple(sorted(found))


def files_sha256(paths: Sequence[str]) -> str:
    """Of one file the SHA-256 of its content; of several that of their SHA-256, one a line, in order."""
    digests = []
    for path in paths:
        digest = hashlib.sha256()
        with _opened(path) as handle:
            while block := handle.read(BLOCK_BYTES):
                digest.update(block)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_rows(path: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row's number and its values of `columns`, which every row has; None where a value is null.

    Raises ValueError (`RowError`) for a file that does not exist or is damaged, a column that is missing, a line that
    is no JSON object or too long, and text that is no UTF-8; UnavailableError where a storage still fails.
    """
    of_format = format_of(path)
    with _opened(path) as handle:
        if of_format == "parquet":
            yield from _parquet_rows(path, handle, columns)
        else:
            lines = _lines(path, _content(path, handle))
            yield from (_json_rows if of_format == "jsonl" else _csv_rows)(path, lines, columns)


def check_rows(path: str, columns: Sequence[str]) -> None:
    """Read the first row, to know before any work whether a file is there and has the columns. Raises as above."""
    if next(read_rows(path, columns), None) is None:
        raise RowError(path, 0, "it has no rows: leave it out, or name another file")


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    with ExitStack() as opened:
        try:
            handle = opened.enter_context(open_handle(path))
        except OSError as error:
            raise RowError(path, 0, f"it can't be opened ({error.strerror}): check the path") from error
        yield handle


def _content(path: str, handle: Any) -> Iterator[bytes]:
    raw = RawFile(handle)
    compression = compression_of(raw, path, lambda prefix: True)
    stream: ByteStream = PlainStream(raw, 0) if compression is None else compression.stream(0, None)
    try:
        while piece := stream.pull():
            yield piece
    except BrokenStream as error:
        raise RowError(path, 0, f"{error}; copy the file again") from error


def _lines(path: str, pieces: Iterable[bytes]) -> Iterator[str]:
    """Lines with their line feeds, as text."""
    number, rest = 1, b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield _text(path, number, line + b"\n")
            number += 1
        if len(rest) > MAX_ROW_BYTES:
            raise RowError(path, number, f"longer than {MAX_ROW_BYTES:,} bytes: is it a file of lines?")
    if rest:
        yield _text(path, number, rest)


def _text(path: str, line: int, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(path, 0, f"line {line} is no UTF-8 ({error.reason}): convert the file") from error


def _json_rows(path: str, lines: Iterable[str], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RowError(path, number, f"not JSON ({error}): mend or remove the line") from error
        if not isinstance(row, dict):
            raise RowError(path, number, 'not a JSON object: each line is one, like {"text": ..., "label": ...}')
        _check_columns(path, number, columns, row)
        yield number, {column: row[column] for column in columns}


def _csv_rows(path: str, lines: Iterable[str], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(MAX_ROW_BYTES)  # the module's, for all of the process; its own limit is that of a long page
    reader = csv.DictReader(lines, strict=True)
    number = 0
    try:
        _check_columns(path, 0, columns, reader.fieldnames or ())
        for number, row in enumerate(reader, start=1):
            if None in row or None in row.values():
                raise RowError(path, number, f"more or fewer values than the {len(reader.fieldnames or ())} columns")
            yield number, {column: row[column] for column in columns}
    except csv.Error as error:
        raise RowError(path, number + 1, f"not CSV ({error}): mend the row, or its quotes") from error


def _parquet_rows(path: str, handle: Any, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    watched = WatchedHandle(handle)
    file = open_parquet(watched)
    if file is None:
        raise RowError(path, 0, "no intact Parquet footer: copy the file again")
    _check_columns(path, 0, columns, file.schema_arrow.names)
    number = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(columns)), use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if watched.error is not None:
            raise watched.error from error
        raise RowError(path, number + 1, f"it can't be decoded ({error}): copy the file again") from error


def _check_columns(path: str, row: int, columns: Sequence[str], found: Collection[str]) -> None:
    if missing := [column for column in columns if column not in found]:
        there = ", ".join(list(found)[:20]) or "none"
        raise RowError(path, row, f"there is no column {missing[0]!r}, but {there}: name one of these")
    if twice := [column for column in columns if list(found).count(column) > 1]:
        raise RowError(path, row, f"there are several columns {twice[0]!r}: leave one of that name")
