"""The clock of a step: parts that share the time without gap or overlap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.timings import PARTS, MicrobatchClock, StepClock, exchange_s


class Time:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def test_parts_end_where_others_begin():
    time = Time()
    clock = StepClock(time)
    time.s += 1  # nobody's: compute
    with clock.part("data"):
        time.s += 2
    with clock.part("tracking"):
        time.s += 4
        with clock.part("checkpoint"):
            time.s += 8
        time.s += 16
    time.s += 32
    assert clock.step_s() == 1 + 2 + 32
    assert clock.lap() == {
        "data_s": 2,
        "compute_s": 33,
        "communication_s": 0,
        "evaluation_s": 0,
        "checkpoint_s": 8,
        "tracking_s": 20,
        "step_s": 63,
    }
    time.s += 0.5
    assert clock.lap()["step_s"] == 0.5


def test_a_part_that_fails_ends_too():
    time = Time()
    clock = StepClock(time)
    with pytest.raises(KeyError), clock.part("data"):
        time.s += 1
        raise KeyError
    time.s += 2
    assert (clock.lap()["data_s"], clock.step_s()) == (1, 0)


@pytest.mark.parametrize(("moved", "expected"), [(-1, 0), (0, 0), (2, 2), (3, 3), (4, 3)])
def test_no_more_is_rebooked_than_there_is(moved: float, expected: float):
    time = Time()
    clock = StepClock(time)
    time.s += 3
    clock.rebook(moved, source="compute", to="communication")
    times_s = clock.lap()
    assert (times_s["communication_s"], times_s["compute_s"]) == (expected, 3 - expected)


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(PARTS), st.integers(0, 9)), max_size=20))
def test_the_parts_add_up(visits):
    time = Time()
    clock = StepClock(time)
    for outer, inner, seconds in visits:
        with clock.part(outer):
            time.s += seconds
            with clock.part(inner):
                time.s += 1
        clock.rebook(seconds, source=outer, to=inner)
    times_s = clock.lap()
    assert times_s["step_s"] == time.s - 100 == sum(times_s[f"{part}_s"] for part in PARTS)


def test_microbatches_between_marks():
    clock = MicrobatchClock(torch.device("cpu"))
    assert clock.seconds() == []
    for _ in range(4):
        clock.mark()
    assert len(clock.seconds()) == 3 and min(clock.seconds()) >= 0


@pytest.mark.parametrize(
    ("microbatches_s", "expected"), [([], 0), ([5], 0), ([1, 3], 2), ([3, 1], 0), ([1, 9, 2, 5], 3)]
)
def test_the_exchange_is_what_the_last_takes_longer(microbatches_s: list[float], expected: float):
    assert exchange_s(microbatches_s) == expected
