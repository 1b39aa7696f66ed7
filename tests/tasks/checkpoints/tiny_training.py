"""A network of some thousand weights that trains in milliseconds, and what a checkpoint of it says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import OptimizerKind, build_optimizer
from model.parallel import Parallelism, parallelize
from tasks.checkpoints import CheckpointState
from tasks.checkpoints.tensors import network_tensors, optimizer_tensors
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.recipes.pretraining import smoke

SHAPE = DecoderConfig(
    vocab_size=66, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_seq_len=16, qk_norm=True
)
"""66 rows are not the same number on each of 4 processes."""
HELD_OUT = BitsPerByte(1.5, 2.25, 100, 300, 4)

Training = tuple[Decoder, torch.optim.Optimizer]


def built(
    seed: int,
    kind: OptimizerKind = "adamw",
    *,
    shape: DecoderConfig = SHAPE,
    parallelism: Parallelism = Parallelism(),  # noqa: B008 - frozen
) -> Training:
    """A new network of this seed, laid out, and its optimizer."""
    torch.manual_seed(seed)
    model = parallelize(Decoder(shape), parallelism, parallelism.mesh("cpu"), "cpu")
    return model, build_optimizer(kind, model, learning_rate=0.01)


def advance(model: Decoder, optimizer: torch.optim.Optimizer) -> float:
    """One step on random tokens from the global generator, so that it must be restored, too."""
    tokens = torch.randint(0, 64, (2, 17))
    optimizer.zero_grad()
    loss: Tensor = model(tokens[:, :-1], targets_BT=tokens[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def trained(seed: int, kind: OptimizerKind = "adamw", *, steps: int = 2, **layout: Any) -> Training:
    model, optimizer = built(seed, kind, **layout)
    for _ in range(steps):
        advance(model, optimizer)
    return model, optimizer


def state_at(step: int, *, good: bool = True, world_size: int = 1, **changes: Any) -> CheckpointState:
    values = {
        "step": step,
        "num_steps": 100,
        "tokens_seen": 32 * step,
        "loss": 2.5,
        "held_out": HELD_OUT if good else None,
        "decoder": SHAPE.to_dict(),
        "recipe": smoke(),
        "tokenizer_sha256": "a" * 64,
        "corpus_digest": "b" * 64,
        "tokens_digests": ("c" * 64,),
        "world_size": world_size,
    }
    return CheckpointState.model_validate(values | changes)


def everything(model: Decoder, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all weights and of the optimizer's state, whole in every process."""
    tensors = network_tensors(model) | optimizer_tensors(model, optimizer)
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in tensors.items()
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
