"""A decay that starts from a checkpoint: the same steps as the whole run's own decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.checkpoints import read_state
from tasks.metrics_file import StepReport
from tasks.training import TrainJob, TrainResult, train
from tests.tasks.training.training_runs import BATCH_TOKENS, column, curve, job_for, weights

SETTINGS = {"schedule": "wsd", "decay_fraction": 0.25, "checkpoint_every_steps": 5, "keep_checkpoints": 9}
"""20 steps, of which the last 5 decay."""


@pytest.fixture(scope="module", params=["adamw", "muon"])
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> TrainJob:
    """A run that was trained to its end."""
    job = job_for(corpus, tmp_path_factory.mktemp("whole"), optimizer=request.param, **SETTINGS)
    train(job)
    return job


def decay(whole: TrainJob, step: int, run_dir: Path, num_steps: int = 5, **changes: Any) -> TrainJob:
    recipe = whole.recipe.model_copy(
        update={
            "decay_from": f"{whole.run_dir}/checkpoints/step-{step:08d}",
            "total_tokens": num_steps * BATCH_TOKENS,
            "evaluate_every_steps": 4,
            **changes,
        }
    )
    return whole.model_copy(update={"recipe": recipe, "run_dir": run_dir})


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without evaluations, which the decay has at other steps."""
    return [{name: value for name, value in row.items() if not name.startswith("held_out")} for row in rows]


def last_weights(job: TrainJob, result: TrainResult) -> bool:
    final = weights(result)
    of_whole = train(job.model_copy(update={"resume": True}))
    return all(torch.equal(tensor, final[name]) for name, tensor in weights(of_whole).items())


def test_it_takes_the_steps_that_the_whole_run_took(whole: TrainJob, tmp_path: Path):
    result = train(decay(whole, 15, tmp_path))
    assert (result.step, result.num_steps, result.tokens_seen) == (20, 20, 20 * BATCH_TOKENS)
    assert compared(curve(tmp_path)) == compared(curve(whole.run_dir)[15:])
    assert last_weights(whole, result)


def test_killed_and_resumed_it_takes_the_same(whole: TrainJob, tmp_path: Path):
    class Killed(BaseException):
        pass

    def interrupt(report: StepReport) -> None:
        if report.step == 18:
            raise Killed

    job = decay(whole, 15, tmp_path, checkpoint_every_steps=2)
    with pytest.raises(Killed):
        train(job, on_step=interrupt)
    result = train(job.model_copy(update={"resume": True}))
    assert compared(curve(tmp_path)) == compared(curve(whole.run_dir)[15:])
    assert last_weights(whole, result)


def test_from_any_checkpoint_the_rate_falls_to_its_floor(whole: TrainJob, tmp_path: Path):
    result = train(decay(whole, 10, tmp_path, num_steps=8, floor_fraction=0))
    assert (result.step, read_state(result.checkpoint).tokens_seen) == (18, 18 * BATCH_TOKENS)
    assert column(tmp_path, "step") == list(range(11, 19))
    assert column(tmp_path, "batch_hash") == column(whole.run_dir, "batch_hash")[10:18]
    rates = column(tmp_path, "learning_rate")
    assert 0.003 > rates[0] > rates[1] and rates[-1] == 0
    assert column(tmp_path, "loss")[0] == column(whole.run_dir, "loss")[10]
    assert column(tmp_path, "loss")[1] != column(whole.run_dir, "loss")[11]
