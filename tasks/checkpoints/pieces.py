"""Tensors cut into boxes: what one process holds of each, written to files, and any other box read back out of them.

A file is torch's sharded safetensors (`torch.distributed.checkpoint.HuggingFaceStorageWriter`): plain safetensors whose
metadata says under DCP_SHARDING_INFO where in the whole tensor a piece begins; without it, pieces are whole. So the
checkpoint of one process is what any reader of safetensors takes, and one of several can be read by torch's own reader.
That reader and writer themselves serve us not: they read this machine's files only and plan by collectives.

A box is read from whatever pieces overlap it: the layout that reads has nothing to do with the one that wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from tasks.checkpoints.places import Place
from tasks.checkpoints.state import StoredFile
from tasks.read.raw_file import open_handle

_SHARDING, _OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
_HASHED_BYTES = 8 << 20
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor with an offset and a size along each dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Iterable[int]) -> Box:
        sizes = tuple(shape)
        return cls((0,) * len(sizes), sizes)

    @property
    def num_elements(self) -> int:
        return math.prod(self.sizes)

    def overlap(self, other: Box) -> Box:
        """What both cover; of 0 elements where that is nothing."""
        starts = tuple(map(max, self.offsets, other.offsets))
        stops = (min(a + n, b + m) for a, n, b, m in zip(*self._sides, *other._sides, strict=True))
        return Box(starts, tuple(max(0, stop - start) for start, stop in zip(starts, stops, strict=True)))

    def slices_in(self, outer: Box) -> tuple[slice, ...]:
        """Where this box lies in a tensor that holds `outer`."""
        begins = (own - outside for own, outside in zip(self.offsets, outer.offsets, strict=True))
        return tuple(slice(begin, begin + size) for begin, size in zip(begins, self.sizes, strict=True))

    @property
    def _sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.offsets, self.sizes


def own_box(tensor: Tensor) -> Box:
    """What this process holds of a tensor."""
    if not isinstance(tensor, DTensor):
        return Box.whole(tensor.shape)
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Box(tuple(offsets), tuple(sizes))


def own_part(tensor: Tensor) -> Tensor:
    """The memory of what this process holds of a tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_writer(tensor: Tensor, rank: int) -> bool:
    """Whether this process writes what it holds: of processes that hold the same, the first one does."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "every process is on the mesh"
    return own_box(tensor).num_elements > 0 and all(
        at == 0 for at, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )


def write_pieces(file: Path, pieces: Mapping[str, Tensor], boxes: Mapping[str, Box]) -> StoredFile:
    """Write tensors in main memory to `file`; `boxes` says where those lie that are parts."""
    metadata = {"format": "pt"}
    if boxes:
        metadata[_SHARDING] = json.dumps(
            {name: {_OFFSETS: boxes[name].offsets if name in boxes else [0] * pieces[name].ndim} for name in pieces}
        )
    save_file(dict(pieces), file, metadata=metadata)
    return StoredFile(num_bytes=file.stat().st_size, sha256=_sha256(file))


@contextmanager
def stored_tensors(where: Place, files: Mapping[str, StoredFile]) -> Iterator[StoredTensors]:
    """Open these files of a checkpoint. Raises ValueError where one is damaged, in reading, too."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch, ExitStack() as opened:
        yield StoredTensors(where, files, Path(scratch), opened)


class StoredTensors:
    """The tensors of some of a checkpoint's files.

    Every file that is read from is first compared with its hash. Raises ValueError where one is damaged.
    """

    def __init__(self, where: Place, files: Mapping[str, StoredFile], scratch: Path, opened: ExitStack) -> None:
        self._where, self._files, self._scratch, self._opened = where, files, scratch, opened
        self._readers: dict[str, Any] = {}
        self._pieces: dict[str, dict[str, Box]] = {name: self._header(name) for name in files}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for pieces in self._pieces.values():
            for name, box in pieces.items():
                ends = tuple(map(sum, zip(box.offsets, box.sizes, strict=True)))
                known = self.shapes.get(name, ends)
                if len(known) != len(ends):
                    raise self._damaged(name)
                self.shapes[name] = tuple(map(max, known, ends))

    def read(self, name: str, box: Box, into: Tensor, *, only: str | None = None) -> None:
        """Copy a box of the tensor `name` into a tensor of its size, on whatever device; `only` from one file."""
        num_read = 0
        for file, pieces in self._pieces.items():
            piece = pieces.get(name) if only in (None, file) else None
            common = piece.overlap(box) if piece is not None else None
            if piece is None or common is None or common.num_elements == 0:
                continue
            into[common.slices_in(box)].copy_(self._slice(file, name, common.slices_in(piece)))
            num_read += common.num_elements
        if num_read != box.num_elements:
            raise ValueError(f"{self._where.address} has not all of {name}: remove it to resume from the one before")

    def whole(self, name: str) -> Tensor:
        """All of a tensor in main memory, in the dtype that it is stored in."""
        shape = self.shapes[name]
        file = next(file for file, pieces in self._pieces.items() if name in pieces)
        tensor = self._slice(file, name, (slice(0, 0),) * len(shape)).new_empty(shape)
        self.read(name, Box.whole(shape), tensor)
        return tensor

    def _slice(self, file: str, name: str, slices: tuple[slice, ...]) -> Tensor:
        try:
            if file not in self._readers:
                self._readers[file] = self._opened.enter_context(safe_open(self._checked(file), framework="pt"))
            reader = self._readers[file]
            part: Tensor = reader.get_slice(name)[slices] if slices else reader.get_tensor(name)
        except SafetensorError as error:
            raise self._damaged(file) from error
        return part

    def _checked(self, file: str) -> Path:
        path = self._where.fetched(file, self._scratch)
        expected = self._files[file].sha256
        if expected and _sha256(path) != expected:
            raise self._damaged(file)
        return path

    def _header(self, file: str) -> dict[str, Box]:
        """The file's pieces. The layout is https://huggingface.co/docs/safetensors#format."""
        with open_handle(f"{self._where.address}/{file}") as handle:
            length = handle.read(_LENGTH.size)
            num_bytes = _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else 0
            content = handle.read(num_bytes) if num_bytes <= _MAX_HEADER_BYTES else b""
        try:
            header = json.loads(content)
            offsets = json.loads(header.pop("__metadata__", {}).get(_SHARDING, "{}"))
            boxes = {}
            for name, entry in header.items():
                shape = tuple(int(size) for size in entry["shape"])
                begins = tuple(int(at) for at in offsets[name][_OFFSETS]) if offsets else (0,) * len(shape)
                if len(begins) != len(shape) or min((*shape, *begins), default=0) < 0:
                    raise self._damaged(file)
                boxes[name] = Box(begins, shape)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # other JSON
            raise self._damaged(file) from error
        return boxes

    def _damaged(self, what: str) -> ValueError:
        return ValueError(
            f"{self._where.address}/{what} is damaged: remove its folder to resume from the checkpoint before"
        )


def _sha256(file: Path) -> str:
    """In large blocks: between two of them this thread has to get the interpreter back from the one that trains."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_HASHED_BYTES))
    with file.open("rb", buffering=0) as content:
        while num_bytes := content.readinto(block):
            digest.update(block[:num_bytes])
    return digest.hexdigest()
