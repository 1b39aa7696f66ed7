"""Keys and values of the tokens already seen, so that generating one more token costs one token's work.

Shapes: L layers, B batch, R rows, K key/value heads, S cached positions, T new positions, C head dimension.
"""

from __future__ import annotations

import math

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
        rows = RowCache(config, max_rows=batch_size, max_len=max_len, device=device, dtype=dtype)
        self._hold(rows.keys_LRKSC, rows.values_LRKSC)

    def _hold(self, keys_LBKSC: Tensor, values_LBKSC: Tensor) -> None:
        self.length = 0  # positions that every layer holds
        self.max_len = keys_LBKSC.shape[3]
        self.keys_LBKSC, self.values_LBKSC = keys_LBKSC, values_LBKSC

    @classmethod
    def over(cls, keys_LBKSC: Tensor, values_LBKSC: Tensor) -> KVCache:
        """An empty one whose memory is somebody else's: what is appended stands there."""
        cache = cls.__new__(cls)
        cache._hold(keys_LBKSC, values_LBKSC)
        return cache

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


class RowCache:
    """Rows of unequal length in one piece of memory; those in use are always the first ones.

    Each row is left-aligned: its position s stands at place s. Places beyond a row's length hold zeros or what an
    earlier row left there, which is masked and must be finite: a weight of 0 times NaN is NaN.
    Raises ValueError for a number of positions that the model does not take, and where there is no memory for so many
    rows.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        max_rows: int,
        max_len: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.max_len = config.max_seq_len if max_len is None else max_len
        if not 0 < self.max_len <= config.max_seq_len:
            raise ValueError(f"a cache of {self.max_len} positions; the model takes 1 to {config.max_seq_len}")
        self.max_rows = max_rows
        self.lengths: list[int] = []  # positions of each row in use
        shape = (2, config.num_layers, max_rows, config.num_kv_heads, self.max_len, config.head_dim)
        try:
            self._both = torch.zeros(shape, device=device, dtype=dtype)
        except RuntimeError as error:  # torch's for memory that is not there, and for a size that no memory has
            num_bytes = math.prod(shape) * dtype.itemsize
            raise ValueError(
                f"a cache of {max_rows} rows of {self.max_len} positions takes {num_bytes / 1e9:,.1f} GB, which are not"
                " there; ask for fewer rows"
            ) from error
        self.keys_LRKSC, self.values_LRKSC = self._both.unbind()
        self.vectors = self._both.view(-1, config.head_dim)  # of all kinds, layers, rows, heads and places

    def places(self, layer: int, row: int) -> Tensor:
        """Where in `vectors` place 0 of a row stands in a layer, for each key head and then each value head: (2 K,)."""
        num_layers, num_rows, num_heads = self.keys_LRKSC.shape[:3]
        heads_2K = torch.arange(2)[:, None] * (num_layers * num_rows * num_heads) + torch.arange(num_heads)
        return ((layer * num_rows + row) * num_heads + heads_2K.flatten()) * self.max_len

    def added(self, lengths: list[int]) -> KVCache:
        """Room for so many more rows, which will have these lengths; what is appended to it becomes theirs."""
        first = len(self.lengths)
        assert first + len(lengths) <= self.max_rows, "whoever adds rows asks for room first"
        self.lengths += lengths
        rows = slice(first, len(self.lengths))
        return KVCache.over(self.keys_LRKSC[:, rows], self.values_LRKSC[:, rows])

    def remove(self, row: int) -> None:
        """The last row moves to its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            self._both[:, :, row, :, :length] = self._both[:, :, last, :, :length]
            self.lengths[row] = length
        self.lengths.pop()

    def clear(self, row: int) -> None:
        """Zeros in every place of a row that is about to go, because what it holds is not finite."""
        self._both[:, :, row] = 0
