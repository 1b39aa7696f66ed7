"""Zstd frames: content and ends, dictionaries, bounds."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.read.byte_stream import BrokenStream
from tasks.read.compression import Zstd, compression_of, content_prefix
from tasks.read.limits import ReadLimits
from tasks.read.raw_file import RawFile
from tasks.read.source import resolve_source
from tasks.read.zstd_stream import MAX_WINDOW_BYTES, ZstdStream, alone, new_decompressor, read_dictionary, unbroken
from tests.tasks.read.warc_bytes import (
    frames,
    members,
    page,
    ranges_of,
    read_all,
    reasons,
    skippable,
    trained_dictionary,
    warc,
)

ROWS = [b'{"text": "Row %d."}\n' % number for number in range(10)]


def raw(data: bytes) -> RawFile:
    return RawFile(io.BytesIO(data))


def drained(stream: ZstdStream) -> bytes:
    return b"".join(iter(stream.pull, b""))


def stream_of(data: bytes, offset: int = 0, *, chained: bool = False) -> ZstdStream:
    return ZstdStream(raw(data), offset, new_decompressor(None), unbroken if chained else alone)


@settings(max_examples=60)
@given(
    data=st.binary(max_size=3000) | st.integers(0, 400_000).map(lambda n: b"ab" * n) | st.just(os.urandom(300_000)),
    level=st.sampled_from([1, 3, 19]),
    has_checksum=st.booleans(),
    states_size=st.booleans(),
)
def test_a_frame_gives_its_content_and_ends_where_it_ends(
    data: bytes, level: int, has_checksum: bool, states_size: bool
) -> None:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=has_checksum, write_content_size=states_size)
    frame = compressor.compress(data)
    stream = stream_of(b"before" + frame + b"behind", 6)
    assert drained(stream) == data
    assert stream.end == 6 + len(frame)


def test_chained_frames_are_one_stream_and_skippable_ones_have_no_content() -> None:
    data = skippable(b"index") + zstandard.compress(b"one") + skippable(b"") + zstandard.compress(b" two")
    assert drained(stream_of(data, chained=True)) == b"one two"
    alone = stream_of(data)
    assert drained(alone) == b"" and alone.end == len(skippable(b"index"))
    assert content_prefix(Zstd(raw(data))) == b"one"


@pytest.mark.parametrize("num_bytes", [1, 5, 12, 13, 100])
def test_a_cut_frame_is_told_from_an_ended_one(num_bytes: int) -> None:
    frame = frames([os.urandom(200)])
    with pytest.raises(BrokenStream):
        drained(stream_of(frame[:num_bytes]))
    with pytest.raises(BrokenStream, match="cut off"):
        drained(stream_of(frame[:-1]))
    with pytest.raises(BrokenStream, match="cut off"):
        drained(stream_of(skippable(b"12345")[:-1]))
    with pytest.raises(BrokenStream, match="no zstd frame"):
        drained(stream_of(frame + b"tail", chained=True))


def wide_frame(window_log: int) -> bytes:
    """A frame that asks for a window of `1 << window_log` bytes."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(b"WARC/1.0") + compressor.flush()


def test_windows_are_bounded() -> None:
    bound = MAX_WINDOW_BYTES.bit_length() - 1
    assert drained(stream_of(wide_frame(bound))) == b"WARC/1.0"
    with pytest.raises(BrokenStream, match=f"window of {2 << bound} bytes"):
        drained(stream_of(wide_frame(bound + 1)))
    # a head may ask for 3.75 TiB: exponent 31, mantissa 7
    hostile = bytearray(wide_frame(bound))
    hostile[5] = 0xFF
    with pytest.raises(BrokenStream, match="too much memory"):
        drained(stream_of(bytes(hostile)))


@pytest.mark.parametrize("is_compressed", [True, False])
def test_a_dictionary_in_the_first_frame_decodes_all_others(tmp_path: Path, is_compressed: bool) -> None:
    dictionary = trained_dictionary()
    data = zstandard.compress(dictionary.as_bytes()) if is_compressed else dictionary.as_bytes()
    pages = [page(number) for number in range(1, 6)]
    whole = skippable(data, 0xD) + frames(pages, dictionary)
    (tmp_path / "a.warc.zst").write_bytes(whole)
    records = read_all(tmp_path / "a.warc.zst", max_records=1)
    assert len(ranges_of(tmp_path / "a.warc.zst", max_records=1)) == 5
    (tmp_path / "b.warc").write_bytes(b"".join(pages))
    assert [record.base_id for record in records] == [record.base_id for record in read_all(tmp_path / "b.warc")]
    assert [record.content for record in records] == [record.content for record in read_all(tmp_path / "b.warc")]


