"""The bytes of one source file, local or remote, read at any offset without holding the file."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

BLOCK_BYTES = 1 << 20
BLOCKS_KEPT = 4  # a gzip member's end is found up to one feed behind the furthest byte read


class RawFile:
    """Reads by whole aligned blocks and keeps the last few, so that a remote file is fetched once and forwards."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._blocks: dict[int, bytes] = {}

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """The bytes `[offset, offset + num_bytes)`; fewer only where the file ends."""
        pieces = []
        end = offset + num_bytes
        while offset < end:
            number, within = divmod(offset, BLOCK_BYTES)
            piece = self._block(number)[within : within + end - offset]
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            self._handle.seek(number * BLOCK_BYTES)
            block = bytearray()
            while len(block) < BLOCK_BYTES and (piece := self._handle.read(BLOCK_BYTES - len(block))):
                block += piece
            if len(self._blocks) == BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = bytes(block)
        return self._blocks[number]


@contextmanager
def open_handle(path: str) -> Iterator[BinaryIO]:
    """A seekable binary handle on a local path or any URL that fsspec knows.

    A web server that cannot send parts of a file gets its file copied to a temporary one first.
    """
    if "://" not in path:
        with Path(path).open("rb") as handle:
            yield handle
        return
    filesystem, remote_path = fsspec.core.url_to_fs(path)
    with filesystem.open(remote_path, "rb") as handle:
        if not path.startswith(("http://", "https://")) or _serves_ranges(handle):
            yield cast(BinaryIO, handle)
            return
    with tempfile.TemporaryFile() as copy:
        with filesystem.open(remote_path, "rb", block_size=0) as stream:
            shutil.copyfileobj(stream, copy, BLOCK_BYTES)
        yield cast(BinaryIO, copy)


def _serves_ranges(handle: Any) -> bool:
    """Whether the last byte can be had alone; fsspec raises ValueError where the server sends the whole file."""
    try:
        handle.seek(-1, 2)
        handle.read(1)
        handle.seek(0)
    except ValueError:
        return False
    return True


@contextmanager
def open_raw(path: str) -> Iterator[RawFile]:
    """`open_handle`, as a `RawFile`."""
    with open_handle(path) as handle:
        yield RawFile(handle)
