"""Where records and damaged regions begin and end in WARC, ARC and JSONL files, plain or gzip.

The counting pass and the reader share this and nothing else: both see the same frames however damaged the file is, and
everything that is decided about a record is decided above it.

A **frame** is one record, one thing that is not a record (a request, a warcinfo), or one damaged region. What makes a
record good is the layout's to say; that it ends at a clean end, this module's: in a gzip member the end is clean only
when the member's checksum holds, and the last record before a break is part of the damage. A damaged region runs to
the next line that begins a record, or, where decompression failed, to the next gzip member whose content begins like a
record. It is one region however many records it held, because that cannot be known; damaged bytes that follow each
other are one region.

A gzip member is a hard border for WARC and ARC records (the record-at-a-time compression of ISO 28500, annex D);
JSONL lines may cross members, as `bgzip` writes them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tasks.read.byte_stream import (
    GZIP_MAGIC,
    PREFIX_BYTES,
    BrokenStream,
    GzipStream,
    PlainStream,
    Window,
    find_member,
)
from tasks.read.limits import ReadLimits
from tasks.read.raw_file import BLOCK_BYTES, RawFile


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. Damaged and over-long ones have no `block`; for them `digest` is the SHA-256 of their bytes."""

    kind: Literal["record", "other", "damaged"]
    offset: int  # of the record; in a compressed file of its gzip member, or of the first of those it may cross
    num_bytes: int  # decompressed
    head: bytes = b""
    block: bytes = b""
    digest: str = ""
    is_overlong: bool = False  # longer than ReadLimits.max_record_bytes
    detail: str = ""  # what is wrong with it


@dataclass(frozen=True, slots=True)
class Damage:
    """A piece of a damaged region, as a layout finds it."""

    offset: int
    data: bytes
    num_decoded_bytes: int  # 0 for compressed bytes that nothing was decoded from
    detail: str


class Layout(Protocol):
    """How the records of one format follow each other."""

    crosses_members: bool  # whether a record may continue in the next gzip member

    def begins(self, prefix: bytes) -> bool:
        """Whether a record begins with these bytes."""
        ...

    def pieces(self, window: Window, limits: ReadLimits) -> Iterator[Frame | Damage]:
        """All there is in the window, with offsets in the decoded stream. Passes `BrokenStream` on, and then leaves
        whatever it has not yielded in the window."""
        ...


def is_compressed(raw: RawFile, path: str, layout: Layout) -> bool:
    """By the first bytes; where these are neither gzip nor a record, by the name, because they may be damaged."""
    prefix = raw.read_at(0, PREFIX_BYTES)
    return prefix.startswith(GZIP_MAGIC) or (path.lower().endswith(".gz") and not layout.begins(prefix))


def frames(
    raw: RawFile, path: str, layout: Layout, limits: ReadLimits, start: int = 0, end: int | None = None
) -> Iterator[Frame]:
    """The frames with offsets in `[start, end)`; both are offsets of frames that are the first with theirs.

    `start` 0 is the file's beginning, `end` None its end.
    """
    if is_compressed(raw, path, layout):
        pieces = _gzip_pieces(raw, layout, limits, start)
        bomb_bytes: int | None = limits.max_record_bytes
    else:
        pieces, bomb_bytes = _plain_pieces(raw, layout, limits, start), None  # nothing expands
    yield from _merged(itertools.takewhile(lambda piece: end is None or piece.offset < end, pieces), bomb_bytes)


def _plain_pieces(raw: RawFile, layout: Layout, limits: ReadLimits, start: int) -> Iterator[Frame | Damage]:
    for piece in layout.pieces(Window(PlainStream(raw, start)), limits):
        yield replace(piece, offset=start + piece.offset)


def _gzip_pieces(raw: RawFile, layout: Layout, limits: ReadLimits, start: int) -> Iterator[Frame | Damage]:
    member = start
    while magic := raw.read_at(member, len(GZIP_MAGIC)):
        damaged_from = member  # where the compressed bytes begin that no yielded frame came from
        detail = "no gzip member begins here"
        if magic == GZIP_MAGIC:
            stream = GzipStream(raw, member, chained=layout.crosses_members)
            window = Window(stream)
            try:
                for piece in layout.pieces(window, limits):
                    yield replace(piece, offset=member)
                    if isinstance(piece, Frame):
                        damaged_from = stream.feed_offset
            except BrokenStream as broken:
                detail = str(broken)
                rest = window.rest()
                yield Damage(member, rest, len(rest), detail)
            else:
                member = stream.end
                continue
        found = find_member(raw, max(damaged_from, member + 1), layout.begins)
        while (found is None or damaged_from < found) and (
            skipped := raw.read_at(
                damaged_from, BLOCK_BYTES if found is None else min(BLOCK_BYTES, found - damaged_from)
            )
        ):
            yield Damage(member, skipped, 0, detail)
            damaged_from += len(skipped)
        member = damaged_from


def _merged(pieces: Iterator[Frame | Damage], limit_bytes: int | None) -> Iterator[Frame]:
    """Damage that follows damage becomes one frame; past `limit_bytes` of decoded bytes an over-long one."""
    region: _Region | None = None
    for piece in pieces:
        if isinstance(piece, Damage):
            region = region or _Region(piece)
            region.add(piece)
            continue
        if region is not None:
            yield region.frame(limit_bytes)
            region = None
        yield piece
    if region is not None:
        yield region.frame(limit_bytes)


class _Region:
    """A damaged region while it grows."""

    def __init__(self, first: Damage) -> None:
        self._first = first
        self._num_bytes = 0
        self._hasher = hashlib.sha256()

    def add(self, damage: Damage) -> None:
        self._hasher.update(damage.data)
        self._num_bytes += damage.num_decoded_bytes

    def frame(self, limit_bytes: int | None) -> Frame:
        return Frame(
            kind="damaged",
            offset=self._first.offset,
            num_bytes=self._num_bytes,
            digest=self._hasher.hexdigest(),
            is_overlong=limit_bytes is not None and self._num_bytes > limit_bytes,
            detail=self._first.detail,
        )
