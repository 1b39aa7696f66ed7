"""What each policy does with a step, and where it ends."""

import math
from typing import get_args

import pytest

from tasks.spikes import Policy, SpikeRule
from tasks.training.job import TrainingDivergedError
from tasks.training.watch import MAX_NOT_TAKEN_STEPS, MAX_ROLLBACKS, SpikeWatch

CALM, SPIKE, BROKEN = (2.0, 1.0), (9.0, 1.0), (math.nan, 1.0)


def watch(policy: Policy) -> SpikeWatch:
    """With a short history of calm steps."""
    seen = SpikeWatch(SpikeRule(policy=policy, window_steps=16, min_history_steps=8))
    for step in range(1, 9):
        assert seen.judge(step, *CALM).action == "take"
    return seen


@pytest.mark.parametrize(
    ("policy", "spike", "broken"),
    [("alert", "take", "end"), ("skip", "leave_out", "leave_out"), ("rollback", "roll_back", "roll_back")],
)
def test_policies(policy: Policy, spike: str, broken: str):
    assert (watch(policy).judge(9, *CALM).action, watch(policy).judge(9, *CALM).spike) == ("take", None)
    verdict = watch(policy).judge(9, *SPIKE)
    assert verdict.action == spike
    assert verdict.spike is not None and verdict.spike.reasons == ("loss",)
    assert watch(policy).judge(9, *BROKEN).action == broken
    assert watch(policy).judge(9, 2.0, math.inf).action == broken


def test_skipping_ends_after_so_many_in_a_row():
    seen = watch("skip")
    actions = [seen.judge(step, *BROKEN).action for step in range(9, 9 + MAX_NOT_TAKEN_STEPS + 1)]
    assert actions == ["leave_out"] * MAX_NOT_TAKEN_STEPS + ["end"]
    assert MAX_NOT_TAKEN_STEPS + 1 == 10


def test_a_step_that_is_taken_breaks_the_row():
    seen = watch("skip")
    for step in range(9, 60):
        assert seen.judge(step, *(CALM if step % 9 == 0 else BROKEN)).action != "end"


@pytest.mark.parametrize("policy", get_args(Policy))
def test_a_broken_evaluation(policy: Policy):
    assert watch(policy).judge_evaluation(1.5) == "take"
    expected = "roll_back" if policy == "rollback" else "end"
    assert [watch(policy).judge_evaluation(value) for value in (math.nan, math.inf)] == [expected] * 2


def test_the_third_rollback_from_one_place_ends_the_run():
    seen = watch("rollback")
    for _ in range(MAX_ROLLBACKS):
        seen.count_rollback(6)
    seen.count_rollback(12)
    with pytest.raises(TrainingDivergedError, match=r"went back to step 6 2 times.*met another spike"):
        seen.count_rollback(6)


def test_the_way_on_is_never_what_has_just_ended_the_run():
    for policy in ("alert", "rollback"):
        assert "resume it with spikes.policy=skip, or start a run with a lower" in watch(policy).way_on
    assert watch("skip").way_on == "start a run with a lower learning_rate"


def test_a_restored_watch_goes_on_as_the_first_would():
    first, second = watch("skip"), SpikeWatch(watch("skip").rule)
    for step in range(9, 14):
        first.judge(step, *BROKEN)
    second.restore(first.state())
    later = [(step, *(BROKEN if step < 20 else CALM)) for step in range(14, 24)]
    assert [first.judge(*each) for each in later] == [second.judge(*each) for each in later]
    second.restore(None)
    assert second.judge(24, *SPIKE).spike is None  # nothing to compare with
