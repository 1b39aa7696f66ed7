"""Causal self-attention with grouped queries (Ainslie et al. 2023) and rotary positions.

Shapes: B batch, T new positions, S positions attended to (T plus the cached ones), D model, H query heads,
K key/value heads, C head dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from model.config import DecoderConfig
from model.kv_cache import KVCache
from model.norm import RMSNorm
from model.rope import rotate

Mask = Tensor | BlockMask


def document_mask(document_ids_BT: Tensor) -> Mask:
    """Where a position of a packed sequence may look: at itself and earlier ones of the same document.

    On a GPU a `BlockMask`, with which flex attention skips the blocks that nobody looks at; elsewhere, where flex
    attention has no backward pass, `dense_document_mask`.
    """
    return block_document_mask(document_ids_BT) if document_ids_BT.is_cuda else dense_document_mask(document_ids_BT)


def block_document_mask(document_ids_BT: Tensor) -> BlockMask:
    """`dense_document_mask` by blocks of 128 x 128 positions (FlexAttention, Dong et al. 2024).

    On a GPU it is compiled: torch would otherwise write out all (B, T, T) of it to count what is in a block.
    """
    num_rows, num_positions = document_ids_BT.shape
    create = _compiled_on_gpu(create_block_mask, document_ids_BT)

    def may_look(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_ids_BT[row, query] == document_ids_BT[row, key])

    mask: BlockMask = create(may_look, num_rows, None, num_positions, num_positions, device=str(document_ids_BT.device))
    return mask


def _compiled_on_gpu(function: Callable[..., Any], argument: Tensor) -> Callable[..., Any]:
    """`function`, by torch's compiler where `argument` is on a GPU and nobody is compiling the caller already."""
    return _compiled(function) if argument.is_cuda and not torch.compiler.is_compiling() else function


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Once for all layers and steps, and on first use: the compiler takes seconds to import."""
    return torch.compile(function)


def dense_document_mask(document_ids_BT: Tensor) -> Tensor:
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
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        mask: Mask | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(B, T, D) to (B, T, D). A dense `mask` broadcasts to (B, H, T, S), True where to look; None is plain causal.

        With a `cache` that holds positions already, T > 1 needs a mask (`continuation_mask`).
        """
        query_BHTC, key_BKSC = self._heads(self.query(x_BTD)), self._heads(self.key(x_BTD))
        if self.query_norm is not None and self.key_norm is not None:
            query_BHTC, key_BKSC = self.query_norm(query_BHTC), self.key_norm(key_BKSC)
        query_BHTC, key_BKSC = rotate(query_BHTC, *cos_sin), rotate(key_BKSC, *cos_sin)
        value_BKSC = self._heads(self.value(x_BTD))
        if cache is not None:
            key_BKSC, value_BKSC = cache.append(layer, key_BKSC, value_BKSC)
        attended_BHTC = self._attended(query_BHTC, key_BKSC, value_BKSC, mask)
        out_BTD: Tensor = self.output(attended_BHTC.transpose(1, 2).flatten(2))
        return out_BTD

    def _attended(self, query_BHTC: Tensor, key_BKSC: Tensor, value_BKSC: Tensor, mask: Mask | None) -> Tensor:
        """(B, H, T, C): for each query the values of what it looks at, weighted."""
        if isinstance(mask, BlockMask):
            # its kernels come from torch's compiler alone: called by itself it writes out all scores, (B, H, T, S)
            attend = _compiled_on_gpu(flex_attention, query_BHTC)
            attended: Tensor = attend(query_BHTC, key_BKSC, value_BKSC, block_mask=mask, enable_gqa=True)
            return attended
        group_size = query_BHTC.shape[1] // key_BKSC.shape[1]
        if mask is not None and group_size > 1:
            # On CUDA the kernel that takes a mask in linear memory takes no grouped heads (torch's documentation of
            # enable_gqa): SDPA would fall back to materialising (B, H, T, S). Flash attention, without a mask, does.
            key_BKSC = key_BKSC.repeat_interleave(group_size, dim=1)
            value_BKSC = value_BKSC.repeat_interleave(group_size, dim=1)
        return F.scaled_dot_product_attention(
            query_BHTC,
            key_BKSC,
            value_BKSC,
            attn_mask=mask,
            is_causal=mask is None and query_BHTC.shape[2] > 1,
            enable_gqa=query_BHTC.shape[1] != key_BKSC.shape[1],
        )

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * C) to (B, heads, T, C)."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
