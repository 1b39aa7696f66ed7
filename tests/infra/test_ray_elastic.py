"""What the policies decide, without a cluster; tests/faults/test_elastic_training.py shows them at work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from infra.ray_elastic import MAX_FRUITLESS_FAILURES, WORKERS_FILE, FittingSizes, GoesOn, ResizeError, RunFiles

LOST = WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: 1", failure=ActorDiedError())


def failed(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("what happened", dict(enumerate(failures)))


class Policy:
    """`GoesOn` with a newest checkpoint that the test sets."""

    def __init__(self, run_dir: Path) -> None:
        self.newest: str | None = None
        self.policy = GoesOn(lambda: self.newest, RunFiles(run_dir, "attempt"))

    def goes_on(self, error: Exception) -> bool:
        return self.policy.make_decision(error) == FailureDecision.RETRY


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(tmp_path)


def test_lost_workers_are_no_end_as_long_as_there_are_checkpoints_between(policy: Policy) -> None:
    for number in range(20):
        policy.newest = f"step-{number:08d}"
        assert policy.goes_on(failed(LOST, RuntimeError("Connection closed by peer")))


def test_what_fails_at_the_same_place_ends_the_run_at_the_limit(policy: Policy) -> None:
    decisions = [policy.goes_on(failed(OSError("no space left"))) for _ in range(MAX_FRUITLESS_FAILURES)]
    assert decisions == [True] * (MAX_FRUITLESS_FAILURES - 1) + [False]


def test_one_checkpoint_more_and_the_count_begins_again(policy: Policy) -> None:
    for newest in (None, "step-00000010", "step-00000020"):
        policy.newest = newest
        assert all(policy.goes_on(failed(LOST)) for _ in range(MAX_FRUITLESS_FAILURES - 1))
    assert not policy.goes_on(failed(LOST))


@pytest.mark.parametrize(
    "failures", [(ValueError("no"),), (RuntimeError("closed"), ValueError("no")), (LOST, ValueError("no"))]
)
def test_what_the_loop_refuses_ends_the_run_at_once(policy: Policy, failures: tuple[Exception, ...]) -> None:
    assert not policy.goes_on(failed(*failures))


def test_a_change_of_the_size_is_no_failure(policy: Policy, tmp_path: Path) -> None:
    assert all(policy.goes_on(failed(ResizeError("more"))) for _ in range(2 * MAX_FRUITLESS_FAILURES))
    assert not (tmp_path / WORKERS_FILE).exists()


def test_waiting_for_the_cluster_is_no_failure_but_a_fault_of_ray_is(policy: Policy) -> None:
    late = ControllerError(WorkerGroupStartupTimeoutError(2))
    assert all(policy.goes_on(late) for _ in range(2 * MAX_FRUITLESS_FAILURES))
    assert not policy.goes_on(ControllerError(TypeError("a bug")))


def test_the_record_says_what_happened_to_which_worker(policy: Policy, tmp_path: Path) -> None:
    policy.goes_on(failed(RuntimeError("Connection closed\nby peer"), LOST))
    (row,) = [json.loads(line) for line in (tmp_path / WORKERS_FILE).read_text().splitlines()]
    assert row["event"] == "lost" and row["reasons"]["0"] == "RuntimeError: Connection closed by peer"
    assert row["reasons"]["1"].startswith("WorkerHealthCheckFailedError: A worker health check failed.")


@pytest.mark.parametrize(
    ("reserved_cpus", "chosen"),
    [([2], 1), ([4], 2), ([2, 2], 2), ([7], 2), ([8], 4), ([3, 3, 3], 2), ([99], 8), ([1], 0), ([], 0)],
)
def test_only_sizes_that_fit_are_chosen(tmp_path: Path, reserved_cpus: list[int], chosen: int) -> None:
    """Of workers with two CPUs each, none of them on two nodes."""
    config = ScalingConfig(num_workers=(1, 8), resources_per_worker={"CPU": 2})
    policy = FittingSizes(config, [1, 2, 4, 8], RunFiles(tmp_path, "attempt"))
    reserved = {f"node-{number}": {"CPU": float(cpus)} for number, cpus in enumerate(reserved_cpus)}
    assert policy._count_possible_workers(reserved) == chosen


def test_workers_stop_for_the_files_of_their_own_attempt(tmp_path: Path) -> None:
    files, others = RunFiles(tmp_path, "one"), RunFiles(tmp_path, "two")
    others.stop.touch()
    others.resize.touch()
    assert not files.should_stop()
    files.resize.touch()
    assert files.should_stop()
    files.resize.unlink()
    files.stop.touch()
    assert files.should_stop()
