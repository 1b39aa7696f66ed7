from __future__ import annotations

import pytest
import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_adamw


def decoder_of(*, tie_embeddings: bool) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocab_size=64,
            d_model=16,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            d_ff=24,
            max_seq_len=8,
            tie_embeddings=tie_embeddings,
        )
    )


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_groups(tie_embeddings: bool) -> None:
    model = decoder_of(tie_embeddings=tie_embeddings)
    optimizer = build_adamw(model, learning_rate=1e-3, weight_decay=0.3, betas=(0.8, 0.9))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    decayed, spared = ({names[id(parameter)] for parameter in groups[key]["params"]} for key in ("decay", "no_decay"))
    projections = ["attention.query", "attention.key", "attention.value", "attention.output"]
    projections += ["feed_forward.gate", "feed_forward.up", "feed_forward.down"]
    matrices = {f"blocks.{i}.{projection}.weight" for i in range(2) for projection in projections}
    assert decayed == matrices | (set() if tie_embeddings else {"head.weight"})
    assert decayed | spared == set(names.values())
    assert not decayed & spared
    assert groups["decay"]["weight_decay"] == 0.3
    assert groups["no_decay"]["weight_decay"] == 0.0
    assert all(group["lr"] == 1e-3 and group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_decay_shrinks_matrices_only() -> None:
    model = decoder_of(tie_embeddings=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_adamw(model, learning_rate=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_spared = name == "embedding.weight" or name.endswith("norm.weight")
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if is_spared else 1 - 0.01 * 0.1))


def test_one_step_against_the_published_algorithm() -> None:
    model = decoder_of(tie_embeddings=True)
    weight = model.final_norm.weight
    optimizer = build_adamw(model, learning_rate=0.01)
    tokens_BT = torch.arange(8)[None]
    model.loss(tokens_BT, tokens_BT).backward()
    assert weight.grad is not None
    before, gradient = weight.detach().double(), weight.grad.double()
    optimizer.step()
    # the first step's bias-corrected moments are the gradient and its square
    expected = before - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=0)


def test_fused_follows_the_device_unless_told() -> None:
    model = decoder_of(tie_embeddings=True)
    assert [group["fused"] for group in build_adamw(model, learning_rate=1e-3).param_groups] == [False, False]
    assert [group["fused"] for group in build_adamw(model, learning_rate=1e-3, fused=True).param_groups] == [True, True]


def test_frozen_parameters_are_left_out() -> None:
    model = decoder_of(tie_embeddings=True)
    model.embedding.weight.requires_grad_(False)
    optimizer = build_adamw(model, learning_rate=1e-3)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(model.embedding.weight) not in held
    assert len(held) == len(list(model.parameters())) - 1
