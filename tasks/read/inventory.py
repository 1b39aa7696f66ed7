"""The counting pass: how many records a file holds, and where it may be cut into ranges.

It sees frames only, decides nothing about a record, and is the figure that everything later must add up to.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from tasks.read.archive_layout import ArcLayout, WarcLayout
from tasks.read.framing import Layout, frames
from tasks.read.limits import ReadLimits
from tasks.read.line_layout import LineLayout
from tasks.read.parquet import WatchedHandle, open_parquet, row_groups
from tasks.read.raw_file import open_handle, open_raw
from tasks.read.source import SourceFile
from tasks.rule import Configuration

LAYOUTS: dict[str, Layout] = {"warc": WarcLayout(), "arc": ArcLayout(), "jsonl": LineLayout()}


class RecordRange(Configuration):
    """Records of one file that are read together.

    `start` and `end` are byte offsets of records (in compressed files: of gzip members); row numbers in Parquet.
    `end` None: to the file's end.
    """

    file: SourceFile
    start: int = Field(ge=0)
    end: int | None = Field(ge=0)
    num_records: int = Field(ge=1)


def inventory_file(
    file: SourceFile, *, max_records: int, max_bytes: int, limits: ReadLimits
) -> tuple[RecordRange, ...]:
    """Ranges that together hold every record of the file; none where it holds none.

    A range has at most `max_records` records and, as far as one record allows, `max_bytes` decompressed bytes. Where
    reading cannot begin in the middle (many records in one gzip member, compressed JSONL) a range is as long as that
    takes.
    """
    if max_records < 1 or max_bytes < 1:
        raise ValueError(f"max_records and max_bytes must be at least 1, not {max_records} and {max_bytes}")
    if file.format == "html":
        return (RecordRange(file=file, start=0, end=None, num_records=1),)
    if file.format == "parquet":
        return _parquet_ranges(file, max_records, max_bytes)
    return _framed_ranges(file, max_records, max_bytes, limits)


def group_ranges(ranges: Iterable[RecordRange], max_records: int) -> tuple[tuple[RecordRange, ...], ...]:
    """Ranges put together into shards of at most `max_records`, in the order of path and position.

    A range that alone has more is a shard of its own.
    """
    if max_records < 1:
        raise ValueError(f"max_records must be at least 1, not {max_records}")
    shards: list[tuple[RecordRange, ...]] = []
    shard: list[RecordRange] = []
    num_records = 0
    for part in sorted(ranges, key=lambda part: (part.file.path, part.start)):
        if shard and num_records + part.num_records > max_records:
            shards.append(tuple(shard))
            shard, num_records = [], 0
        shard.append(part)
        num_records += part.num_records
    if shard:
        shards.append(tuple(shard))
    return tuple(shards)


def _framed_ranges(file: SourceFile, max_records: int, max_bytes: int, limits: ReadLimits) -> tuple[RecordRange, ...]:
    cut = _Cutter(file)
    last_offset = 0
    with open_raw(file.path) as raw:
        for frame in frames(raw, file.path, LAYOUTS[file.format], limits):
            is_record = frame.kind != "other"
            is_full = cut.num_records + is_record > max_records or cut.num_bytes + frame.num_bytes > max_bytes
            if is_full and frame.offset != last_offset:  # reading cannot begin between frames of one gzip member
                cut.close(frame.offset)
            cut.num_records += is_record
            cut.num_bytes += frame.num_bytes
            last_offset = frame.offset
    cut.close(None)
    return tuple(cut.ranges)


class _Cutter:
    """Ranges cut so far, and the one that grows."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self.ranges: list[RecordRange] = []
        self._start = self.num_records = self.num_bytes = 0

    def close(self, end: int | None) -> None:
        """End the range here; one without records goes into the next, or nowhere."""
        if self.num_records:
            self.ranges.append(RecordRange(file=self._file, start=self._start, end=end, num_records=self.num_records))
            assert end is None or end > self._start
            self._start = end or 0
        self.num_records = self.num_bytes = 0


def _parquet_ranges(file: SourceFile, max_records: int, max_bytes: int) -> tuple[RecordRange, ...]:
    with open_handle(file.path) as handle:
        parquet = open_parquet(WatchedHandle(handle))
        if parquet is None:
            return (RecordRange(file=file, start=0, end=None, num_records=1),)
        groups = row_groups(parquet)
    num_rows = sum(rows for rows, _ in groups)
    if num_rows == 0:
        return ()
    mean_row_bytes = max(1, sum(num_bytes for _, num_bytes in groups) // num_rows)
    step = min(max_records, max(1, max_bytes // mean_row_bytes))
    ends = [*range(step, num_rows, step), num_rows]
    return tuple(
        RecordRange(file=file, start=start, end=end, num_records=end - start)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    )
