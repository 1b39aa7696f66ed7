"""The network alone: from new checkpoints, from copies of them, and from models registered long ago."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.checkpoints import Checkpointer, copy_for_use, load_decoder
from tests.tasks.checkpoints.tiny_training import advance, assert_equal, built, everything, state_at, trained


@pytest.fixture
def saved(tmp_path: Path) -> str:
    return Checkpointer(tmp_path / "checkpoints", *trained(1), keep=1).save(state_at(2), wait=True)


def test_the_network_is_built_from_the_folder(saved: str):
    model, state = load_decoder(saved)
    assert state == state_at(2)
    assert not model.training
    expected = trained(1)[0].eval()
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        assert torch.equal(model(tokens), expected(tokens))


def test_a_copy_for_use_is_a_third_and_loads_alike(saved: str, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_for_use(saved, copy)
    sizes = {file.name: file.stat().st_size for file in copy.iterdir()}
    assert sizes.keys() == {"model.safetensors", "state.json"}
    assert sum(sizes.values()) < 0.4 * sum(file.stat().st_size for file in Path(saved).iterdir())
    assert load_decoder(copy)[1] == state_at(2)
    assert_equal(load_decoder(copy)[0].state_dict(), load_decoder(saved)[0].state_dict())
    # and a copy can be copied
    again = tmp_path / "again"
    again.mkdir()
    copy_for_use(copy, again)
    assert_equal(load_decoder(again)[0].state_dict(), load_decoder(saved)[0].state_dict())


def test_a_copy_is_not_gone_on_from(saved: str, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_for_use(saved, copy)
    other = built(3)
    with pytest.raises(ValueError, match="holds a network alone"):
        Checkpointer(tmp_path / "more", *other, keep=1).load(copy)


def test_a_checkpoint_of_before_is_used_and_gone_on_from(tmp_path: Path):
    """Its files, as the program wrote them before there were shards: whole tensors, sizes without hashes."""
    model, optimizer = trained(1)
    folder = tmp_path / "step-00000002"
    folder.mkdir()
    tensors = everything(model, optimizer)
    weights = {name: tensor for name, tensor in tensors.items() if "/" not in name}
    rest = {name: tensor for name, tensor in tensors.items() if "/" in name}
    save_file(weights, folder / "model.safetensors")
    save_file(rest | {"random/cpu": torch.get_rng_state()}, folder / "optimizer.safetensors")
    state = state_at(2).model_dump(mode="json")
    for name in ("tokens_digests", "world_size", "spikes", "skipped", "mixture"):
        del state[name]
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    body = {"state": state | {"tokens_digest": "c" * 64}, "file_bytes": sizes}
    (folder / "state.json").write_text(json.dumps(body))

    expected = [advance(model, optimizer) for _ in range(2)]
    assert_equal(load_decoder(folder)[0].state_dict(), weights)
    other = built(2)
    assert Checkpointer(tmp_path, *other, keep=1).load(folder) == state_at(2)
    assert [advance(*other) for _ in range(2)] == expected
