"""What a record looks like in a WARC and in an ARC file, as far as finding its end takes.

WARC: ISO 28500:2017. ARC: the Internet Archive's "ARC File Format" (1996), versions 1 and 2.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from tasks.read.byte_stream import Window
from tasks.read.limits import MAX_HEAD_BYTES


class MalformedHead(Exception):
    """What stands here is not the head of a record; the text says why."""


class Head(NamedTuple):
    """The part of a record before its block."""

    num_bytes: int
    block_bytes: int
    is_record: bool  # False for what accompanies records: warcinfo, request, metadata, revisit, filedesc


class Grammar(Protocol):
    """How records of one format are told from anything else."""

    next_start: re.Pattern[bytes]
    """Matches the end of a line and looks ahead at the beginning of a record."""
    min_newlines: int
    """How many line ends confirm, after a block, that its length was right."""

    def begins(self, prefix: bytes) -> bool:
        """Whether a record of this format begins with these bytes."""
        ...

    def head(self, window: Window) -> Head:
        """The head that begins at the window's position. Raises `MalformedHead`."""
        ...


RECORD_TYPES = frozenset({b"response", b"resource", b"conversion"})
OTHER_TYPES = frozenset({b"warcinfo", b"request", b"metadata", b"revisit", b"continuation"})


class WarcGrammar:
    """`WARC/1.x`, named fields, an empty line, Content-Length bytes, two line ends."""

    next_start = re.compile(rb"\n(?=WARC/1\.)")
    min_newlines = 2

    _version = re.compile(rb"WARC/\d\.\d+[ \t]*\r?\n")
    _head_end = re.compile(rb"\r?\n\r?\n")
    _length = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,18})[ \t\r]*$")
    _type = re.compile(rb"(?im)^warc-type[ \t]*:[ \t]*([a-z]+)[ \t\r]*$")

    def begins(self, prefix: bytes) -> bool:
        return prefix.startswith(b"WARC/")

    def head(self, window: Window) -> Head:
        text = _until(window, self._head_end)
        if not self._version.match(text):
            raise MalformedHead("no WARC version line")
        lengths = set(self._length.findall(text))
        if len(lengths) != 1:
            raise MalformedHead(f"{len(lengths)} values of Content-Length instead of one")
        types = {name.lower() for name in self._type.findall(text)}
        if len(types) != 1 or not types <= RECORD_TYPES | OTHER_TYPES:
            raise MalformedHead("no WARC-Type of the standard's")
        return Head(len(text), int(lengths.pop()), is_record=types <= RECORD_TYPES)


class ArcGrammar:
    """One line `URL IP date type [...] length`, `length` bytes, one line end."""

    _line = rb"(?P<url>[A-Za-z][A-Za-z0-9+.\-]*:\S.*) \S+ (?P<date>\d{14,17}|null|-) (?P<type>\S.*?) (?P<length>\d{1,18})"
    _head = re.compile(_line + rb"\r?\n")
    next_start = re.compile(rb"\n(?=" + _line.replace(b"?P<", b"?P<next_") + rb"\r?\n)")
    min_newlines = 1

    def begins(self, prefix: bytes) -> bool:
        return self._head.match(prefix) is not None

    def head(self, window: Window) -> Head:
        text = _until(window, re.compile(rb"\n"))
        fields = self.fields(text)
        is_record = not fields["url"].startswith("filedesc:")
        return Head(len(text), int(fields["length"]), is_record=is_record)

    def fields(self, head: bytes) -> dict[str, str]:
        """`url`, `date`, `type` and `length` of a head line. Raises `MalformedHead`."""
        match = self._head.match(head)
        if match is None:
            raise MalformedHead("no ARC record line")
        return {name: value.decode("utf-8", "replace") for name, value in match.groupdict().items()}


def _until(window: Window, end: re.Pattern[bytes]) -> bytes:
    for num_bytes in (1 << 12, 1 << 15, MAX_HEAD_BYTES):
        held = window.fill(num_bytes)
        found = window.search(end)
        if found is not None and found[1] <= MAX_HEAD_BYTES:
            return window.peek(0, found[1])
        if held < num_bytes:
            break
    raise MalformedHead("no end of the record's head")
