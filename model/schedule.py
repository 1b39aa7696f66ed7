"""The learning rate as a pure function of the tokens seen: a resumed run needs no schedule state."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_WARMUP_FRACTION = 0.2
"""A run too short for the least number of warmup steps warms up for this part of it and no longer (our choice)."""


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warmup from 0 to the peak, then a cosine to `floor_fraction` of it (Chinchilla, Hoffmann et al. 2022).

    Raises ValueError for a warmup that does not end before the run does, and for figures out of bounds.
    """

    total_tokens: int
    peak: float
    warmup_tokens: int
    floor_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.total_tokens < 1:
            raise ValueError(f"total_tokens is {self.total_tokens}; it must be at least 1")
        if not 0 <= self.warmup_tokens < self.total_tokens:
            raise ValueError(
                f"warmup_tokens is {self.warmup_tokens}; it must be at least 0 and below the run's {self.total_tokens}"
            )
        if not self.peak > 0:
            raise ValueError(f"the peak learning rate is {self.peak}; it must be greater than 0")
        if not 0 <= self.floor_fraction <= 1:
            raise ValueError(f"floor_fraction is {self.floor_fraction}; it must be from 0 to 1")

    def learning_rate(self, tokens_seen: int) -> float:
        """Exactly 0 at 0 tokens, the peak at `warmup_tokens`, the floor at `total_tokens` and after.

        A step should ask with its own tokens counted as seen, or the first one would train with a rate of 0.
        """
        if tokens_seen < 0:
            raise ValueError(f"tokens_seen is {tokens_seen}; it must be at least 0")
        if tokens_seen < self.warmup_tokens:
            return self.peak * tokens_seen / self.warmup_tokens
        floor = self.peak * self.floor_fraction
        if tokens_seen >= self.total_tokens:
            return floor
        progress = (tokens_seen - self.warmup_tokens) / (self.total_tokens - self.warmup_tokens)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.peak * cosine + floor * (1 - cosine)


def warmup_tokens(total_tokens: int, tokens_per_step: int, fraction: float = 0.01, min_steps: int = 100) -> int:
    """Tokens of warmup: `fraction` of the run, at least `min_steps` steps, at most `MAX_WARMUP_FRACTION` of the run.

    1-2 % is usual in long runs; in tiny ones the fraction alone would be a handful of steps, in which Adam's second
    moment has not settled.
    """
    if total_tokens < 1 or tokens_per_step < 1:
        raise ValueError(f"{total_tokens} tokens in steps of {tokens_per_step}; both must be at least 1")
    if not 0 <= fraction <= MAX_WARMUP_FRACTION or min_steps < 0:
        raise ValueError(
            f"a warmup of {fraction} of the run and at least {min_steps} steps; "
            f"choose a fraction from 0 to {MAX_WARMUP_FRACTION} and at least 0 steps"
        )
    wanted = max(round(fraction * total_tokens), min_steps * tokens_per_step)
    return min(wanted, int(MAX_WARMUP_FRACTION * total_tokens))