@pytest.mark.parametrize("damage", ["missing", "wrong", "cut", "no dictionary", "bomb"])
def test_frames_whose_dictionary_is_lost_are_damaged(tmp_path: Path, damage: str) -> None:
    dictionary = trained_dictionary().as_bytes()
    other = zstandard.train_dictionary(1_000, [b"%d others" % number * 9 for number in range(999)]).as_bytes()
    first = {
        "missing": b"",
        "wrong": skippable(other, 0xD),
        "cut": skippable(dictionary[:-900], 0xD),
        "no dictionary": skippable(b"x" * 40, 0xD),
        "bomb": skippable(zstandard.compress(bytes(100_000_000)), 0xD),
    }[damage]
    data = frames([page(1), page(2)], trained_dictionary())
    (tmp_path / "a.warc.zst").write_bytes(first + data)
    assert read_dictionary(raw(first)) is None or damage in ("wrong", "cut")
    (record,) = read_all(tmp_path / "a.warc.zst")
    assert reasons([record]) == ["damaged"] and record.quarantine == data


def test_frames_are_ranges_and_other_formats_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.warc.zst").write_bytes(frames([page(number) for number in range(1, 8)]) + skippable(b"seek table"))
    assert [part.num_records for part in ranges_of(tmp_path / "a.warc.zst", max_records=3)] == [3, 3, 1]
    (tmp_path / "b.wet.zst").write_bytes(frames([warc(b"Text.", kind="conversion")]))
    arc = b"ftp://example.org/ 127.0.0.1 20140216050221 text/plain 5\nText.\n"
    (tmp_path / "c.arc.zst").write_bytes(frames([arc]))
    crossing = zstandard.compress(b"".join(ROWS)[:33]) + skippable(b"") + zstandard.compress(b"".join(ROWS)[33:])
    (tmp_path / "d.jsonl.zst").write_bytes(crossing)
    (tmp_path / "e.json.zst").write_bytes(crossing)
    for name in ("b.wet.zst", "c.arc.zst"):
        (record,) = read_all(tmp_path / name)
        assert (record.kind, record.content, record.problem) == ("text", b"Text.", None)
    for name in ("d.jsonl.zst", "e.json.zst"):
        assert [record.content for record in read_all(tmp_path / name)] == [b"Row %d." % n for n in range(10)]


@pytest.mark.parametrize(
    ("content", "expected"), [(page(1), "warc"), (ROWS[0], "jsonl"), (b"filedesc://a.arc 0.0.0.0 1 x 5\n", "arc")]
)
def test_a_file_of_another_name_is_known_by_its_content(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "dump").write_bytes(skippable(b"first") + frames([content]))
    assert [file.format for file in resolve_source(str(tmp_path / "dump"))] == [expected]


def test_a_damaged_first_frame_does_not_make_the_file_plain() -> None:
    data = bytearray(frames([page(1), page(2)]))
    data[0] = 0
    assert isinstance(compression_of(raw(bytes(data)), "a.warc.zst", lambda prefix: False), Zstd)
    assert compression_of(raw(page(1)), "a.warc.zst", lambda prefix: True) is None


def test_a_record_may_be_in_several_frames(tmp_path: Path) -> None:
    second, data = page(2), tmp_path / "a.warc.zst"
    pieces = [page(1), second[:300], second[300:320], second[320:], page(3)]
    data.write_bytes(skippable(b"").join(frames([piece]) for piece in pieces))
    assert [record.url[-1] for record in read_all(data, max_records=1)] == ["1", "2", "3"]
    assert [part.num_records for part in ranges_of(data, max_records=1)] == [1, 1, 1]
    packed = [frames([piece]) for piece in pieces]
    packed[2] = packed[2][:-1] + b"?"  # the checksum
    data.write_bytes(b"".join(packed))
    records = read_all(data, max_records=1)
    assert [record.url[-1:] for record in records if record.problem is None] == ["1", "3"]
    assert b"".join(record.quarantine for record in records) == second[:300] + packed[2] + packed[3]


def test_a_bomb_is_one_quarantined_record_in_bounded_memory(tmp_path: Path) -> None:
    bomb = frames([page(7)[:150] + bytes(300 << 20)])
    assert len(bomb) < 100_000
    (tmp_path / "a.warc.zst").write_bytes(frames([page(1)]) + bomb + frames([page(2)]) + members([page(3)]))
    tracemalloc.start()
    records = read_all(tmp_path / "a.warc.zst", limits=ReadLimits(max_quarantine_bytes=1 << 20))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(records) == ["", "decompression_bomb", "", "damaged"]
    assert (records[1].quarantine_of_bytes, len(records[1].quarantine)) == (150 + (300 << 20), 1 << 20)
    assert peak_bytes < 24 << 20
