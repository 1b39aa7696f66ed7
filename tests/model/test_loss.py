from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import model.loss
from model.config import DecoderConfig
from model.decoder import Decoder
from model.loss import IGNORED_TARGET, Reduction, next_token_loss

CONFIG = DecoderConfig(
    vocab_size=64, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=24, max_seq_len=16, init_std=0.2
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, 64, (3, 10), generator=generator)
    targets_BT = torch.randint(0, 64, (3, 10), generator=generator)
    targets_BT[0, :4] = IGNORED_TARGET
    targets_BT[2, 9] = IGNORED_TARGET
    return tokens_BT, targets_BT


def test_against_logarithms_of_probabilities() -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    probabilities = decoder(tokens_BT).double().softmax(-1)
    expected = [
        [
            0.0 if target == IGNORED_TARGET else -math.log(probabilities[b, t, target].item())
            for t, target in enumerate(row)
        ]
        for b, row in enumerate(targets_BT.tolist())
    ]
    total = sum(map(sum, expected))
    assert decoder.loss(tokens_BT, targets_BT, reduction="none").tolist() == [
        pytest.approx(row, abs=1e-5) for row in expected
    ]
    assert decoder.loss(tokens_BT, targets_BT, reduction="sum").item() == pytest.approx(total, rel=1e-5)
    assert decoder.loss(tokens_BT, targets_BT).item() == pytest.approx(total / 25, rel=1e-5)


def plain_loss(
    decoder: Decoder, tokens_BT: torch.Tensor, targets_BT: torch.Tensor, reduction: str, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """All logits at once, by torch's own cross entropy: what to train on, and the cross entropy."""
    logits = decoder(tokens_BT).flatten(0, 1)
    targets = targets_BT.flatten()
    cross_entropy = F.cross_entropy(logits, targets, ignore_index=IGNORED_TARGET, reduction=reduction)
    squares = logits.logsumexp(-1).square()[targets != IGNORED_TARGET]
    return cross_entropy + z_loss * (squares.mean() if reduction == "mean" else squares.sum()), cross_entropy


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("positions_per_block", [1, 7, 29, 1000])
def test_blocks_change_neither_loss_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, tie_embeddings: bool, reduction: Reduction, z_loss: float, positions_per_block: int
) -> None:
    torch.manual_seed(0)
    decoder = Decoder(dataclasses.replace(CONFIG, tie_embeddings=tie_embeddings))
    tokens_BT, targets_BT = batch()
    expected, expected_nats = plain_loss(decoder, tokens_BT, targets_BT, reduction, z_loss)
    gradients = torch.autograd.grad(3 * expected, list(decoder.parameters()))
    monkeypatch.setitem(model.loss.LOGITS_PER_BLOCK, "cpu", 64 * positions_per_block)
    monkeypatch.setitem(model.loss.LOGITS_PER_SLICE, "cpu", 64 * 3)
    total, nats = decoder(tokens_BT, targets_BT=targets_BT, reduction=reduction, z_loss=z_loss)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(nats, expected_nats)
    torch.testing.assert_close(decoder.loss(tokens_BT, targets_BT, reduction=reduction), expected_nats)
    block_gradients = torch.autograd.grad(3 * total, list(decoder.parameters()))
    for gradient, block_gradient in zip(gradients, block_gradients, strict=True):
        torch.testing.assert_close(block_gradient, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("positions_per_block", [1, 7, 1000])
def test_the_losses_of_each_position_in_blocks(monkeypatch: pytest.MonkeyPatch, positions_per_block: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    whole = decoder.loss(tokens_BT, targets_BT, reduction="none")
    monkeypatch.setitem(model.loss.LOGITS_PER_BLOCK, "cpu", 64 * positions_per_block)
    torch.testing.assert_close(decoder.loss(tokens_BT, targets_BT, reduction="none"), whole)
    torch.testing.assert_close(whole.sum(), decoder.loss(tokens_BT, targets_BT, reduction="sum"))


def test_no_logits_and_without_gradients_nothing_at_all_is_kept() -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    hidden_BTD = decoder.hidden_states(tokens_BT).detach().requires_grad_()
    kept: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> Any:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next_token_loss(hidden_BTD, targets_BT, decoder.head_weight)
        assert set(kept) == {(30, 16), (64, 16)}, "the two gradients, as large as what they belong to"
        kept.clear()
        with torch.no_grad():
            next_token_loss(hidden_BTD, targets_BT, decoder.head_weight)
        assert kept == []


def test_frozen_weights_get_no_gradient() -> None:
    torch.manual_seed(0)
    decoder = Decoder(dataclasses.replace(CONFIG, tie_embeddings=False))
    assert decoder.head is not None
    decoder.head.weight.requires_grad_(False)
    tokens_BT, targets_BT = batch()
    decoder.loss(tokens_BT, targets_BT).backward()
    assert decoder.head.weight.grad is None and decoder.embedding.weight.grad is not None


def test_an_extreme_logit_overflows_nothing() -> None:
    hidden_BTD = torch.tensor([[[1000.0, 0.0]]], requires_grad=True)
    head_VD = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = next_token_loss(hidden_BTD, torch.tensor([[1]]), head_VD)
    loss.backward()
    assert loss.item() == 2000.0
    assert torch.equal(hidden_BTD.grad, torch.tensor([[[2.0, 0.0]]]))


def test_nothing_but_ignored_targets() -> None:
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    loss = decoder.loss(tokens_BT, torch.full_like(targets_BT, IGNORED_TARGET))
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in decoder.parameters())


def test_int32_tokens_and_targets() -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    assert torch.equal(decoder.loss(tokens_BT.int(), targets_BT.int()), decoder.loss(tokens_BT, targets_BT))


def test_loss_is_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = decoder.loss(tokens_BT, targets_BT)
        logits = decoder(tokens_BT)
    assert loss.dtype is logits.dtype is torch.float32
    torch.testing.assert_close(loss, decoder.loss(tokens_BT, targets_BT), rtol=0.02, atol=0)


def test_misuse_is_refused() -> None:
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    with pytest.raises(ValueError, match="reduction is 'average'; choose mean or sum, or none without z-loss"):
        decoder.loss(tokens_BT, targets_BT, reduction="average")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"targets of shape \(3, 9\) for tokens of shape \(3, 10\)"):
        decoder.loss(tokens_BT, targets_BT[:, 1:])


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_the_passes_that_suit_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch, z_loss: float) -> None:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    expected, expected_nats = plain_loss(decoder, tokens_BT, targets_BT, "mean", z_loss)
    gradients = torch.autograd.grad(expected, list(decoder.parameters()))
    monkeypatch.setattr(model.loss, "_replace_by_probabilities_in_cache", model.loss._replace_by_probabilities)
    monkeypatch.setitem(model.loss.LOGITS_PER_BLOCK, "cpu", 64 * 7)
    monkeypatch.setitem(model.loss.LOGITS_PER_SLICE, "cpu", 64 * 3)
    total, nats = decoder(tokens_BT, targets_BT=targets_BT, z_loss=z_loss)
    torch.testing.assert_close((total, nats), (expected, expected_nats))
    for gradient, found in zip(gradients, torch.autograd.grad(total, list(decoder.parameters())), strict=True):
        torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("positions_per_block", [7, 1000])
