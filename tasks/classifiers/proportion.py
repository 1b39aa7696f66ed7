"""Shares and other figures with their 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Proportion:
    """`num_hits` of `num_trials`, as a fraction with the exact interval of Clopper and Pearson (1934), 95 %."""

    num_hits: int
    num_trials: int
    fraction: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{percent(self.fraction)} ({percent(self.low)} to {percent(self.high)};"
            f" {self.num_hits:,} of {self.num_trials:,})"
        )


def proportion(num_hits: int, num_trials: int) -> Proportion:
    """The share of hits. Raises ValueError where there was no trial: a share of nothing is no number."""
    if num_trials < 1:
        raise ValueError("there is no text to measure a share of; give at least one")
    assert 0 <= num_hits <= num_trials, (num_hits, num_trials)
    from scipy.stats import binomtest

    interval = binomtest(num_hits, num_trials).proportion_ci(confidence_level=0.95, method="exact")
    return Proportion(num_hits, num_trials, num_hits / num_trials, float(interval.low), float(interval.high))


def percent(fraction: float) -> str:
    """A fraction as people read it, to a hundredth of a per cent."""
    return f"{100 * fraction:.2f} %"
