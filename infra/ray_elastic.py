"""How many workers train, and what becomes of a run that loses some: Ray Train's elasticity, told what it cannot know.

Ray Train (V2) starts as many workers as fit between two bounds, starts them anew where one is lost, and looks from time
to time whether more would fit. Its policies know nothing of what the workers do, so this is added:

- The number of workers must divide the batch: between the bounds only the sizes that do are chosen.
- Before the number changes, training makes a checkpoint. Ray would end the workers in the middle of a step, and train
  all that came after the last checkpoint once more.
- What the training loop refuses (ValueError) ends the run, because it would refuse it again. A lost worker does not, as
  long as training gets on from one loss to the next.

Ray (2.60) has no public place for policies: `Trainer` hands them over where Ray hands over its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

WORKERS_FILE = "workers.jsonl"
MAX_FRUITLESS_FAILURES = 3
"""So many failures in a row without a new checkpoint between them end a run: the next would come to the same."""
_REASON_CHARS = 300


class ResizeError(RuntimeError):
    """How a worker ends that made a checkpoint so that training can go on with another number of workers."""


@dataclass(frozen=True)
class RunFiles:
    """The files by which driver, controller and workers of one attempt speak: Ray cannot reach a loop that runs."""

    run_dir: Path
    attempt: str  # names the files, so that one that was left never stops a later attempt

    @property
    def stop(self) -> Path:
        return self.run_dir / f"stop-{self.attempt}"

    @property
    def resize(self) -> Path:
        return self.run_dir / f"resize-{self.attempt}"

    def should_stop(self) -> bool:
        """Whether the workers shall end with the step they are at."""
        return self.stop.exists() or self.resize.exists()

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the record of how many workers trained from when on."""
        row = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
        with (self.run_dir / WORKERS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


class FittingSizes(ElasticScalingPolicy):
    """Ray's elastic policy, with the sizes that fit the batch, and a checkpoint before the size changes."""

    def __init__(self, scaling_config: ScalingConfig, sizes: Sequence[int], files: RunFiles) -> None:
        super().__init__(scaling_config)
        self._sizes, self._files = tuple(sizes), files

    def _get_reserved_resources(self) -> Any:
        # Ray's own view is up to 20 s old: workers placed on a node that is gone would be waited for. Calls are served
        # in order, so the view is new when the next one is.
        self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
        return super()._get_reserved_resources()

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= possible), default=0)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._files.resize.unlink(missing_ok=True)
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            num_more = decision.num_workers - worker_group_state.num_workers
            if num_more < 0 or self._free(num_more):
                self._files.note("resizing", workers=worker_group_state.num_workers, to=decision.num_workers)
                self._files.resize.touch()  # the workers end with `ResizeError`, and then the size is chosen anew
        return NoopDecision()

    def _free(self, num_workers: int) -> bool:
        """Whether nobody else has taken what more workers would need; training would stop to wait for it."""
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        needed = self.scaling_config._resources_per_worker_not_none
        return all(free.get(name, 0) >= amount * num_workers for name, amount in needed.items())


class GoesOn(DefaultFailurePolicy):
    """Retries what Ray would retry, except what the loop refuses and what fails at the same place again and again."""

    def __init__(self, newest_checkpoint: Callable[[], object], files: RunFiles) -> None:
        super().__init__(FailureConfig(max_failures=-1))
        self._newest_checkpoint, self._files = newest_checkpoint, files
        self._failed_at: object = None
        self._num_fruitless = 0

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        decision = super().make_decision(training_failed_error)
        failures: dict[int, Exception] = getattr(training_failed_error, "worker_failures", {})
        if decision != FailureDecision.RETRY or not failures:
            return decision
        if any(isinstance(failure, ResizeError) for failure in failures.values()):
            return FailureDecision.RETRY
        if any(isinstance(failure, ValueError) for failure in failures.values()):
            return FailureDecision.RAISE
        newest = self._newest_checkpoint()
        self._num_fruitless = self._num_fruitless + 1 if newest == self._failed_at else 1
        self._failed_at = newest
        self._files.note("lost", reasons={rank: _reason(failure) for rank, failure in failures.items()})
        return FailureDecision.RAISE if self._num_fruitless >= MAX_FRUITLESS_FAILURES else FailureDecision.RETRY


def _reason(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".strip().replace("\n", " ")[:_REASON_CHARS]


class Trainer(TorchTrainer):
    """Ray's trainer with the two policies above; without `fitting_sizes` with Ray's own of a fixed number."""

    def __init__(
        self, *arguments: Any, goes_on: GoesOn, fitting_sizes: FittingSizes | None, **configuration: Any
    ) -> None:
        super().__init__(*arguments, **configuration)
        self._goes_on, self._fitting_sizes = goes_on, fitting_sizes

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        controller["failure_policy"] = self._goes_on
        if self._fitting_sizes is not None:
            controller["scaling_policy"] = self._fitting_sizes
        return super()._initialize_and_run_controller(**controller)
