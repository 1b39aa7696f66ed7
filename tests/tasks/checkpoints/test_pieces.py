"""Boxes: whatever a tensor was cut into, any part of it comes back, and files that lie are refused."""

from __future__ import annotations

import json
import math
import tempfile
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.checkpoints.pieces import Box, own_box, stored_tensors, write_pieces
from tasks.checkpoints.places import LocalPlace
from tasks.checkpoints.state import StoredFile


@st.composite
def cuts(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    """(begin, size) of the parts of a dimension, also of empty ones."""
    edges = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    return [(begin, end - begin) for begin, end in pairwise([0, *edges, size])]


@st.composite
def cut_tensors(draw: st.DrawFn) -> tuple[Tensor, list[Box], Box]:
    """A tensor, boxes that it is cut into, and one to read."""
    shape = draw(st.lists(st.integers(1, 7), min_size=0, max_size=3))
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    grid = [draw(cuts(size)) for size in shape]
    boxes = [Box(tuple(b for b, _ in cell), tuple(s for _, s in cell)) for cell in product(*grid)]
    offsets = tuple(draw(st.integers(0, size)) for size in shape)
    sizes = tuple(draw(st.integers(0, size - begin)) for size, begin in zip(shape, offsets, strict=True))
    return tensor, boxes, Box(offsets, sizes)


def part(tensor: Tensor, box: Box) -> Tensor:
    return tensor[box.slices_in(own_box(tensor))].clone()


@settings(max_examples=60)
@given(cut_tensors())
def test_any_box_comes_back_from_any_pieces(cut: tuple[Tensor, list[Box], Box]):
    tensor, boxes, wanted = cut
    with tempfile.TemporaryDirectory() as folder:
        where = LocalPlace(Path(folder))
        files = {}
        for number, box in enumerate(box for box in boxes if box.num_elements):
            name = f"model-{number + 1:05d}-of-00099.safetensors"
            files[name] = write_pieces(Path(folder, name), {"weight": part(tensor, box)}, {"weight": box})
        with stored_tensors(where, files) as stored:
            assert stored.shapes == {"weight": tuple(tensor.shape)}
            into = torch.full(wanted.sizes, torch.nan)
            stored.read("weight", wanted, into)
    assert torch.equal(into, part(tensor, wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (4, 2)])
def test_a_whole_tensor_comes_back_in_its_own_dtype(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]):
    tensor = torch.arange(1, 1 + math.prod(shape)).reshape(shape).to(dtype)
    files = written(tmp_path, {"weight": tensor}, {})
    with stored_tensors(LocalPlace(tmp_path), files) as stored:
        assert stored.whole("weight").dtype == dtype
        assert torch.equal(stored.whole("weight"), tensor)


def test_a_whole_tensor_is_put_together_from_its_pieces(tmp_path: Path):
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    files = written(tmp_path, {"weight": torch.ones(2, 3)}, {"weight": Box((0, 0), (2, 3))}, first)
    files |= written(tmp_path, {"weight": torch.zeros(1, 3)}, {"weight": Box((2, 0), (1, 3))}, second)
    with stored_tensors(LocalPlace(tmp_path), files) as stored:
        assert stored.whole("weight").tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]


@given(cut_tensors(), st.integers(0, 6))
def test_the_overlap_is_what_both_cover(cut: tuple[Tensor, list[Box], Box], other: int):
    tensor, boxes, wanted = cut
    box = boxes[other % len(boxes)]
    both = set(part(tensor, box).flatten().tolist()) & set(part(tensor, wanted).flatten().tolist())
    common = box.overlap(wanted)
    assert common == wanted.overlap(box)
    assert common.num_elements == len(both)
    if both:
        assert set(part(tensor, common).flatten().tolist()) == both


def written(folder: Path, pieces: dict[str, Tensor], boxes: dict[str, Box], name: str = "model.safetensors") -> Any:
    return {name: write_pieces(folder / name, pieces, boxes)}


def test_a_missing_piece_is_named(tmp_path: Path):
    files = written(tmp_path, {"weight": torch.ones(2, 3)}, {"weight": Box((4, 0), (2, 3))})
    with stored_tensors(LocalPlace(tmp_path), files) as stored:
        assert stored.shapes == {"weight": (6, 3)}
        with pytest.raises(ValueError, match="has not all of weight"):
            stored.read("weight", Box.whole((6, 3)), torch.empty(6, 3))


def header(content: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + body


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        (1 << 62).to_bytes(8, "little"),
        header({"weight": ENTRY})[:-4],
        header({"weight": {}}),
        header({"weight": ENTRY | {"shape": [-1]}}),
        header({"weight": ENTRY | {"shape": "1"}})[:20],
        header({"weight": ENTRY, "__metadata__": {"DCP_SHARDING_INFO": "{"}}),
        header({"weight": ENTRY, "__metadata__": {"DCP_SHARDING_INFO": '{"other": {}}'}}),
        header({"weight": ENTRY, "__metadata__": {"DCP_SHARDING_INFO": '{"weight": {"saved_offsets": [0, 0]}}'}}),
        header({"weight": ENTRY, "__metadata__": {"DCP_SHARDING_INFO": '{"weight": {"saved_offsets": [-1]}}'}}),
        header({"weight": ENTRY, "__metadata__": {"DCP_SHARDING_INFO": '{"weight": {"saved_offsets": ["a"]}}'}}),
        b"\x02" + b"\0" * 7 + b"[]",
        header({"weight": ENTRY | {"shape": [math.inf]}}),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_a_header_that_makes_no_sense_is_damage(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    files = {"model.safetensors": StoredFile(num_bytes=len(content))}
    with (
        pytest.raises(ValueError, match=r"model\.safetensors is damaged: remove"),
        stored_tensors(LocalPlace(tmp_path), files),
    ):
        pass


def test_weights_beyond_the_files_end_are_damage(tmp_path: Path):
    content = header({"weight": ENTRY | {"shape": [9], "data_offsets": [0, 36]}}, b"\0" * 4)
    (tmp_path / "model.safetensors").write_bytes(content)
    files = {"model.safetensors": StoredFile(num_bytes=len(content))}
    with stored_tensors(LocalPlace(tmp_path), files) as stored, pytest.raises(ValueError, match="is damaged"):
        stored.read("weight", Box.whole((9,)), torch.empty(9))


def test_pieces_of_unlike_dimensions_are_damage(tmp_path: Path):
    files = written(tmp_path, {"weight": torch.ones(2)}, {"weight": Box((0,), (2,))})
    other = "model-00002-of-00002.safetensors"
    files |= written(tmp_path, {"weight": torch.ones(2, 2)}, {"weight": Box((0, 0), (2, 2))}, other)
    with pytest.raises(ValueError, match="weight is damaged"), stored_tensors(LocalPlace(tmp_path), files):
        pass
