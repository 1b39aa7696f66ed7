"""The shared batch: texts that are continued together, whenever each of them came and however long it is.

Most of a step is reading the weights, which costs the same for one row as for eight. So rows join at any step, leave at
any step, and nobody waits for anybody (continuous batching; Yu et al. 2022, "Orca"). What a row says depends on its
prompt, its sampling and its seed, not on who shares the batch, but for the rounding of a product over more rows.

Shapes: B prompts, T longest of them, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.decode_step import DecodeStep
from model.decoder import Decoder
from model.kv_cache import RowCache
from model.sampling import Sampler, Sampling, draw_rows

Ended = Literal["", "stop", "length"]

PADDED_SHARE = 1.25
"""Prompts are read together while padding makes them at most so much longer; beyond it costs more than it saves."""

PADDED_TOKENS = 64
"""Or while they have no more tokens than this: so few cost what the weights cost to read."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One row's next token. `ended`: "stop" before the end token, and `token` is None; "length" with its last token."""

    row_id: int
    token: int | None
    ended: Ended = ""


class RowError(ValueError):
    """A row that could not be continued; it has left the batch, and the others have not."""

    def __init__(self, row_id: int, message: str) -> None:
        super().__init__(message)
        self.row_id = row_id


class _Row:
    """One text of the batch."""

    def __init__(self, row_id: int, prompt_tokens: Sequence[int], sampling: Sampling) -> None:
        self.id = row_id
        self.sampler = Sampler(sampling, prompt_tokens)
        self.prompt_tokens = list(prompt_tokens)
        self.num_left = sampling.max_new_tokens
        self.last_token = -1  # set by its first draw


