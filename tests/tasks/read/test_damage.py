"""A damaged region costs its own record, and the counting pass and the reader agree whatever the bytes are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.read.limits import ReadLimits
from tasks.read.records import read_range
from tests.tasks.read.warc_bytes import LIMITS, http, members, page, ranges_of, read_all, reasons, warc

INFO = warc(b"software: test", number=900, kind="warcinfo", media_type="application/warc-fields", url=None)
RECORDS = [
    INFO,
    page(1),
    warc(b"GET / HTTP/1.1\r\n\r\n", number=901, kind="request"),
    page(2, words=3),
    warc("Ein Text, größer.".encode(), number=3, kind="conversion"),
    warc(http(b"<p>gone", status="404 Not Found"), number=4),
    page(5, words=200),
    warc(b"<html>resource", number=6, kind="resource", media_type="text/html"),
]
LAYOUTS = {"plain": b"".join(RECORDS), "members": members(RECORDS), "one": gzip.compress(b"".join(RECORDS), mtime=0)}
SMALL = ReadLimits(max_record_bytes=2_000, max_page_bytes=1_000)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def name(layout: str) -> str:
    return "a.warc" if layout == "plain" else "a.warc.gz"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_intact_files_read_the_same_in_every_layout(tmp_path: Path, layout: str) -> None:
    records = read_all(write(tmp_path / name(layout), LAYOUTS[layout]))
    assert [record.url[-2:] for record in records] == ["/1", "/2", "/3", "/4", "/5", "/6"]
    assert reasons(records) == ["", "", "", "http_status", "", ""]
    reference = read_all(write(tmp_path / "reference.warc", LAYOUTS["plain"]))
    assert [(r.base_id, r.payload_digest, r.content) for r in records] == [
        (r.base_id, r.payload_digest, r.content) for r in reference
    ]


mutation = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7)),
    st.tuples(st.just("delete"), st.integers(0, 10**6), st.integers(1, 400)),
    st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("duplicate"), st.integers(0, 10**6), st.integers(1, 900)),
    st.tuples(st.just("truncate"), st.integers(0, 10**6), st.just(0)),
)


def mutate(data: bytes, change: tuple[str, int, int | bytes]) -> bytes:
    kind, at, extent = change
    at %= max(1, len(data))
    if kind == "insert":
        assert isinstance(extent, bytes)
        return data[:at] + extent + data[at:]
    assert isinstance(extent, int)
    if kind == "flip" and data:
        return data[:at] + bytes([data[at] ^ (1 << extent)]) + data[at + 1 :]
    if kind == "delete":
        return data[:at] + data[at + extent :]
    if kind == "duplicate":
        return data[:at] + data[at : at + extent] * 2 + data[at + extent :]
    return data[:at]


@pytest.mark.parametrize("limits", [LIMITS, SMALL], ids=["default", "small"])
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(mutation, min_size=1, max_size=4))
def test_reader_and_counting_pass_agree_on_mutated_files(
    tmp_path: Path, layout: str, limits: ReadLimits, changes: list[tuple[str, int, int | bytes]]
) -> None:
    data = LAYOUTS[layout]
    for change in changes:
        data = mutate(data, change)
    path = write(tmp_path / name(layout), data)
    whole = read_all(path, limits=limits)
    in_parts = read_all(path, max_records=1, max_bytes=1, limits=limits)
    assert [record.base_id for record in in_parts] == [record.base_id for record in whole]
    assert [record.payload_digest for record in in_parts] == [record.payload_digest for record in whole]
    assert all(record.content == b"" for record in whole if record.problem)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, len(RECORDS) - 1), at=st.integers(0, 10**6), bit=st.integers(0, 7), compressed=st.booleans()
)
def test_one_flipped_bit_costs_one_record_at_most(
    tmp_path: Path, which: int, at: int, bit: int, compressed: bool
) -> None:
    parts = [gzip.compress(record, mtime=0) for record in RECORDS] if compressed else list(RECORDS)
    parts[which] = mutate(parts[which], ("flip", at, bit))
    survivors = {r.url for r in read_all(write(tmp_path / f"a.warc{'.gz' * compressed}", b"".join(parts)))}
    intact = {f"http://example.org/{number}" for number in range(1, 7)}
    own = {1: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}.get(which)
    assert survivors >= intact - {f"http://example.org/{own}"}


def test_truncated_last_member_is_one_damaged_record(tmp_path: Path) -> None:
    data = members([page(1), page(2)])
    records = read_all(write(tmp_path / "a.warc.gz", data[:-9]))
    assert reasons(records) == ["", "damaged"]
    assert records[1].url == "" and records[1].source_offset == len(members([page(1)]))
    assert records[1].problem is not None and "cut off" in str(records[1].problem.detail)


def test_wrong_checksum_quarantines_the_member_and_keeps_its_neighbours(tmp_path: Path) -> None:
    first, second, third = (bytearray(gzip.compress(page(n), mtime=0)) for n in (1, 2, 3))
    second[-6] ^= 1  # CRC-32
    records = read_all(write(tmp_path / "a.warc.gz", bytes(first + second + third)))
    assert reasons(records) == ["", "damaged", ""]


def test_damaged_neighbours_are_one_region(tmp_path: Path) -> None:
    parts = [bytearray(gzip.compress(page(n), mtime=0)) for n in range(1, 5)]
    parts[1][0] = parts[2][0] = 0
    assert reasons(read_all(write(tmp_path / "a.warc.gz", b"".join(bytes(p) for p in parts)))) == ["", "damaged", ""]
    parts = [bytearray(page(n)) for n in range(1, 5)]
    parts[1][0] = parts[2][0] = 0
    assert reasons(read_all(write(tmp_path / "a.warc", b"".join(bytes(p) for p in parts)))) == ["", "damaged", ""]


def test_damaged_first_member_does_not_make_the_file_plain(tmp_path: Path) -> None:
    data = bytearray(members([page(1), page(2)]))
    data[0] = 0
    assert reasons(read_all(write(tmp_path / "a.warc.gz", bytes(data)))) == ["damaged", ""]


def test_trailing_garbage_is_one_damaged_record(tmp_path: Path) -> None:
    assert reasons(read_all(write(tmp_path / "a.warc.gz", members([page(1)]) + b"garbage" * 9))) == ["", "damaged"]
    assert reasons(read_all(write(tmp_path / "b.warc", page(1) + b"garbage" * 9))) == ["", "damaged"]


@pytest.mark.parametrize("declared", [b"1", b"99999", b"99999999999"], ids=["short", "long", "past the limit"])
@pytest.mark.parametrize("layout", ["plain", "one", "members"])
def test_wrong_length_costs_its_own_record(tmp_path: Path, declared: bytes, layout: str) -> None:
    second = page(2)
    length = second.split(b"Content-Length: ")[1].split(b"\r\n")[0]
    parts = [page(1), second.replace(b"Length: " + length, b"Length: " + declared), page(3)]
    joined = b"".join(parts)
    data = {"plain": joined, "one": gzip.compress(joined), "members": members(parts)}[layout]
    records = read_all(write(tmp_path / name(layout), data))
    assert reasons(records) == ["", "damaged", ""]
    assert records[2].url == "http://example.org/3"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"WARC/1.0", b"WORC/1.0"),
        (b"WARC-Type: response", b"WARC-Type: rezponse"),
        (b"WARC-Type", b"WARC-Tipe"),
        (b"Content-Length: ", b"Content-Length: -"),
        (b"Content-Length: ", b"Content-Length: 7\r\nContent-Length: "),
    ],
)
def test_malformed_head_costs_its_own_record(tmp_path: Path, old: bytes, new: bytes) -> None:
    records = read_all(write(tmp_path / "a.warc", page(1) + page(2).replace(old, new, 1) + page(3)))
    assert reasons(records) == ["", "damaged", ""]


def test_a_version_that_fastwarc_does_not_read_is_damaged(tmp_path: Path) -> None:
    records = read_all(write(tmp_path / "a.warc", page(1).replace(b"WARC/1.0", b"WARC/1.9") + page(2)))
    assert reasons(records) == ["damaged", ""]


def test_damage_is_identified_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    broken = page(2).replace(b"WARC/1.0", b"WORC/1.0")
    here = read_all(write(tmp_path / "a.warc", page(1) + broken + page(3)))[1]
    there = read_all(write(tmp_path / "b.warc", page(1) + page(5) + broken + page(4)))[2]
    other = read_all(write(tmp_path / "c.warc", page(1) + broken.replace(b"word", b"ward") + page(4)))[1]
    assert here.problem and there.problem and here.base_id == there.base_id != other.base_id


def test_bare_line_feeds_are_no_damage(tmp_path: Path) -> None:
    data = b"".join(warc(http(b"<p>%d" % n), number=n, newline=b"\n") for n in (1, 2))
    assert reasons(read_all(write(tmp_path / "a.warc", data))) == ["", ""]


def test_many_false_lengths_do_not_make_reading_quadratic(tmp_path: Path) -> None:
    hostile = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 5000\r\n\r\n"
    path = write(tmp_path / "a.warc.gz", gzip.compress(hostile * 20_000))
    small = ReadLimits(max_record_bytes=1_000)
    records = read_all(path, limits=small)
    assert reasons(records) == ["decompression_bomb"]
    assert records[0].problem is not None and records[0].problem.value == len(hostile) * 20_000


def test_ranges_hold_at_most_what_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc.gz", members([INFO, *(page(n) for n in range(1, 8))]))
    parts = ranges_of(path, max_records=3)
    assert [part.num_records for part in parts] == [3, 3, 1]
    assert [r.url for r in read_range(parts[1], source="s", limits=LIMITS)] == [
        f"http://example.org/{n}" for n in (4, 5, 6)
    ]
    assert len(ranges_of(path, max_bytes=1)) == 7
    one_member = write(tmp_path / "b.warc.gz", gzip.compress(b"".join(page(n) for n in range(1, 8))))
    assert [part.num_records for part in ranges_of(one_member, max_records=3)] == [7]
