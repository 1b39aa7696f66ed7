from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.schedule import WarmupCosine, warmup_tokens


def test_boundaries_are_exact() -> None:
    schedule = WarmupCosine(total_tokens=1_100, peak=0.003, warmup_tokens=100, floor_fraction=0.1)
    assert schedule.learning_rate(0) == 0.0
    assert schedule.learning_rate(50) == 0.0015
    assert schedule.learning_rate(99) == pytest.approx(0.003 * 0.99, rel=1e-12)
    assert schedule.learning_rate(100) == 0.003
    assert 0 < 0.003 - schedule.learning_rate(101) < 1e-7
    assert schedule.learning_rate(600) == pytest.approx((0.003 + 0.0003) / 2, rel=1e-12)
    assert schedule.learning_rate(350) == pytest.approx(0.0003 + 0.0027 * (1 + math.sqrt(0.5)) / 2, rel=1e-12)
    assert 0 < schedule.learning_rate(1_099) - 0.003 * 0.1 < 1e-7
    assert schedule.learning_rate(1_100) == 0.003 * 0.1
    assert schedule.learning_rate(5_000) == 0.003 * 0.1


def test_no_warmup_starts_at_the_peak() -> None:
    assert WarmupCosine(total_tokens=100, peak=0.5, warmup_tokens=0).learning_rate(0) == 0.5


def test_the_floor_is_a_tenth_unless_told() -> None:
    assert WarmupCosine(total_tokens=500, peak=0.01, warmup_tokens=20).learning_rate(500) == 0.01 * 0.1


@given(
    total=st.integers(2, 10**13),
    warmup_fraction=st.floats(0, 0.99),
    floor_fraction=st.floats(0, 1),
    data=st.data(),
)
def test_rises_then_falls_within_bounds(
    total: int, warmup_fraction: float, floor_fraction: float, data: st.DataObject
) -> None:
    warmup = int(total * warmup_fraction)
    assume(warmup < total)
    schedule = WarmupCosine(total_tokens=total, peak=1.0, warmup_tokens=warmup, floor_fraction=floor_fraction)
    first, second = sorted(data.draw(st.tuples(st.integers(0, 2 * total), st.integers(0, 2 * total))))
    early, late = schedule.learning_rate(first), schedule.learning_rate(second)
    assert 0 <= early <= 1 + 1e-12
    if second <= warmup:
        assert early <= late
    if first >= warmup:
        assert late <= early + 1e-12
        assert late >= floor_fraction - 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup_tokens": 100}, "warmup_tokens is 100; it must be at least 0 and below the run's 100"),
        ({"warmup_tokens": -1}, "warmup_tokens is -1"),
        ({"total_tokens": 0}, "total_tokens is 0"),
        ({"peak": 0.0}, "peak learning rate is 0.0"),
        ({"peak": float("nan")}, "peak learning rate is nan"),
        ({"floor_fraction": 1.01}, "floor_fraction is 1.01"),
        ({"floor_fraction": -0.01}, "floor_fraction is -0.01"),
    ],
)
def test_misuse_is_refused(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"total_tokens": 100, "peak": 0.1, "warmup_tokens": 99, "floor_fraction": 1.0}
    WarmupCosine(**values)
    with pytest.raises(ValueError, match=message):
        WarmupCosine(**(values | change))


def test_negative_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens_seen is -1"):
        WarmupCosine(total_tokens=100, peak=0.1, warmup_tokens=10).learning_rate(-1)


def test_warmup_is_a_fraction_of_long_runs_and_steps_of_short_ones() -> None:
    assert warmup_tokens(1_000_000, 10, fraction=0.01, min_steps=100) == 10_000
    assert warmup_tokens(1_000_000, 100, fraction=0.01, min_steps=100) == 10_000  # 100 steps are as long
    assert warmup_tokens(1_000_000, 101, fraction=0.01, min_steps=100) == 10_100
    assert warmup_tokens(1_000_000, 10_000, fraction=0.01, min_steps=100) == 200_000  # a fifth, not the whole
    assert warmup_tokens(1_000_000, 10, fraction=0.0, min_steps=0) == 0
    assert warmup_tokens(1_000_000, 10) == 10_000


@given(total=st.integers(1, 10**13), per_step=st.integers(1, 10**7), fraction=st.floats(0, 0.2))
def test_any_warmup_fits_its_schedule(total: int, per_step: int, fraction: float) -> None:
    WarmupCosine(total_tokens=total, peak=1.0, warmup_tokens=warmup_tokens(total, per_step, fraction))


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (10, 1, 0.21), (10, 1, -0.01), (10, 1, 0.1, -1)])
def test_impossible_warmups_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        warmup_tokens(*arguments)
