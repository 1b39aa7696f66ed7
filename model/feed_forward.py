"""The feed-forward of a block: SwiGLU (Shazeer 2020). Shapes: B batch, T sequence, D model, F feed-forward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import DecoderConfig


class FeedForward(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        hidden_BTF = F.silu(self.gate(x_BTD)) * self.up(x_BTD)
        out_BTD: Tensor = self.down(hidden_BTF)
        return out_BTD
