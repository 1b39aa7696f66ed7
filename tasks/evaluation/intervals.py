"""How far a score may be from what it would be on all examples of the kind: its 95 % interval.

An evaluation asks some of the questions that could be asked. Shares of right answers get the exact interval of Clopper
and Pearson. Everything else here is a ratio of sums over examples (a mean is one, with ones below): code length over
bytes, log-likelihood over words. Its interval comes from the examples drawn again, with replacement (Efron and
Tibshirani 1993), as percentiles. Those are too narrow for few examples, so they are taken further out, as far as
Student's t would be beyond the normal distribution (Hesterberg 2015, "What teachers should know about the bootstrap",
expanded percentile interval).

The mean of several scores gets its interval from theirs, by the method of variance estimates recovery (Zou and Donner
2008): no example is asked twice, a task on which every answer was wrong keeps the width that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.classifiers.proportion import Estimate, proportion

FloatArray = npt.NDArray[np.float64]
ExampleSums = tuple[FloatArray, FloatArray]
"""Numerator and denominator of each example."""
Ratios = Any
"""One ratio, or an array of one each resample: what applies to both."""

NUM_RESAMPLES = 2000
MIN_EXAMPLES = 8
"""Below which resamples say nothing: of 7 examples the expanded percentiles are all but the extremes of what can be
drawn. The interval is then everything, from -inf to inf."""
_MAX_DRAWS = 4_000_000  # at a time: some 64 MB


def unchanged(ratio: Ratios) -> Ratios:
    """A ratio itself as the figure."""
    return ratio


def ratio_estimate(sums: ExampleSums, figure: Callable[[Ratios], Ratios] = unchanged, *, seed: int = 0) -> Estimate:
    """`figure` of the sum of numerators over the sum of denominators, one of each an example.

    No number where a value is none; from -inf to inf where there are fewer than `MIN_EXAMPLES`. Raises ValueError where
    there is no example.
    """
    return _bootstrapped(np.stack(sums), lambda total: figure(total[0] / total[1]), seed)


def ratio_difference(
    ours: ExampleSums, theirs: ExampleSums, figure: Callable[[Ratios], Ratios] = unchanged, *, seed: int = 0
) -> Estimate:
    """The difference of two such figures of the same examples in the same order: a resample is drawn for both."""
    rows = np.stack([*ours, *theirs])
    return _bootstrapped(rows, lambda total: figure(total[0] / total[1]) - figure(total[2] / total[3]), seed)


def share_estimate(right: npt.NDArray[np.bool_]) -> Estimate:
    """The share of right answers. Raises ValueError where nothing was asked."""
    share = proportion(int(right.sum()), len(right))
    return Estimate(share.fraction, share.low, share.high)


def share_difference(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> Estimate:
    """The difference of two shares of right answers to the same questions, in the same order.

    It is d (2 q - 1), where d is the share of questions that only one of the two got right, and q how often that one is
    ours. Both get the interval of Clopper and Pearson, and the product's ends are the furthest they allow. 0 is outside
    exactly when McNemar's exact test (two-sided, 5 %) tells the two apart: when q's interval leaves out 1/2.
    """
    if not len(ours):
        raise ValueError("there is no example to compare two models on; give at least one")
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    discordant = only_ours + only_theirs
    split = proportion(discordant, len(ours))
    low, high = -1.0, 1.0
    if discordant:
        lead = proportion(only_ours, discordant)
        low, high = 2 * lead.low - 1, 2 * lead.high - 1
    return Estimate(
        (only_ours - only_theirs) / len(ours),
        low * (split.high if low < 0 else split.low),
        high * (split.high if high > 0 else split.low),
    )


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of scores on different examples, each with its interval."""
    assert estimates
    num = len(estimates)
    value = math.fsum(each.value for each in estimates) / num
    return Estimate(
        value,
        value - math.hypot(*(each.value - each.low for each in estimates)) / num,
        value + math.hypot(*(each.high - each.value for each in estimates)) / num,
    )


def _bootstrapped(rows: FloatArray, figure: Callable[[FloatArray], Ratios], seed: int) -> Estimate:
    """`figure` of the rows' sums, on the examples (columns) and on resamples of them."""
    num_examples = rows.shape[1]
    if not num_examples:
        raise ValueError("there is no example to draw an interval from; give at least one")
    with np.errstate(over="ignore", invalid="ignore"):  # a perplexity beyond the largest float is infinite
        value = float(figure(rows.sum(axis=1)))
        if not math.isfinite(value):
            return Estimate(value, math.nan, math.nan)
        if num_examples < MIN_EXAMPLES:
            return Estimate(value, -math.inf, math.inf)
        resampled = figure(_resampled_sums(rows, seed))
        outside = _expanded_fraction(num_examples)
        low, high = np.quantile(resampled, [outside, 1 - outside])
    return Estimate(value, float(low), float(high))


def _resampled_sums(rows: FloatArray, seed: int) -> FloatArray:
    """Sums of each row on each resample: (rows, resamples). Examples that are alike are drawn as one, by their number.

    How often n draws from n examples hit each group of equal ones is multinomial.
    """
    groups, counts = np.unique(rows, axis=1, return_counts=True)
    num_examples, num_groups = rows.shape[1], groups.shape[1]
    draw = np.random.default_rng(seed)
    at_a_time = max(1, _MAX_DRAWS // num_groups)
    sums = []
    for first in range(0, NUM_RESAMPLES, at_a_time):
        size = min(at_a_time, NUM_RESAMPLES - first)
        sums.append(groups @ draw.multinomial(num_examples, counts / num_examples, size=size).T)
    return np.concatenate(sums, axis=1)


def _expanded_fraction(num_examples: int) -> float:
    """The share of resamples outside each end: Phi(-sqrt(n / (n - 1)) t), with t of n - 1 degrees of freedom."""
    from scipy.stats import norm, t

    return float(norm.cdf(math.sqrt(num_examples / (num_examples - 1)) * t.ppf(0.025, num_examples - 1)))
