from __future__ import annotations

import math

import pytest
import torch

from model.config import DecoderConfig
from model.feed_forward import FeedForward


def test_against_python_floats() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(vocab_size=64, d_model=4, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=6, max_seq_len=8)
    feed_forward = FeedForward(config)
    x = torch.randn(1, 3, 4)
    out = feed_forward(x)
    gate, up, down = (
        projection.weight.tolist() for projection in (feed_forward.gate, feed_forward.up, feed_forward.down)
    )
    for t in range(3):
        row = x[0, t].tolist()
        hidden = []
        for f in range(6):
            gated = sum(gate[f][d] * row[d] for d in range(4))
            hidden.append(gated / (1 + math.exp(-gated)) * sum(up[f][d] * row[d] for d in range(4)))
        for d in range(4):
            assert out[0, t, d].item() == pytest.approx(sum(down[d][f] * hidden[f] for f in range(6)), abs=1e-6)


def test_zero_maps_to_zero() -> None:
    config = DecoderConfig(vocab_size=64, d_model=4, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=6, max_seq_len=8)
    assert torch.equal(FeedForward(config)(torch.zeros(1, 2, 4)), torch.zeros(1, 2, 4))
