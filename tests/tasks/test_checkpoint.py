"""Checkpoints: what is saved comes back bit for bit, and whatever goes wrong leaves a good one."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_adamw
from tasks.atomic import remove_leftovers
from tasks.checkpoint import (
    CheckpointState,
    complete_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    load_decoder,
    read_state,
    save_checkpoint,
)
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.recipes.pretraining import smoke

SHAPE = DecoderConfig(vocab_size=64, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=24, max_seq_len=16)


def built(seed: int, shape: DecoderConfig = SHAPE) -> tuple[Decoder, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Decoder(shape)
    return model, build_adamw(model, learning_rate=0.01)


def trained(seed: int, steps: int = 2) -> tuple[Decoder, torch.optim.AdamW]:
    model, optimizer = built(seed)
    for _ in range(steps):
        advance(model, optimizer)
    return model, optimizer


def advance(model: Decoder, optimizer: torch.optim.AdamW) -> float:
    """One step on random tokens from the global generator, so that it must be restored, too."""
    tokens = torch.randint(0, 64, (2, 9))
    optimizer.zero_grad()
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    optimizer.step()
    return loss.item()


def state_at(step: int, shape: DecoderConfig = SHAPE, loss: float = 2.5) -> CheckpointState:
    return CheckpointState(
        step=step,
        num_steps=100,
        tokens_seen=16 * step,
        loss=loss,
        held_out=BitsPerByte(1.5, 2.25, 100, 300, 4),
        decoder=shape.to_dict(),
        recipe=smoke(),
        tokenizer_sha256="a" * 64,
        corpus_digest="b" * 64,
        tokens_digest="c" * 64,
    )


def test_everything_comes_back_and_training_continues_bit_for_bit(tmp_path: Path):
    model, optimizer = trained(seed=1)
    folder = save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=2)
    expected = [advance(model, optimizer) for _ in range(3)]

    other, other_optimizer = built(seed=2)
    assert load_checkpoint(folder, other, other_optimizer) == state_at(2)
    assert [advance(other, other_optimizer) for _ in range(3)] == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_the_decoder_alone_is_built_from_the_folder(tmp_path: Path):
    model, optimizer = trained(seed=1)
    folder = save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=2)
    tokens = torch.arange(12).reshape(1, 12)
    loaded, state = load_decoder(folder)
    assert state.decoder == SHAPE.to_dict()
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


def test_tied_weights_are_stored_once(tmp_path: Path):
    model, optimizer = trained(seed=1)
    folder = save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=2)
    stored = (folder / "model.safetensors").stat().st_size
    assert (
        sum(parameter.numel() for parameter in model.parameters()) * 4
        < stored
        < sum(parameter.numel() for parameter in model.parameters()) * 4 + 4096
    )


def test_no_pickle_in_the_folder(tmp_path: Path):
    folder = save_checkpoint(tmp_path, *trained(seed=1), state_at(2), keep=2)
    assert sorted(file.name for file in folder.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_ff": 32}, r"parameter blocks\.0\.feed_forward\.gate\.weight has the shape \(24, 16\), .* \(32, 16\)"),
        ({"vocab_size": 128}, r"parameter embedding\.weight has the shape \(64, 16\)"),
        ({"num_layers": 3}, r"no parameter blocks\.2\."),
        ({"num_layers": 1}, r"parameter blocks\.1\..* is not part"),
    ],
)
def test_another_shape_is_refused_by_name(tmp_path: Path, change: dict[str, int], message: str):
    folder = save_checkpoint(tmp_path, *trained(seed=1), state_at(2), keep=2)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder, Decoder(DecoderConfig.from_dict(SHAPE.to_dict() | change)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, value: float):
    model, optimizer = trained(seed=1)
    good = save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=1)
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight[3, 4] = value  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"blocks\.1\.feed_forward\.up\.weight is not finite after step 3"):
        save_checkpoint(tmp_path, model, optimizer, state_at(3), keep=1)
    assert complete_checkpoints(tmp_path) == [good]


def test_a_loss_that_is_not_finite_makes_no_state():
    with pytest.raises(ValueError, match="finite"):
        state_at(2, loss=math.nan)


def test_retention_keeps_the_newest(tmp_path: Path):
    model, optimizer = trained(seed=1)
    for step in (1, 2, 10, 9_999_999, 123_456_789):
        save_checkpoint(tmp_path, model, optimizer, state_at(step), keep=2)
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["step-09999999", "step-123456789"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str):
    model, optimizer = trained(seed=1)
    good = save_checkpoint(tmp_path, model, optimizer, state_at(1), keep=3)
    bad = save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=3)
    assert latest_checkpoint(tmp_path) == bad
    if damage == "removed":
        (bad / file).unlink()
    else:
        (bad / file).write_bytes((bad / file).read_bytes()[:-10])
    assert latest_checkpoint(tmp_path) == good
    with pytest.raises(ValueError, match="no complete checkpoint"):
        read_state(bad)
    # the run comes to this step again: the damaged one gives way
    save_checkpoint(tmp_path, model, optimizer, state_at(2), keep=3)
    assert load_checkpoint(bad, model, optimizer).step == 2
    (bad / "state.json").unlink()
    # the damaged one does not count towards those that are kept
    save_checkpoint(tmp_path, model, optimizer, state_at(3), keep=2)
    assert [read_state(folder).step for folder in complete_checkpoints(tmp_path)] == [1, 3]


def test_a_damaged_header_is_named(tmp_path: Path):
    model, optimizer = trained(seed=1)
    folder = save_checkpoint(tmp_path, model, optimizer, state_at(1), keep=1)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[0:8] = b"\xff" * 8
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_checkpoint(folder, model, optimizer)


def test_an_empty_or_missing_folder_holds_no_checkpoint(tmp_path: Path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "step-00000007").mkdir()
    assert latest_checkpoint(tmp_path) is None


def test_state_is_readable_json_without_nan(tmp_path: Path):
    folder = save_checkpoint(tmp_path, *trained(seed=1), state_at(2), keep=2)
    body = json.loads((folder / "state.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert body["state"]["tokens_seen"] == 32


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
import tasks.checkpoint as checkpoint
from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_adamw

directory, moment = Path(sys.argv[1]), sys.argv[2]
state = checkpoint.CheckpointState.model_validate_json(sys.argv[3])
model = Decoder(DecoderConfig.from_dict(state.decoder))
optimizer = build_adamw(model, learning_rate=0.01)
write, remove = checkpoint.save_file, checkpoint.shutil.rmtree

def dies_after(tensors, file):
    write(tensors, file)
    if file.name == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def dies_half_way(folder, *arguments, **options):
    if moment == "retention" and "step-00000001" in Path(folder).name:
        (Path(folder) / "model.safetensors").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    remove(folder, *arguments, **options)

checkpoint.save_file, checkpoint.shutil.rmtree = dies_after, dies_half_way
checkpoint.save_checkpoint(directory, model, optimizer, state, keep=1)
"""


@pytest.mark.parametrize(
    ("moment", "survivor"), [("model.safetensors", 1), ("optimizer.safetensors", 1), ("retention", 2)]
)
def test_killed_while_saving_leaves_a_good_checkpoint_and_garbage(tmp_path: Path, moment: str, survivor: int):
    model, optimizer = trained(seed=1)
    save_checkpoint(tmp_path, model, optimizer, state_at(1), keep=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path), moment, state_at(2).model_dump_json()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    folders = complete_checkpoints(tmp_path)
    assert [read_state(folder).step for folder in folders] == [survivor]
    assert load_checkpoint(folders[0], model, optimizer).step == survivor
    assert [path.name[:5] for path in tmp_path.iterdir() if path not in folders] == [".tmp-"]
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == folders
