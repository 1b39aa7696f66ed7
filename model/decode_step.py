"""One more token for every row of a shared batch: the decoder's maths for a single new position, without its modules.

A step of a small network is bound by the calls it makes, one of a large network by reading its weights once. So this
calls as few operations as there can be: it writes projections into one buffer, turns queries, keys and (by no angle)
values in one go, stores keys and values of all rows at once, and adds to the residual stream within a product.
It reads the model's own parameters, without a copy. `tests/model/test_decode_step.py` holds it against the decoder.

Shapes: R rows, D model, H query heads, K key/value heads, N = H + 2 K, G = H / K, C head dimension, F feed-forward,
S cached positions, L layers, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Attention
from model.decoder import Block, Decoder
from model.kv_cache import RowCache
from model.norm import RMSNorm
from model.rope import rotary_cos_sin

HEAD_FIRST_ROWS = 7
"""From so many rows on a CPU is quicker at head times rows: 26 ms instead of 38 for 8 rows and 50,304 x 768 (MKL)."""


class _Layer(NamedTuple):
    """A block's parameters; matrices are transposed views."""

    attention_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    query_key_norm: tuple[Tensor, Tensor] | None
    feed_forward_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, block: Block) -> _Layer:
        attention, feed_forward = block.attention, block.feed_forward
        return cls(
            _norm_weight(block.attention_norm),
            attention.query.weight.detach().t(),
            attention.key.weight.detach().t(),
            attention.value.weight.detach().t(),
            attention.output.weight.detach().t(),
            _query_key_norm(attention),
            _norm_weight(block.feed_forward_norm),
            feed_forward.gate.weight.detach().t(),
            feed_forward.up.weight.detach().t(),
            feed_forward.down.weight.detach().t(),
        )


def _norm_weight(norm: RMSNorm) -> Tensor:
    return norm.weight.detach().float()


def _query_key_norm(attention: Attention) -> tuple[Tensor, Tensor] | None:
    if attention.query_norm is None or attention.key_norm is None:
        return None
    return _norm_weight(attention.query_norm), _norm_weight(attention.key_norm)


class _Buffers(NamedTuple):
    """What every layer of a step with so many rows writes into: one memory and its parts."""

    projected_RNC: Tensor
    query: Tensor  # (R, H C)
    key: Tensor  # (R, K C)
    value: Tensor  # (R, K C)
    query_heads: Tensor  # (R, H, C)
    key_heads: Tensor  # (R, K, C)
    turned_RNC: Tensor
    turned_queries: Tensor  # (R, K, G, C): a group stands where positions would, all of it looks at the same keys
    turned_keys_values: Tensor  # (R, 2 K, C)
    gate_RF: Tensor
    up_RF: Tensor


