"""Exact deduplication of paragraphs over all kept documents of a version: the first stays, later ones go.

    write_paragraph_run    per bucket       kept documents -> a run of their paragraphs' hashes, sorted by hash
    repeated_paragraphs    per partition    runs -> which paragraphs of which documents are repetitions, and of whom
    shorten                per document     text -> text without them, and the edits that say so

A paragraph is what stands between two newlines, as extraction writes it. Two are equal when their words are, whatever
the white space between them; case and punctuation count, because a sentence that differs in them was typed by somebody
else. The first in the survivor order of the documents, and within one document the first in the text, stays. So what
goes is a function of the set of kept documents, and not of their order of arrival, their buckets or the partitions.

Keys are 128 bits of BLAKE2b: among 10^12 different paragraphs the chance of one false repetition is 10^-15.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.config import Deduplication
from tasks.document import Edit, Rewrite

DOCUMENTS_PER_BATCH = 512
REASON = "repeated_paragraph"

RUN = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("num_chars", "<i8"),
        ("date", "S20"),
        ("document_id", "S48"),
        ("bucket", "<u4"),
        ("row", "<u4"),
        ("paragraph", "<u4"),
    ]
)
"""A paragraph: its hash, the survivor order of its document, and its place (row of the bucket's kept documents)."""

REPEATED = np.dtype([("bucket", "<u4"), ("row", "<u4"), ("paragraph", "<u4"), ("keeper", "S48")])
"""A paragraph that goes, and the document in which its text stays."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A line of a text that is long enough to count: its number among all lines, its place, and its hash."""

    number: int
    start: int
    end: int
    key: bytes


def paragraphs(text: str, min_chars: int) -> Iterator[Paragraph]:
    """The lines of `text` with at least `min_chars` characters once runs of white space are single spaces."""
    start = 0
    for number, line in enumerate(text.split("\n")):
        compared = " ".join(line.split())
        if len(compared) >= max(min_chars, 1):
            data = compared.encode("utf-8", "surrogatepass")
            key = hashlib.blake2b(data, digest_size=16, person=b"paragraph").digest()
            yield Paragraph(number, start, start + len(line), key)
        start += len(line) + 1


def write_paragraph_run(documents: Path, bucket: int, output_file: Path, config: Deduplication) -> int:
    """Write the run of one bucket's kept documents (document_id, date, text in Parquet); how many paragraphs.

    Holds the run in memory, 250 bytes a paragraph while it is sorted, and the texts of a batch. Raises ValueError where
    an id or a date is longer than the pipeline writes it.
    """
    parts = [np.empty(0, RUN)]
    first_row = 0
    for batch in pq.ParquetFile(documents).iter_batches(DOCUMENTS_PER_BATCH, columns=["document_id", "date", "text"]):
        rows = batch.to_pylist()
        for row in rows:
            if len(row["document_id"].encode()) > 48 or len(row["date"].encode()) > 20:
                raise ValueError(f"{documents}: document {row['document_id']!r} of {row['date']!r}: too long")
        parts.append(np.array(list(_run_rows(rows, bucket, first_row, config.min_paragraph_chars)), dtype=RUN))
        first_row += len(rows)
    run = np.concatenate(parts)
    run = run[np.lexsort((run["low"], run["high"]))]
    np.save(output_file, run, allow_pickle=False)
    return len(run)


def _run_rows(
    documents: Sequence[Mapping[str, str]], bucket: int, first_row: int, min_chars: int
) -> Iterator[tuple[Any, ...]]:
    """What `RUN` says of each paragraph of these documents."""
    for row, document in enumerate(documents, first_row):
        order = (len(document["text"]), document["date"].encode(), document["document_id"].encode())
        for found in paragraphs(document["text"], min_chars):
            high, low = int.from_bytes(found.key[:8], "big"), int.from_bytes(found.key[8:], "big")
            yield (high, low, *order, bucket, row, found.number)


def _slice(run_file: Path, partition: int, num_partitions: int) -> NDArray[Any]:
    """The part of a run whose hashes lie in the partition, an equal range of 64 bits; the rest is never read."""
    run: NDArray[Any] = np.load(run_file, mmap_mode="r", allow_pickle=False)
    high = run["high"]
    width = -(-(1 << 64) // num_partitions)
    first = bisect.bisect_left(high, partition * width, key=int)
    last = bisect.bisect_left(high, (partition + 1) * width, key=int)
    return np.array(run[first:last])


def repeated_paragraphs(
    runs: Sequence[Path], partition: int, num_partitions: int, output_file: Path, config: Deduplication
) -> int:
    """Write (`REPEATED`, sorted) which paragraphs of this partition of the hashes go; returns how many.

    Holds the partition's share of all runs in memory, some 500 bytes a paragraph. Equal paragraphs are in one
    partition: one that stands on a hundred million pages would need 50 GB.
    """
    found = np.concatenate([np.empty(0, RUN), *(_slice(run, partition, num_partitions) for run in runs)])
    order: list[NDArray[Any]] = [found["paragraph"], found["document_id"], found["date"]]
    if config.order == "longest":
        order.append(-found["num_chars"])
    found = found[np.lexsort((*order, found["low"], found["high"]))]
    is_first = np.ones(len(found), dtype=bool)
    is_first[1:] = (found["high"][1:] != found["high"][:-1]) | (found["low"][1:] != found["low"][:-1])
    first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(found) else np.empty(0, np.int64)
    later = ~is_first
    repeated = np.empty(int(later.sum()), dtype=REPEATED)
    for name in ("bucket", "row", "paragraph"):
        repeated[name] = found[name][later]
    repeated["keeper"] = found["document_id"][first[later]]
    repeated = repeated[np.lexsort((repeated["paragraph"], repeated["row"], repeated["bucket"]))]
    np.save(output_file, repeated, allow_pickle=False)
    return len(repeated)


def repeated_in(files: Sequence[Path], bucket: int) -> dict[int, dict[int, str]]:
    """What `repeated_paragraphs` wrote for one bucket: by row the numbers of the lines that go, with their keepers."""
    rows: dict[int, dict[int, str]] = {}
    for file in files:
        table: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        buckets = table["bucket"]
        part = table[bisect.bisect_left(buckets, bucket, key=int) : bisect.bisect_right(buckets, bucket, key=int)]
        for row, number, keeper in zip(
            part["row"].tolist(), part["paragraph"].tolist(), part["keeper"].tolist(), strict=True
        ):
            rows.setdefault(row, {})[number] = keeper.decode()
    return rows


def shorten(text: str, numbers: Collection[int]) -> Rewrite:
    """`text` without the lines of these numbers: each goes with the newline after it, at the end with that before it.

    Taking the edits' spans out of `text` gives the new text exactly.
    """
    lines = text.split("\n")
    kept = [number for number in range(len(lines)) if number not in numbers]
    last_kept = kept[-1] if kept else -1
    edits: list[Edit] = []
    start = 0
    for number, line in enumerate(lines):
        end = start + len(line)
        if number in numbers:
            first, last = (start, end + 1) if number < last_kept else (max(start - 1, 0), end)
            edits.append(Edit("span_removed", REASON, first, text[first:last]))
        start = end + 1
    return Rewrite("\n".join(lines[number] for number in kept), tuple(edits))
