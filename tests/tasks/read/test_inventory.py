"""Ranges and shards."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.read.inventory import RecordRange, group_ranges, inventory_file
from tasks.read.source import SourceFile
from tests.tasks.read.warc_bytes import LIMITS, page, ranges_of, warc


def part(path: str, start: int, num_records: int) -> RecordRange:
    file = SourceFile(path=path, format="warc", size_bytes=9, version="")
    return RecordRange(file=file, start=start, end=None, num_records=num_records)


def test_small_ranges_go_together_in_the_order_of_path_and_position() -> None:
    a, b, c, d = part("/a", 0, 2), part("/a", 90, 2), part("/b", 0, 1), part("/c", 0, 9)
    assert group_ranges([d, c, b, a], max_records=4) == ((a, b), (c,), (d,))
    assert group_ranges([], max_records=4) == ()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99), st.integers(1, 9)), unique_by=lambda x: x[:2]),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_shards_hold_every_range_once_whatever_the_order(
    drawn: list[tuple[str, int, int]], max_records: int, random: Random
) -> None:
    ranges = [part(f"/{path}", start, count) for path, start, count in drawn]
    shards = group_ranges(ranges, max_records)
    random.shuffle(ranges)
    assert group_ranges(ranges, max_records) == shards
    flat = [piece for shard in shards for piece in shard]
    assert flat == sorted(ranges, key=lambda piece: (piece.file.path, piece.start))
    assert all(sum(piece.num_records for piece in shard) <= max_records or len(shard) == 1 for shard in shards)


def test_bytes_cut_ranges_as_records_do(tmp_path: Path) -> None:
    records = [page(1), page(2), page(3)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    size = len(records[0]) - 4
    assert [r.num_records for r in ranges_of(tmp_path / "a.warc", max_bytes=2 * size)] == [2, 1]
    assert [r.num_records for r in ranges_of(tmp_path / "a.warc", max_bytes=2 * size - 1)] == [1, 1, 1]
    starts = [r.start for r in ranges_of(tmp_path / "a.warc", max_records=1)]
    assert starts == [0, len(records[0]), len(records[0]) * 2]


def test_files_without_records_have_no_ranges(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"")
    assert ranges_of(tmp_path / "a.warc") == ()
    (tmp_path / "b.warc").write_bytes(warc(b"x", kind="warcinfo"))
    assert ranges_of(tmp_path / "b.warc") == ()


def test_bad_bounds_are_refused() -> None:
    file = SourceFile(path="/a.warc", format="warc", size_bytes=0, version="")
    with pytest.raises(ValueError, match="at least 1"):
        inventory_file(file, max_records=0, max_bytes=1, limits=LIMITS)
    with pytest.raises(ValueError, match="at least 1"):
        group_ranges([], 0)
