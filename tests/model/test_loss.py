from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import model.loss
from model.config import DecoderConfig
from model.decoder import Decoder
from model.loss import IGNORED_TARGET, Reduction

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


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("positions_per_chunk", [1, 7, 29])
def test_chunks_change_neither_loss_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, tie_embeddings: bool, reduction: Reduction, positions_per_chunk: int
) -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(**(CONFIG.to_dict() | {"tie_embeddings": tie_embeddings})))  # type: ignore[arg-type]
    tokens_BT, targets_BT = batch()
    whole = decoder.loss(tokens_BT, targets_BT, reduction=reduction)
    gradients = torch.autograd.grad(whole.sum(), list(decoder.parameters()))
    monkeypatch.setattr(model.loss, "MAX_LOGITS_PER_CHUNK", 64 * positions_per_chunk)
    chunked = decoder.loss(tokens_BT, targets_BT, reduction=reduction)
    torch.testing.assert_close(chunked, whole)
    chunked_gradients = torch.autograd.grad(chunked.sum(), list(decoder.parameters()))
    for gradient, chunked_gradient in zip(gradients, chunked_gradients, strict=True):
        torch.testing.assert_close(chunked_gradient, gradient, atol=1e-6, rtol=1e-4)


def test_chunks_keep_no_logits_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(CONFIG)
    tokens_BT, targets_BT = batch()

    def num_logits_kept() -> int:
        kept: list[int] = []

        def pack(tensor: torch.Tensor) -> Any:
            if tensor.shape[-1:] == (64,) and not isinstance(tensor, torch.nn.Parameter):
                kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            decoder.loss(tokens_BT, targets_BT)
        return sum(kept)

    assert num_logits_kept() >= 30 * 64
    monkeypatch.setattr(model.loss, "MAX_LOGITS_PER_CHUNK", 64 * 7)
    assert num_logits_kept() == 0


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
    with pytest.raises(ValueError, match="reduction is 'average'; choose mean, sum or none"):
        decoder.loss(tokens_BT, targets_BT, reduction="average")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"targets of shape \(3, 9\) for tokens of shape \(3, 10\)"):
        decoder.loss(tokens_BT, targets_BT[:, 1:])
