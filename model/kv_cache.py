"""Keys and values of the tokens already seen, so that generating one more token costs one token's work.

Shapes: L layers, B batch, K key/value heads, S cached positions, T new positions, C head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import DecoderConfig


class KVCache:
    """Preallocated for `max_len` positions (None: as many as the model takes): appending copies only what is new."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        batch_size: int = 1,
        max_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.max_len = config.max_seq_len if max_len is None else max_len
        if not 0 < self.max_len <= config.max_seq_len:
            raise ValueError(f"a cache of {self.max_len} positions; the model takes 1 to {config.max_seq_len}")
        self.length = 0  # positions that every layer holds
        shape = (config.num_layers, batch_size, config.num_kv_heads, self.max_len, config.head_dim)
        self.keys_LBKSC = torch.zeros(shape, device=device, dtype=dtype)
        self.values_LBKSC = torch.zeros(shape, device=device, dtype=dtype)

    def check_room(self, num_positions: int) -> None:
        """Raise ValueError where `num_positions` more do not fit."""
        if self.length + num_positions > self.max_len:
            raise ValueError(
                f"{num_positions} more positions do not fit a cache that holds {self.length} of {self.max_len}; "
                f"shorten the prompt or ask for fewer tokens"
            )

    def append(self, layer: int, key_BKTC: Tensor, value_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; returns all of that layer's, (B, K, S, C), as views.

        `length` moves only by `advance`, once all layers have appended.
        """
        end = self.length + key_BKTC.shape[2]
        assert end <= self.max_len, "the decoder checks for room before the first layer"
        self.keys_LBKSC[layer, :, :, self.length : end] = key_BKTC
        self.values_LBKSC[layer, :, :, self.length : end] = value_BKTC
        return self.keys_LBKSC[layer, :, :, :end], self.values_LBKSC[layer, :, :, :end]

    def advance(self, num_positions: int) -> None:
        self.length += num_positions
