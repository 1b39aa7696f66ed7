"""Resamples: what is drawn, and figures on them against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tasks.classifiers.bootstrap import (
    NUM_RESAMPLES,
    percentile_interval,
    resampled_average_precisions,
    resampled_counts,
    resampled_fractions,
)

LABELS = np.array([True, False, False, True, False, False, True, False])


def test_every_resample_has_as_many_of_each_class() -> None:
    counts = np.concatenate(list(resampled_counts(LABELS, seed=3)))
    assert counts.shape == (NUM_RESAMPLES, 8)
    assert set(counts[:, LABELS].sum(axis=1)) == {3}
    assert set(counts[:, ~LABELS].sum(axis=1)) == {5}
    # Each text is expected once, with a deviation of sqrt((1 - 1/n) / 2000) < .022.
    assert counts.mean(axis=0) == pytest.approx(np.ones(8), abs=0.1)
    assert counts.max() > 2


def test_the_seed_decides() -> None:
    first, again, other = (np.concatenate(list(resampled_counts(LABELS, seed))) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_many_texts_are_drawn_a_few_resamples_at_a_time() -> None:
    labels = np.arange(300_000) % 3 == 0
    parts = resampled_counts(labels, seed=0)
    first = next(parts)
    assert first.shape == (6, 300_000)
    assert (first[:, labels].sum(axis=1) == 100_000).all()


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.0, 0.2, 0.2, 0.5, 0.7, 1.0]), min_size=8, max_size=8))
def test_average_precision_is_scikit_learns_with_the_counts_as_weights(listed: list[float]) -> None:
    scores = np.array(listed)
    ours = resampled_average_precisions(LABELS, [scores, 1 - scores], seed=5)
    counts = np.concatenate(list(resampled_counts(LABELS, seed=5)))
    for place in range(0, NUM_RESAMPLES, 250):
        for row, each in enumerate((scores, 1 - scores)):
            expected = average_precision_score(LABELS, each, sample_weight=counts[place])
            assert ours[row, place] == pytest.approx(expected, abs=1e-12)


def test_the_mean_of_a_coin_has_its_standard_error() -> None:
    values = np.array([0.0, 1.0] * 200)
    means = resampled_fractions(values, seed=0)
    assert means.mean() == pytest.approx(0.5, abs=0.003)
    assert means.std() == pytest.approx(0.5 / 20, rel=0.1)
    interval = percentile_interval(0.5, means)
    assert (interval.low, interval.high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)