def test_in_bf16_the_gradients_are_those_of_fp32_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch, positions_per_block: int
) -> None:
    """In several blocks, slices and parts; a product in bf16 is off by some 2^-9."""
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    hidden_BTD = decoder.hidden_states(tokens_BT).detach().requires_grad_()
    inputs = hidden_BTD, decoder.head_weight
    exact = torch.autograd.grad(next_token_loss(hidden_BTD, targets_BT, decoder.head_weight), inputs)
    monkeypatch.setitem(model.loss.LOGITS_PER_BLOCK, "cpu", 64 * positions_per_block)
    monkeypatch.setitem(model.loss.LOGITS_PER_SLICE, "cpu", 64 * 3)
    monkeypatch.setitem(model.loss.HEAD_PER_PART, "cpu", 16 * 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = torch.autograd.grad(next_token_loss(hidden_BTD, targets_BT, decoder.head_weight), inputs)
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype is torch.float32
        assert 0 < (found - expected).norm() / expected.norm() < 2**-7


def test_losses_share_memory_but_not_gradients() -> None:
    """A second loss before the first one's backward pass, and a gradient that is changed before the next pass."""
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()
    head = decoder.head_weight
    hidden_BTD = decoder.hidden_states(tokens_BT).detach()
    (alone,) = torch.autograd.grad(next_token_loss(hidden_BTD, targets_BT, head), head)
    first = next_token_loss(hidden_BTD, targets_BT, head)
    second = next_token_loss(2 * hidden_BTD, targets_BT, head)
    second.backward()
    head.grad = None
    first.backward(retain_graph=True)
    assert torch.equal(head.grad, alone)
    head.grad.zero_()
    first.backward()
    assert torch.equal(head.grad, alone)


def test_after_inference_mode_and_in_threads() -> None:
    """What the first call keeps, the next ones write to: whatever their mode, and never two threads the same."""
    torch.manual_seed(0)
    decoders = [Decoder(dataclasses.replace(CONFIG, vocab_size=64 * size)) for size in (1, 2, 3)]
    tokens_BT, targets_BT = batch()

    def gradients(decoder: Decoder) -> list[torch.Tensor]:
        with torch.inference_mode():
            decoder.loss(tokens_BT, targets_BT)
        return [torch.autograd.grad(decoder.loss(tokens_BT, targets_BT), decoder.head_weight)[0] for _ in range(60)]

    expected = [gradients(decoder) for decoder in decoders]
    with ThreadPoolExecutor(3) as threads:
        for found, alone in zip(threads.map(gradients, decoders), expected, strict=True):
            assert all(torch.equal(one, alone[0]) for one in found)


def test_no_tokens_at_all() -> None:
    head_VD = torch.ones(8, 4, requires_grad=True)
    loss = next_token_loss(torch.ones(2, 0, 4), torch.zeros(2, 0, dtype=torch.long), head_VD)
    loss.backward()
    assert loss.item() == 0 and not head_VD.grad.any()
