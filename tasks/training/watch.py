"""What is done about a step that is unlike the ones before it: the recipe's policy, and where it ends.

alert takes the step, unless a figure is not finite: then the run ends. skip leaves the step out; after
MAX_NOT_TAKEN_STEPS in a row the run ends. rollback goes back to the last good checkpoint and leaves out the batches
since; where that happens more than MAX_ROLLBACKS times from the same checkpoint, the run ends.

Every process judges by the same figures and comes to the same end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.spikes import Spike, SpikeDetector, SpikeRule
from tasks.training.job import TrainingDivergedError

MAX_NOT_TAKEN_STEPS = 9
"""In a row, under skip: the next one ends the run. A handful of bad batches may lie together; ten are no accident."""
MAX_ROLLBACKS = 2
"""From one checkpoint: the next one ends the run."""

Action = Literal["take", "leave_out", "roll_back", "end"]
_NOT_TAKEN = "not_taken_steps"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a step."""

    spike: Spike | None
    action: Action


class SpikeWatch:
    """Sees every step before it is taken. Its `state` belongs into the checkpoint."""

    def __init__(self, rule: SpikeRule) -> None:
        self.rule = rule
        self._detector = SpikeDetector(rule)
        self._not_taken_steps = 0  # in a row
        self._rollbacks: Counter[int] = Counter()  # by the step gone back to; what a restart forgets it counts anew

    def judge(self, step: int, loss: float, grad_norm: float) -> Verdict:
        """Steps come in order; after a rollback from where it led to."""
        spike = self._detector.observe(step, loss, grad_norm)
        action = "take" if spike is None else self._action(spike)
        self._not_taken_steps = 0 if action == "take" else self._not_taken_steps + 1
        if action == "leave_out" and self._not_taken_steps > MAX_NOT_TAKEN_STEPS:
            action = "end"
        return Verdict(spike, action)

    def _action(self, spike: Spike) -> Action:
        if self.rule.policy == "skip":
            return "leave_out"
        if self.rule.policy == "rollback":
            return "roll_back"
        return "take" if spike.finite else "end"

    def judge_evaluation(self, bits_per_byte: float) -> Action:
        """Of a step that was taken: weights that predict nothing finite are gone, whatever its loss was."""
        if math.isfinite(bits_per_byte):
            return "take"
        return "roll_back" if self.rule.policy == "rollback" else "end"

    def count_rollback(self, to_step: int) -> None:
        """Raises TrainingDivergedError where the run has gone back to this step too often."""
        self._rollbacks[to_step] += 1
        if self._rollbacks[to_step] > MAX_ROLLBACKS:
            raise TrainingDivergedError(
                f"the run went back to step {to_step} {MAX_ROLLBACKS} times, left out the batches since, and met "
                f"another spike: {self.way_on}"
            )

    @property
    def way_on(self) -> str:
        """What may be done after a run that this policy has ended."""
        anew = "start a run with a lower learning_rate"
        return anew if self.rule.policy == "skip" else f"resume it with spikes.policy=skip, or {anew}"

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs to judge as this one would, ready for JSON."""
        return {**self._detector.state(), _NOT_TAKEN: self._not_taken_steps}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint's state; None is the beginning, or a checkpoint of before there was one."""
        self._detector = SpikeDetector.from_state(self.rule, state) if state else SpikeDetector(self.rule)
        self._not_taken_steps = state[_NOT_TAKEN] if state else 0
