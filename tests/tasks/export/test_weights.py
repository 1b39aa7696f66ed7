"""Weights: bit for bit, in the dtype that they had, in files of at most so much."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from model.decoder import Decoder
from tasks.export.layout import parameter_name
from tasks.export.weights import INDEX_FILE, weights_bytes, write_weights
from tests.model.reference_networks import random_decoder
from tests.tasks.export.exportable import SHAPE, checkpoint, checkpoint_of_two


@pytest.fixture(scope="module")
def model() -> Decoder:
    return random_decoder(SHAPE)


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors in the safetensors files of a folder; each is in one file."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                assert name not in found
                found[name] = opened.get_tensor(name)
    return found


def same(found: dict[str, Tensor], weights: dict[str, Tensor]) -> bool:
    wanted = {parameter_name(name): tensor for name, tensor in weights.items()}
    assert found.keys() == wanted.keys()
    return all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in wanted.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_keep_their_bits_and_dtype(tmp_path: Path, model: Decoder, dtype: torch.dtype) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    folder, _ = checkpoint(tmp_path, model, weights=weights)
    (tmp_path / "out").mkdir()
    written = write_weights(folder, tmp_path / "out")
    assert same(read(tmp_path / "out"), weights)
    assert written.dtypes == (str(dtype).removeprefix("torch."),)
    assert written.num_parameters == sum(tensor.numel() for tensor in weights.values())
    assert written.num_bytes == written.num_parameters * dtype.itemsize <= weights_bytes(folder)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_pieces_of_several_processes_become_whole(tmp_path: Path, model: Decoder) -> None:
    folder, _ = checkpoint_of_two(tmp_path, model)
    (tmp_path / "out").mkdir()
    write_weights(folder, tmp_path / "out")
    assert same(read(tmp_path / "out"), dict(model.state_dict()))


def test_a_file_holds_what_it_may_and_no_byte_more(tmp_path: Path, model: Decoder) -> None:
    folder, _ = checkpoint(tmp_path, model)
    sizes = [tensor.nbytes for tensor in model.state_dict().values()]
    for limit, num_files in ((sum(sizes), 1), (sum(sizes) - 1, 2), (max(sizes), 0), (1, len(sizes))):
        out = tmp_path / f"out-{limit}"
        out.mkdir()
        write_weights(folder, out, max_file_bytes=limit)
        assert same(read(out), dict(model.state_dict()))
        files = sorted(file.name for file in out.glob("*.safetensors"))
        assert len(files) == num_files or not num_files
        assert (out / INDEX_FILE).exists() == (len(files) > 1)
        assert sorted(path.name for path in out.iterdir() if path.name != INDEX_FILE) == files
        if len(files) > 1:
            assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
            index = json.loads((out / INDEX_FILE).read_text())
            assert index["metadata"] == {"total_size": sum(sizes)}
            for name in files:
                with safe_open(out / name, framework="pt") as opened:
                    held = {key: opened.get_tensor(key).nbytes for key in opened.keys()}  # noqa: SIM118
                assert sum(held.values()) <= limit or len(held) == 1
                assert {key for key, file in index["weight_map"].items() if file == name} == held.keys()


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """The system refuses to let a file grow further, as a full disk does (EFBIG; Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_said(tmp_path: Path, model: Decoder) -> None:
    folder, _ = checkpoint(tmp_path, model)
    (tmp_path / "out").mkdir()
    with no_file_beyond(4096), pytest.raises(OSError, match="the weights could not be written"):
        write_weights(folder, tmp_path / "out")
