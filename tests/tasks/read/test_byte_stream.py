"""Gzip members, the search for the next one, and the window on a stream."""

from __future__ import annotations

import gzip
import io
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.read.byte_stream import BrokenStream, GzipStream, PlainStream, Window
from tasks.read.compression import Gzip, find_member
from tasks.read.raw_file import BLOCK_BYTES, RawFile


def raw(data: bytes) -> RawFile:
    return RawFile(io.BytesIO(data))


def drained(stream: GzipStream | PlainStream) -> bytes:
    return b"".join(iter(stream.pull, b""))


FOUR_BLOCKS = os.urandom(4 * BLOCK_BYTES + 17)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, len(FOUR_BLOCKS) + 9), st.integers(0, 2 * BLOCK_BYTES)), max_size=6))
def test_raw_file_reads_like_a_slice(reads: list[tuple[int, int]]) -> None:
    file = raw(FOUR_BLOCKS)
    for start, num_bytes in reads:
        assert file.read_at(start, num_bytes) == FOUR_BLOCKS[start : start + num_bytes]


def test_members_one_by_one_and_chained() -> None:
    parts = [os.urandom(50_000), b"", b"a" * 3_000_000]
    packed = [gzip.compress(part, mtime=0) for part in parts]
    offset = 0
    for part, member in zip(parts, packed, strict=True):
        stream = GzipStream(raw(b"".join(packed)), offset)
        assert drained(stream) == part
        offset += len(member)
        assert stream.end == offset
    assert drained(GzipStream(raw(b"".join(packed)), 0, chained=True)) == b"".join(parts)


@pytest.mark.parametrize("damage", ["cut", "checksum", "trailing"])
def test_breaks_are_told_from_ends(damage: str) -> None:
    data = bytearray(gzip.compress(os.urandom(40_000)))
    if damage == "cut":
        del data[-1]
    elif damage == "checksum":
        data[-8] ^= 1
    else:
        data += b"xyz"
    with pytest.raises(BrokenStream):
        drained(GzipStream(raw(bytes(data)), 0, chained=True))


def test_what_a_broken_member_gives_does_not_depend_on_where_it_stands() -> None:
    member = bytearray(gzip.compress(os.urandom(100_000)))
    member[60_000] ^= 0xFF
    given_up = set()
    for before in (0, 1, 777, BLOCK_BYTES - 5):
        stream = GzipStream(raw(bytes(before) + bytes(member)), before)
        pieces = []
        with pytest.raises(BrokenStream):
            while True:
                pieces.append(stream.pull())
                assert pieces[-1]
        given_up.add(b"".join(pieces))
    assert len(given_up) == 1


def test_find_member_wants_the_content_and_looks_across_blocks() -> None:
    right, wrong = gzip.compress(b"WARC/1.0"), gzip.compress(b"other")
    for distance in (0, 100, BLOCK_BYTES - len(wrong) - 2, BLOCK_BYTES - len(wrong) - 1):
        data = wrong + bytes(distance) + right
        file = raw(data)
        assert find_member(file, Gzip(file), 0, lambda prefix: prefix.startswith(b"WARC/")) == len(wrong) + distance
    file = raw(wrong)
    assert find_member(file, Gzip(file), 0, lambda prefix: prefix.startswith(b"WARC/")) is None


@pytest.mark.parametrize("compressed", [True, False])
def test_window_moves_forwards_and_back(compressed: bool) -> None:
    data = bytes(range(256)) * 4096
    source = raw(b"12345" + (gzip.compress(data) if compressed else data))
    window = Window(GzipStream(source, 5) if compressed else PlainStream(source, 5))
    assert window.fill(10) >= 10
    assert window.peek(3, 6) == data[3:6]
    while window.position < 600_000:
        window.drop(min(70_000, window.fill(70_000)))
    position = window.position
    assert window.fill(5) >= 5 and window.peek(0, 5) == data[position : position + 5]
    window.rewind(1000)
    assert window.fill(5) >= 5 and window.drop(5) == data[1000:1005]
    assert window.search_end(re.compile(b"\x00")) == 256 * 4 + 1 - 1005
    assert window.fill(1 << 30) == len(data) - 1005
    assert window.rest() == data[1005:] and window.fill(1) == 0
