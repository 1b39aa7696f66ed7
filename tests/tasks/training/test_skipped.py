"""Batches left out: every step has one of its own, in order, and none that was skipped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.skipped import batch_of, num_skipped, with_window


def test_without_windows_a_step_has_the_batch_before_its_number():
    assert [batch_of(step, ()) for step in (1, 2, 1000)] == [0, 1, 999]


@pytest.mark.parametrize(("step", "batch"), [(3, 2), (4, 6), (5, 7), (7, 9), (8, 12)])
def test_steps_move_on_by_what_was_left_out(step: int, batch: int):
    assert batch_of(step, ((3, 5), (10, 11))) == batch


def test_windows_that_touch_become_one():
    assert with_window((), 3, 5) == ((3, 5),)
    assert with_window(((3, 5),), 6, 8) == ((3, 8),)
    assert with_window(((3, 5),), 7, 8) == ((3, 5), (7, 8))
    assert with_window(((3, 5), (7, 8)), 6, 6) == ((3, 8),)
    assert with_window(((3, 9),), 4, 5) == ((3, 9),)


@given(
    windows=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=6),
    num_steps=st.integers(1, 60),
)
def test_every_batch_is_trained_on_or_skipped_once(windows: list[tuple[int, int]], num_steps: int):
    skipped: tuple[tuple[int, int], ...] = ()
    for first, more in windows:
        skipped = with_window(skipped, first, first + more)
    left_out = {batch for first, last in skipped for batch in range(first, last + 1)}
    assert num_skipped(skipped) == len(left_out)
    trained = [batch_of(step, skipped) for step in range(1, num_steps + 1)]
    assert trained == sorted(set(trained))
    assert set(range(trained[-1] + 1)) - set(trained) == {batch for batch in left_out if batch <= trained[-1]}
    assert not left_out & set(trained)
