"""What a record looks like in a WARC and in an ARC file, as far as finding its end takes.

WARC: ISO 28500:2017. ARC: the Internet Archive's "ARC File Format" (1996), versions 1 and 2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from tasks.read.byte_stream import PULL_BYTES, Window
from tasks.read.framing import Damage, Frame
from tasks.read.limits import MAX_HEAD_BYTES, ReadLimits

LOOKAHEAD_BYTES = 64
MAX_REWINDS = 8
"""How often one stream is read again to look for records inside a falsely declared length that is too long to be held;
bounds the work that a hostile file can cause. After that such a region ends where its length said."""

RECORD_TYPES = frozenset({b"response", b"resource", b"conversion"})
OTHER_TYPES = frozenset({b"warcinfo", b"request", b"metadata", b"revisit", b"continuation"})


class MalformedHead(Exception):
    """What stands here is not the head of a record; the text says why."""


class Head(NamedTuple):
    """The part of a record before its block."""

    num_bytes: int
    block_bytes: int
    is_record: bool  # False for what accompanies records: warcinfo, request, metadata, revisit, filedesc


class ArchiveLayout:
    """Records with a head that declares the length of the block behind it."""

    crosses_members = False
    next_start: re.Pattern[bytes]  # matches a line end that a record's head follows
    min_newlines: int  # how many line ends behind a block confirm its length, where no record follows
    _newlines = re.compile(rb"[\r\n]*")

    def begins(self, prefix: bytes) -> bool:
        """Whether a record begins with these bytes."""
        raise TypeError(f"{type(self).__name__} does not implement begins()")

    def head(self, window: Window) -> Head:
        """The head that begins at the window's position. Raises `MalformedHead`."""
        raise TypeError(f"{type(self).__name__} does not implement head()")

    def pieces(self, window: Window, limits: ReadLimits) -> Iterator[Frame | Damage]:
        """Records, what accompanies them, and damage (see `Layout`)."""
        rewinds_left = MAX_REWINDS
        while self._skip_newlines(window):
            start = window.position
            try:
                head = self.head(window)
            except MalformedHead as malformed:
                yield from self._skip_to_start(window, str(malformed))
                continue
            num_bytes = head.num_bytes + head.block_bytes
            if num_bytes <= limits.max_record_bytes:
                window.fill(num_bytes + LOOKAHEAD_BYTES)
                if self._ends_well(window, num_bytes):
                    text = window.drop(head.num_bytes)
                    block = window.drop(head.block_bytes)
                    if head.is_record:
                        yield Frame("record", start, num_bytes, text, block)
                    else:
                        yield Frame("other", start, num_bytes)
                    continue
            else:
                text = window.peek(0, head.num_bytes)
                digest = _skip(window, num_bytes)
                window.fill(LOOKAHEAD_BYTES)
                if window.position == start + num_bytes and self._ends_well(window, 0):
                    kind = "record" if head.is_record else "other"
                    yield Frame(kind, start, num_bytes, text, digest=digest, is_overlong=True)
                    continue
                if rewinds_left == 0:
                    yield Damage(start, digest.encode(), window.position - start, "the declared length is wrong")
                    continue
                rewinds_left -= 1
                window.rewind(start)
            yield from self._skip_to_start(window, "the declared length is wrong")

    def _skip_newlines(self, window: Window) -> bool:
        """Drop line ends; False where nothing follows them."""
        while held := window.fill(1):
            newlines = window.match(self._newlines)
            window.drop(newlines)
            if newlines < held:
                return True
        return False

    def _ends_well(self, window: Window, block_end: int) -> bool:
        behind = window.peek(block_end, block_end + LOOKAHEAD_BYTES)
        following = behind.lstrip(b"\r\n")
        if not following and len(behind) < LOOKAHEAD_BYTES:
            return window.fill(block_end) >= block_end
        num_newlines = behind[: len(behind) - len(following)].count(b"\n")
        return num_newlines >= self.min_newlines or self.begins(following)

    def _skip_to_start(self, window: Window, detail: str) -> Iterator[Damage]:
        """Damage from here, where no good record begins, to the next beginning or the end."""
        while held := window.fill(PULL_BYTES):
            offset = window.position
            found = window.search(self.next_start)
            if found is not None:
                yield Damage(offset, window.drop(found[1]), found[1], detail)
                return
            # an incomplete head may stand at the end of what is in view
            keep = 0 if held < PULL_BYTES else min(MAX_HEAD_BYTES, PULL_BYTES) // 2
            yield Damage(offset, window.drop(held - keep), held - keep, detail)
