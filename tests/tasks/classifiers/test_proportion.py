"""Shares with their exact intervals, against scipy's beta distribution and values of the literature."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from tasks.classifiers.proportion import Estimate, proportion


@settings(max_examples=60)
@given(st.integers(1, 20_000).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_the_interval_is_clopper_and_pearsons(hits_and_trials: tuple[int, int]) -> None:
    hits, trials = hits_and_trials
    share = proportion(hits, trials)
    low = beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-9)
    assert share.low <= share.fraction == hits / trials <= share.high


def test_none_of_ten() -> None:
    """Worked by hand: (1 - high) ** 10 = .025."""
    share = proportion(0, 10)
    assert (share.low, share.high) == (0.0, pytest.approx(1 - 0.025**0.1, abs=1e-12))
    assert str(share) == "0.00 % (0.00 % to 30.85 %; 0 of 10)"


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        proportion(0, 0)


def test_an_estimate_is_read_with_its_interval() -> None:
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