class Generation:
    """Up to `max_rows` texts that one model continues. One thread at a time may use it.

    A row has room for `max_positions` tokens, prompt and continuation (None: as many as the model takes), and memory
    for all rows is taken at once. A row ends before `eos_id`. `num_tokens` is the tokenizer's vocabulary: padding rows
    beyond it have no text and are never drawn. Raises ValueError for sizes that the model does not have.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Decoder,
        *,
        max_rows: int,
        eos_id: int | None,
        num_tokens: int | None = None,
        max_positions: int | None = None,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows is {max_rows}; it must be at least 1")
        self._num_drawable = model.config.vocab_size if num_tokens is None else num_tokens
        if not 0 < self._num_drawable <= model.config.vocab_size:
            raise ValueError(f"num_tokens is {num_tokens}; the model's vocabulary has {model.config.vocab_size}")
        weight = model.embedding.weight
        self._model, self._eos_id = model, eos_id
        self._cache = RowCache(
            model.config, max_rows=max_rows, max_len=max_positions, device=weight.device, dtype=weight.dtype
        )
        self._decode = DecodeStep(model, self._cache)
        self._rows: list[_Row] = []  # in the cache's order
        self._waiting: list[_Row] = []  # whose prompt was not read yet
        self._failed: list[RowError] = []
        self._held: list[Drawn] = []  # drawn in a step that had to tell of a failed row
        self._row_ids = itertools.count()

    @property
    def num_rows(self) -> int:
        """Rows of which a step has something to tell yet."""
        ended = sum(bool(drawn.ended) for drawn in self._held)
        return len(self._rows) + len(self._waiting) + len(self._failed) + ended

    @property
    def num_free(self) -> int:
        """Rows that can be added now."""
        return self._cache.max_rows - len(self._rows) - len(self._waiting)

    def check(self, prompt_tokens: Sequence[int], sampling: Sampling) -> None:
        """Raise ValueError where such a row cannot be, however empty the batch is."""
        if not prompt_tokens:
            raise ValueError("the prompt is empty; start it with at least one token, such as the end-of-text token")
        if outside := [token for token in prompt_tokens if not 0 <= token < self._num_drawable]:
            raise ValueError(
                f"the prompt holds token {outside[0]} of a vocabulary of {self._num_drawable}; "
                f"was it encoded with this model's tokenizer?"
            )
        if len(prompt_tokens) + sampling.max_new_tokens > self._cache.max_len:
            whose = "the model's" if self._cache.max_len == self._model.config.max_seq_len else "a row's"
            raise ValueError(
                f"a prompt of {len(prompt_tokens)} tokens and {sampling.max_new_tokens} new ones exceed {whose} "
                f"{self._cache.max_len} positions; shorten the prompt or ask for fewer tokens"
            )

    def add(self, prompt_tokens: Sequence[int], sampling: Sampling) -> int:
        """The id of a new row, which gets its first token with the next step. ValueError as `check`, or if full."""
        self.check(prompt_tokens, sampling)
        if not self.num_free:
            raise ValueError(f"all {self._cache.max_rows} rows are in use; wait until one has ended")
        row = _Row(next(self._row_ids), prompt_tokens, sampling)
        self._waiting.append(row)
        return row.id

    @torch.inference_mode()
    def remove(self, row_id: int) -> None:
        """Nobody waits for this row any more; nothing happens where it has ended already."""
        self._waiting = [row for row in self._waiting if row.id != row_id]
        self._held = [drawn for drawn in self._held if drawn.row_id != row_id]
        self._failed = [error for error in self._failed if error.row_id != row_id]
        for place, row in enumerate(self._rows):
            if row.id == row_id:
                self._leave(place)
                return

    @torch.inference_mode()
    def step(self) -> list[Drawn]:
        """One token for each row; rows that were added are read first. A row that has ended is gone.

        Raises RowError, which is a ValueError, for a row whose logits are not finite. The others lose nothing: call
        again, and their tokens of this step come.
        """
        if not self._failed and not self._held:
            drawn = self._continued() + self._begun()
            if not self._failed:
                return drawn
            self._held = drawn
        if self._failed:
            raise self._failed.pop(0)
        drawn, self._held = self._held, []
        return drawn

    def _continued(self) -> list[Drawn]:
        """A token for each row whose prompt was read in an earlier step."""
        if not self._rows:
            return []
        return self._drawn(self._decode.logits([row.last_token for row in self._rows]), 0)

    def _begun(self) -> list[Drawn]:
        """The first token of each row that waits, read in groups of like length."""
        drawn = []
        waiting, self._waiting = sorted(self._waiting, key=lambda row: len(row.prompt_tokens)), []
        while waiting:
            group = waiting[: _num_together([len(row.prompt_tokens) for row in waiting])]
            waiting = waiting[len(group) :]
            first = len(self._rows)
            self._rows += group
            drawn += self._drawn(self._read([row.prompt_tokens for row in group]), first)
        return drawn

    def _read(self, prompts: list[list[int]]) -> Tensor:
        """(B, V) after these prompts, the cache's last rows now. Padding is on the right: nobody looks there."""
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
        device = self._model.embedding.weight.device
        hidden_BTD = self._model.hidden_states(torch.tensor(padded, device=device), cache=self._cache.added(lengths))
        last_B = torch.tensor(lengths, device=device) - 1
        return self._model.logits(hidden_BTD[torch.arange(len(prompts), device=device), last_B])

    def _drawn(self, logits_BV: Tensor, first: int) -> list[Drawn]:
        """A token of each row from place `first` on; those that end leave."""
        rows = self._rows[first:]
        tokens = draw_rows(logits_BV[:, : self._num_drawable], [row.sampler for row in rows])
        drawn = []
        for place, (row, token) in reversed(list(enumerate(zip(rows, tokens, strict=True), first))):
            if token is None:
                message = "the model's logits are not finite: its training diverged; take an earlier checkpoint"
                self._failed.insert(0, RowError(row.id, message))
                self._cache.clear(place)
                self._leave(place)
                continue
            row.last_token = token
            row.num_left -= 1
            if token == self._eos_id:
                drawn.append(Drawn(row.id, None, "stop"))
                self._leave(place)
            elif not row.num_left:
                drawn.append(Drawn(row.id, token, "length"))
                self._leave(place)
            else:
                drawn.append(Drawn(row.id, token))
        return drawn[::-1]

    def _leave(self, place: int) -> None:
        """The last row takes this place, here as in the cache."""
        self._cache.remove(place)
        last = self._rows.pop()
        if place < len(self._rows):
            self._rows[place] = last


def _num_together(lengths: Sequence[int]) -> int:
    """How many of the first, given in rising order of length, are read together."""
    num, num_real = 1, lengths[0]
    for length in lengths[1:]:
        num_real += length
        if (num + 1) * length > max(PADDED_TOKENS, PADDED_SHARE * num_real):
            break
        num += 1
    return num
