"""Causal self-attention with grouped queries (Ainslie et al. 2023) and rotary positions.

Shapes: B batch, T new positions, S positions attended to (T plus the cached ones), D model, H query heads,
K key/value heads, C head dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import DecoderConfig
from model.kv_cache import KVCache
from model.rope import rotate


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool, True where a position may look: at itself and earlier ones of the same document."""
    num_positions = document_ids_BT.shape[1]
    same_document_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    causal_TT = torch.ones(num_positions, num_positions, dtype=torch.bool, device=document_ids_BT.device).tril()
    return (same_document_BTT & causal_TT)[:, None]


def continuation_mask(num_cached: int, num_new: int, device: torch.device) -> Tensor:
    """(T, S) bool for `num_new` positions that follow `num_cached`; SDPA's own causal mask starts at the top left."""
    return torch.ones(num_new, num_cached + num_new, dtype=torch.bool, device=device).tril(diagonal=num_cached)


class Attention(nn.Module):
    """One layer's attention. The number of heads is read off the projections, so that they may be sharded by heads."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.query = nn.Linear(config.d_model, config.num_heads * config.head_dim, bias=False)
        self.key = nn.Linear(config.d_model, config.num_kv_heads * config.head_dim, bias=False)
        self.value = nn.Linear(config.d_model, config.num_kv_heads * config.head_dim, bias=False)
        self.output = nn.Linear(config.num_heads * config.head_dim, config.d_model, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, D) to (B, T, D). `mask` broadcasts to (B, H, T, S), True where to look; None is plain causal.

        With a `cache` that holds positions already, T > 1 needs a mask (`continuation_mask`).
        """
        query_BHTC = rotate(self._heads(self.query(x_BTD)), *cos_sin)
        key_BKSC = rotate(self._heads(self.key(x_BTD)), *cos_sin)
        value_BKSC = self._heads(self.value(x_BTD))
        if cache is not None:
            key_BKSC, value_BKSC = cache.append(layer, key_BKSC, value_BKSC)
        group_size = query_BHTC.shape[1] // key_BKSC.shape[1]
        if mask is not None and group_size > 1:
            # On CUDA the kernel that takes a mask in linear memory takes no grouped heads (torch's documentation of
            # enable_gqa): SDPA would fall back to materialising (B, H, T, S). Flash attention, without a mask, does.
            key_BKSC = key_BKSC.repeat_interleave(group_size, dim=1)
            value_BKSC = value_BKSC.repeat_interleave(group_size, dim=1)
        attended_BHTC = F.scaled_dot_product_attention(
            query_BHTC,
            key_BKSC,
            value_BKSC,
            attn_mask=mask,
            is_causal=mask is None and x_BTD.shape[1] > 1,
            enable_gqa=query_BHTC.shape[1] != key_BKSC.shape[1],
        )
        out_BTD: Tensor = self.output(attended_BHTC.transpose(1, 2).flatten(2))
        return out_BTD

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * C) to (B, heads, T, C)."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
