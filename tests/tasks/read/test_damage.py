"""A damaged region costs its own record, and the counting pass and the reader agree whatever the bytes are."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.document import QUARANTINE_REASONS
from tasks.read.limits import ReadLimits
from tasks.read.records import read_range
from tests.tasks.read.warc_bytes import (
    LIMITS,
    frames,
    http,
    members,
    page,
    ranges_of,
    read_all,
    reasons,
    skippable,
    trained_dictionary,
    warc,
)

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
DICTIONARY = trained_dictionary()
LAYOUTS = {
    "plain": b"".join(RECORDS),
    "members": members(RECORDS),
    "one": gzip.compress(b"".join(RECORDS), mtime=0),
    "frames": frames(RECORDS),
    "one frame": frames([b"".join(RECORDS)]),
    "dictionary": skippable(DICTIONARY.as_bytes(), 0xD) + frames(RECORDS, DICTIONARY),
}
SMALL = ReadLimits(max_record_bytes=2_000, max_page_bytes=1_000)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def name(layout: str) -> str:
    return {"plain": "a.warc", "members": "a.warc.gz", "one": "a.warc.gz"}.get(layout, "a.warc.zst")


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
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    assert [record.quarantine for record in in_parts] == [record.quarantine for record in whole]
    assert all(record.content == b"" for record in whole if record.problem)
    unread = {record.problem is not None and record.problem.reason in QUARANTINE_REASONS for record in whole}
    assert unread == {bool(record.quarantine) for record in whole}


PIECES = {
    "plain": RECORDS,
    "members": [members([record]) for record in RECORDS],
    "frames": [frames([record]) for record in RECORDS],
}
"""Of a layout that has a piece for each record."""
URLS = {1: "http://example.org/1", 3: "http://example.org/2", 4: "http://example.org/3"}
URLS |= {5: "http://example.org/4", 6: "http://example.org/5", 7: "http://example.org/6"}
"""By index in `RECORDS`, of those that are records."""


@pytest.mark.parametrize("layout", PIECES)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(RECORDS) - 1), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_flipped_bit_costs_one_record_at_most_and_its_bytes_are_kept(
    tmp_path: Path, layout: str, which: int, at: int, bit: int
) -> None:
    parts = list(PIECES[layout])
    parts[which] = part = mutate(parts[which], ("flip", at, bit))
    records = read_all(write(tmp_path / name(layout), b"".join(parts)))
    survivors = {record.url for record in records if record.problem is None or record.problem.reason == "http_status"}
    assert survivors >= set(URLS.values()) - {URLS.get(which)}
    unread = [record for record in records if record.quarantine]
    assert len(unread) <= 1
    for record in unread:
        assert record.quarantine in part and record.quarantine_of_bytes == len(record.quarantine)
        if layout != "plain" and which in URLS and URLS[which] not in {record.url for record in records}:
            assert record.quarantine == part


@pytest.mark.parametrize("layout", PIECES)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6))
def test_a_file_that_is_cut_off_keeps_every_record_before_the_cut(tmp_path: Path, layout: str, at: int) -> None:
    data = b"".join(PIECES[layout])
    at %= len(data)
    line_ends = b"\r\n\r\n" if layout == "plain" else b""  # without which a record is whole, too
    ends = [end - len(line_ends) for end in itertools.accumulate(len(piece) for piece in PIECES[layout])]
    whole = [URLS[index] for index, end in enumerate(ends) if end <= at and index in URLS]
    behind = data[max(end for end in [0, *ends] if end <= at) : at].lstrip(line_ends)
    records = read_all(write(tmp_path / name(layout), data[:at]))
    assert [record.url for record in records if record.url] == whole
    assert b"".join(record.quarantine for record in records) == behind


@pytest.mark.parametrize("layout", PIECES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged=st.sets(st.sampled_from(sorted(URLS)), min_size=1), filler=st.binary(min_size=1, max_size=50))
def test_overwritten_pieces_are_kept_as_they_are_and_all_others_are_read(
    tmp_path: Path, layout: str, damaged: set[int], filler: bytes
) -> None:
    parts = list(PIECES[layout])
    for index in damaged:  # the head and all but the line ends, so that every piece is damaged for certain
        num_bytes = len(parts[index]) - 4
        parts[index] = b"!" + (filler * num_bytes)[: num_bytes - 1] + parts[index][-4:]
    records = read_all(write(tmp_path / name(layout), b"".join(parts)))
    assert {record.url for record in records if record.url} == {URLS[index] for index in URLS if index not in damaged}
    kept = b"".join(record.quarantine for record in records)
    assert kept.replace(b"\r\n", b"") == b"".join(parts[index] for index in sorted(damaged)).replace(b"\r\n", b"")


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


def test_each_damaged_member_whose_beginning_can_be_read_is_one_record(tmp_path: Path) -> None:
    flipped = [bytearray(gzip.compress(page(number, words=400), mtime=0)) for number in range(20)]
    for member in flipped:
        member[-20] ^= 8  # in the last compressed bytes, which the CRC and the length follow
    records = read_all(write(tmp_path / "a.warc.gz", b"".join(flipped)))
    starts = list(itertools.accumulate(map(len, flipped), initial=0))[:-1]
    assert [record.source_offset for record in records] == starts
    assert reasons(records) == ["damaged"] * 20


@pytest.mark.parametrize("pack", [members, frames])
def test_damage_on_both_sides_of_a_members_beginning_is_two_regions_wherever_reading_begins(
    tmp_path: Path, pack: Callable[[Sequence[bytes]], bytes]
) -> None:
    bad = page(1).replace(b"WARC-Type: response", b"WARC-Type: rezponse")
    data = pack([bad + page(2) + b"garbage", bad + page(3)])
    path = write(tmp_path / name("members" if pack is members else "frames"), data)
    expected = ["damaged", "", "damaged", "damaged", ""]
    assert reasons(read_all(path)) == reasons(read_all(path, max_records=2, max_bytes=1)) == expected


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