class DecodeStep:
    """A model and the rows it continues. Everything is in inference mode; `cache` may gain and lose rows in between."""

    def __init__(self, model: Decoder, cache: RowCache) -> None:
        config, weight = model.config, model.embedding.weight.detach()
        self._config, self._cache = config, cache
        self._embedding, self._head = weight, model.head_weight.detach()
        self._final_norm = _norm_weight(model.final_norm)
        self._layers = [_Layer.of(block) for block in model.blocks if isinstance(block, Block)]
        assert len(self._layers) == config.num_layers, "every block is one of ours"
        device = weight.device
        cos, sin = rotary_cos_sin(
            0, cache.max_len, config.head_dim, config.rope_theta, device=device, scaling=config.rope_scaling
        )
        self._cos_SC, self._sin_SC = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        self._norm_eps = torch.tensor(config.norm_eps, device=device)
        self._places_LRH = torch.stack(
            [
                torch.stack([cache.places(layer, row) for row in range(cache.max_rows)])
                for layer in range(config.num_layers)
            ]
        ).to(device)
        self._places_S = torch.arange(cache.max_len, device=device)
        self._buffers: dict[int, _Buffers] = {}

    def logits(self, tokens: list[int]) -> Tensor:
        """(R, V) in fp32 after one token more for each row, in the order of the rows; the cache grows by one place."""
        config, lengths = self._config, self._cache.lengths
        num_rows, head_dim = len(tokens), config.head_dim
        assert num_rows == len(lengths), "one token for each row"
        assert max(lengths) < self._cache.max_len, "whoever continues a row knows that there is room"
        device = self._embedding.device
        end = max(lengths) + 1
        positions_R = torch.tensor(lengths, device=device)
        mask = None if min(lengths) + 1 == end else self._mask(positions_R, end)
        places = (self._places_LRH[:, :num_rows] + positions_R[:, None]).flatten(1).unbind()
        cos_RNC, sin_RNC = self._angles(positions_R)
        buffers = self._buffers_for(num_rows)
        stored = self._cache.vectors
        keys_of_layer = self._cache.keys_LRKSC[:, :num_rows, :, :end].unbind()
        values_of_layer = self._cache.values_LRKSC[:, :num_rows, :, :end].unbind()
        x_RD = F.embedding(torch.tensor(tokens, device=device), self._embedding)
        for number, layer in enumerate(self._layers):
            normed_RD = self._normed(x_RD, layer.attention_norm)
            torch.mm(normed_RD, layer.query, out=buffers.query)
            torch.mm(normed_RD, layer.key, out=buffers.key)
            torch.mm(normed_RD, layer.value, out=buffers.value)
            if layer.query_key_norm is not None:
                query_norm, key_norm = layer.query_key_norm
                buffers.query_heads.copy_(self._normed(buffers.query_heads, query_norm))
                buffers.key_heads.copy_(self._normed(buffers.key_heads, key_norm))
            projected_RNC = buffers.projected_RNC.float()
            swapped_RNC = projected_RNC.roll(head_dim // 2, -1)
            torch.addcmul(projected_RNC * cos_RNC, swapped_RNC, sin_RNC, out=buffers.turned_RNC)
            stored.index_copy_(0, places[number], buffers.turned_keys_values.reshape(-1, head_dim))
            attended = F.scaled_dot_product_attention(
                buffers.turned_queries, keys_of_layer[number], values_of_layer[number], attn_mask=mask
            )
            x_RD.addmm_(attended.reshape(num_rows, -1), layer.output)
            normed_RD = self._normed(x_RD, layer.feed_forward_norm)
            torch.mm(normed_RD, layer.gate, out=buffers.gate_RF)
            torch.mm(normed_RD, layer.up, out=buffers.up_RF)
            hidden_RF = F.silu(buffers.gate_RF, inplace=True).mul_(buffers.up_RF)
            x_RD.addmm_(hidden_RF, layer.down)
        self._cache.lengths = [length + 1 for length in lengths]
        return self._head_product(self._normed(x_RD, self._final_norm)).float()

    def _head_product(self, x_RD: Tensor) -> Tensor:
        """(R, V). The same numbers in either order, of which a CPU's library is faster at one."""
        if x_RD.is_cpu and len(x_RD) >= HEAD_FIRST_ROWS:
            return torch.mm(self._head, x_RD.t()).t().contiguous()
        return F.linear(x_RD, self._head)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """`RMSNorm`; on a CPU in five operations instead of the twelve that torch's own is made of there."""
        if x.is_cuda:
            return F.rms_norm(x.float(), weight.shape, weight, self._config.norm_eps).to(x.dtype)
        in_fp32 = x.float()
        length = torch.linalg.vector_norm(in_fp32, dim=-1, keepdim=True)
        scale = torch.addcmul(self._norm_eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (in_fp32 * scale).mul_(weight).to(x.dtype)

    def _angles(self, positions_R: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine, (R, N, C) each; values are turned by no angle."""
        num_values = self._config.num_kv_heads
        num_turned = self._config.num_heads + num_values
        shape = (len(positions_R), num_turned + num_values, self._config.head_dim)
        cos_RNC = self._cos_SC[positions_R][:, None].expand(shape).contiguous()
        sin_RNC = self._sin_SC[positions_R][:, None].expand(shape).contiguous()
        cos_RNC[:, num_turned:], sin_RNC[:, num_turned:] = 1.0, 0.0
        return cos_RNC, sin_RNC

    def _mask(self, positions_R: Tensor, end: int) -> Tensor:
        """(R, K, G, S), 0 where to look and -inf where not: SDPA would make that of a boolean mask in every layer."""
        config = self._config
        unseen_RS = self._places_S[:end] > positions_R[:, None]
        mask_RS = torch.zeros(unseen_RS.shape, device=unseen_RS.device, dtype=self._embedding.dtype)
        mask_RS.masked_fill_(unseen_RS, float("-inf"))
        group_size = config.num_heads // config.num_kv_heads
        return mask_RS[:, None, None].expand(-1, config.num_kv_heads, group_size, -1)

    def _buffers_for(self, num_rows: int) -> _Buffers:
        if num_rows not in self._buffers:
            config = self._config
            widths = [heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
            memory = self._embedding.new_empty(num_rows, sum(widths))
            query, key, value = torch.split(memory, widths, dim=1)
            turned_RNC = self._embedding.new_empty(num_rows, sum(widths) // config.head_dim, config.head_dim)
            queries, keys_values = torch.split(turned_RNC, [config.num_heads, 2 * config.num_kv_heads], dim=1)
            gate_RF = self._embedding.new_empty(num_rows, config.d_ff)
            self._buffers[num_rows] = _Buffers(
                memory.view(num_rows, -1, config.head_dim),
                query,
                key,
                value,
                query.view(num_rows, -1, config.head_dim),
                key.view(num_rows, -1, config.head_dim),
                turned_RNC,
                queries.view(num_rows, config.num_kv_heads, -1, config.head_dim),
                keys_values,
                gate_RF,
                torch.empty_like(gate_RF),
            )
        return self._buffers[num_rows]
