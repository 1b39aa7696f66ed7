"""Which token comes next: how a row of logits becomes one token id.

Shapes: N rows, V vocabulary (that part of it which may be drawn).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REPETITION_PENALTIES = (0.01, 100.0)
"""The lowest and the highest: beyond, the logits of fp32 overflow and a draw has no probabilities to go by."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What one continuation is drawn with. Raises ValueError for figures out of bounds.

    A temperature of 0 takes the most probable token. Otherwise: divide logits by the temperature, keep the `top_k` most
    probable (Fan et al. 2018), of those the fewest that reach the probability `top_p` (Holtzman et al. 2020), and draw.
    Before all that the logit of every token that the prompt or the continuation holds is divided by
    `repetition_penalty` where it is positive and multiplied with it where it is not (CTRL, Keskar et al. 2019).
    """

    max_new_tokens: int
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (most probable token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or None for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1, or None for all tokens")
        low, high = REPETITION_PENALTIES
        if not low <= self.repetition_penalty <= high:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty}; it must be from {low} to {high} (1 leaves logits as"
                " they are)"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must be at least 0 and below 2^64")


class Sampler:
    """The draws of one row. Its random numbers depend on its own seed alone, one number a token.

    They come from the CPU, so that a seed means the same numbers on every device. torch's generator takes the lower 32
    bits of a seed: those that differ above draw the same.
    """

    def __init__(self, sampling: Sampling, prompt_tokens: Sequence[int]) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._penalised = torch.tensor(sorted(set(prompt_tokens)) if sampling.repetition_penalty != 1.0 else [])
        self._penalised = self._penalised.long()

    @property
    def takes_greatest(self) -> bool:
        """Whether its token is the greatest logit as it is."""
        return self.sampling.temperature == 0 and self.sampling.repetition_penalty == 1.0

    def draw(self, logits_V: Tensor) -> int:
        """One token id, from finite logits in the CPU's memory."""
        token = self._drawn(self._with_penalty(logits_V))
        if self.sampling.repetition_penalty != 1.0:
            self._penalised = torch.cat((self._penalised, torch.tensor([token])))
        return token

    def _with_penalty(self, logits_V: Tensor) -> Tensor:
        penalty = self.sampling.repetition_penalty
        if penalty == 1.0:
            return logits_V
        # a token that is there twice gets the same value twice
        held = logits_V[self._penalised]
        return logits_V.index_copy(0, self._penalised, torch.where(held < 0, held * penalty, held / penalty))

    def _drawn(self, logits_V: Tensor) -> int:
        sampling, num_tokens = self.sampling, len(logits_V)
        if sampling.temperature == 0:
            return int(logits_V.argmax())
        # in float64 and with the greatest at 0, so that a tiny temperature gives one certain token rather than NaN
        if sampling.top_k is None or sampling.top_k >= num_tokens:
            probabilities = ((logits_V.double() - logits_V.max()) / sampling.temperature).softmax(-1)
            if sampling.top_p is None:
                return self._one_of(probabilities)
            probabilities, token_ids = _greatest(probabilities, sampling.top_p)
        else:
            greatest, token_ids = logits_V.topk(sampling.top_k)
            probabilities = ((greatest.double() - greatest[0]) / sampling.temperature).softmax(-1)
        if sampling.top_p is not None:
            # a token stays while those before it have not yet reached top_p; the first one always does
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities * (before < sampling.top_p)
        return int(token_ids[self._one_of(probabilities)])

    def _one_of(self, weights: Tensor) -> int:
        """An index, drawn by weight: where a uniform number falls in the running sum."""
        running = weights.cumsum(-1)
        uniform = torch.rand(1, dtype=torch.float64, generator=self._generator)
        place = torch.searchsorted(running, uniform * running[-1], right=True)
        return min(int(place), len(weights) - 1)  # the product may round up to the whole sum


def _greatest(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The greatest, falling, and their ids: at least as many as reach `top_p`; all are sorted only at the last."""
    num_taken = 1_024
    while num_taken < len(probabilities):
        greatest, ids = probabilities.topk(num_taken)
        if float(greatest.sum()) >= top_p:
            return greatest, ids
        num_taken *= 8
    greatest, ids = probabilities.sort(descending=True)
    return greatest, ids


def draw_rows(logits_NV: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """A token for each row; None where its logits are not finite."""
    # one pass: the greatest magnitude of a row is not finite if and only if one of its logits is not
    finite = torch.linalg.vector_norm(logits_NV, ord=float("inf"), dim=-1).isfinite().tolist()
    greatest: list[int] = []
    if any(sampler.takes_greatest for sampler in samplers):
        greatest = logits_NV.argmax(-1).tolist()
    if not all(sampler.takes_greatest for sampler in samplers):
        logits_NV = logits_NV.cpu()
    tokens: list[int | None] = []
    for row, sampler in enumerate(samplers):
        if not finite[row]:
            tokens.append(None)
        else:
            tokens.append(greatest[row] if sampler.takes_greatest else sampler.draw(logits_NV[row]))
    return tokens
