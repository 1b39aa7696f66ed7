"""Several processes draw the curve of one, however the network is laid out over them, and take over from each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoints import read_state
from tasks.samples import read_samples
from tasks.spike_file import read_spikes
from tasks.training import TrainJob, train
from tests.tasks.training.training_runs import NUM_STEPS, column, curve, job_for, train_in_processes

STOPPED_AT = 14
TOLERANCE, NORM_TOLERANCE = 1e-5, 5e-4
"""Of losses, and of gradient norms, relative: the order of sums differs, and AdamW's division makes more of it."""
SETTINGS: Mapping[str, Any] = {
    "document_mask": True,
    "qk_norm": True,
    "z_loss": 1e-4,
    # so strict that some steps are left out
    "spikes": {"policy": "skip", "window_steps": 8, "min_history_steps": 4, "loss_z": 0.5, "grad_norm_z": 0.5},
}
LAYOUTS: Mapping[str, Mapping[str, Any]] = {"data": {}, "sharded": {"sharded": True}, "tensor": {"tensor": 2}}


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """One process, undisturbed."""
    job = job_for(corpus, tmp_path_factory.mktemp("alone"), **SETTINGS)
    train(job)
    return job


def rolled_back(job: TrainJob, run_dir: Path, **layout: Any) -> TrainJob:
    """The first spike, at step 10, takes it back to the beginning."""
    changes = {
        "spikes": job.recipe.spikes.model_copy(update={"policy": "rollback"}),
        "checkpoint_every_steps": 100,
        "evaluate_every_steps": 100,
        **layout,
    }
    return job.model_copy(update={"run_dir": run_dir, "recipe": job.recipe.model_copy(update=changes)})


def watched(job: TrainJob, run_dir: Path, **layout: Any) -> TrainJob:
    """Its spikes are looked at, and their steps taken."""
    changes = {"spikes": job.recipe.spikes.model_copy(update={"policy": "alert"}), **layout}
    return job.model_copy(update={"run_dir": run_dir, "recipe": job.recipe.model_copy(update=changes)})


ROLLED_BACK_CALLS = 13  # ten steps, and three from the beginning


@pytest.fixture(scope="module")
def together(corpus: Path, alone: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainJob]:
    """Two processes, in each layout, with gradient accumulation; the second hears of a stop."""
    folder = tmp_path_factory.mktemp("together")
    jobs = {
        name: job_for(corpus, folder / name, **SETTINGS, **{"microbatch_sequences": 1, **layout})
        for name, layout in LAYOUTS.items()
    }
    back = rolled_back(alone, folder / "rolled back", sharded=True)
    alert = {f"alert {name}": watched(alone, folder / f"alert {name}", **LAYOUTS[name]) for name in LAYOUTS}
    calls = [*((job, STOPPED_AT) for job in (jobs | alert).values()), (back, ROLLED_BACK_CALLS)]
    assert train_in_processes(calls, folder / "meeting") == [STOPPED_AT] * len(jobs | alert) + [3]
    return {**jobs, **alert, "rolled back": back}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_curve_is_that_of_one_process(alone: TrainJob, together: dict[str, TrainJob], layout: str):
    run_dir = together[layout].run_dir
    assert len(curve(run_dir)) == STOPPED_AT
    for name, tolerance in (("loss", TOLERANCE), ("grad_norm", NORM_TOLERANCE), ("learning_rate", 0)):
        expected = column(alone.run_dir, name)[:STOPPED_AT]
        assert column(run_dir, name) == pytest.approx(expected, rel=tolerance), name
    # a difference of two fp32 losses: good to their last bits
    assert column(run_dir, "z_loss") == pytest.approx(column(alone.run_dir, "z_loss")[:STOPPED_AT], abs=1e-6)
    for name in ("batch", "batch_hash", "taken", "tokens"):
        assert column(run_dir, name) == column(alone.run_dir, name)[:STOPPED_AT], name
    assert not all(column(run_dir, "taken"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_so_are_evaluation_samples_and_spikes(alone: TrainJob, together: dict[str, TrainJob], layout: str):
    run_dir = together[layout].run_dir
    found, expected = curve(run_dir)[7], curve(alone.run_dir)[7]
    held_out = {name: value for name, value in expected.items() if name.startswith("held_out")}
    assert len(held_out) > 3
    assert {name: found[name] for name in held_out} == pytest.approx(held_out, rel=TOLERANCE)
    samples = [row for row in read_samples(alone.run_dir / "samples.jsonl") if row["step"] == 8]
    assert samples and read_samples(run_dir / "samples.jsonl") == samples
    records = read_spikes(run_dir / "spikes.jsonl")
    expected_records = [each for each in read_spikes(alone.run_dir / "spikes.jsonl") if each.step <= STOPPED_AT]
    assert records
    for record, reference in zip(records, expected_records, strict=True):
        assert (record.step, record.batch_hash) == (reference.step, reference.batch_hash)
        losses = {each.document_id: each.mean_loss for each in reference.documents}
        assert {each.document_id: each.mean_loss for each in record.documents} == pytest.approx(losses, rel=TOLERANCE)


@pytest.fixture(scope="module")
def watched_alone(alone: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("watched alone")
    train(watched(alone, run_dir), should_stop=iter([False] * (STOPPED_AT - 1) + [True]).__next__)
    return run_dir


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_step_after_a_recorded_one_is_computed_with_the_weights_that_it_left(
    watched_alone: Path, together: dict[str, TrainJob], layout: str
):
    run_dir = together[f"alert {layout}"].run_dir
    steps = [record.step for record in read_spikes(run_dir / "spikes.jsonl")]
    assert steps and steps[0] < STOPPED_AT and all(column(run_dir, "taken"))
    assert steps == [record.step for record in read_spikes(watched_alone / "spikes.jsonl")]
    assert column(run_dir, "loss") == pytest.approx(column(watched_alone, "loss"), rel=TOLERANCE)
    assert column(run_dir, "grad_norm") == pytest.approx(column(watched_alone, "grad_norm"), rel=NORM_TOLERANCE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_process_goes_on_from_the_checkpoint_of_two(alone: TrainJob, together: dict[str, TrainJob], layout: str):
    job = together[layout]
    assert read_state(f"{job.run_dir}/checkpoints/step-{STOPPED_AT:08d}").world_size == 2
    recipe = job.recipe.model_copy(update={"tensor": 1, "sharded": False})
    result = train(job.model_copy(update={"resume": True, "recipe": recipe}))
    assert result.complete and read_state(result.checkpoint).world_size == 1
    assert column(job.run_dir, "batch_hash") == column(alone.run_dir, "batch_hash")
    assert column(job.run_dir, "loss") == pytest.approx(column(alone.run_dir, "loss"), rel=TOLERANCE)


def test_two_processes_go_back_to_the_beginning_as_one_does(
    alone: TrainJob, together: dict[str, TrainJob], tmp_path: Path
):
    reference = rolled_back(alone, tmp_path)
    train(reference, should_stop=iter([False] * (ROLLED_BACK_CALLS - 1) + [True]).__next__)
    run_dir = together["rolled back"].run_dir
    assert column(run_dir, "batch") == column(tmp_path, "batch") == [10, 11, 12]
    assert column(run_dir, "loss") == pytest.approx(column(tmp_path, "loss"), rel=TOLERANCE)
    taken_back = curve(run_dir, "metrics_rolled_back.jsonl")
    assert [row["batch"] for row in taken_back] == list(range(10))


@pytest.mark.verify
def test_two_processes_go_on_from_the_checkpoint_of_one(corpus: Path, alone: TrainJob, tmp_path: Path):
    """Which they lay out as they need it."""
    first = job_for(corpus, tmp_path / "run", **SETTINGS)
    train(first, should_stop=iter([False] * 6 + [True]).__next__)
    sharded = first.model_copy(update={"resume": True, "recipe": first.recipe.model_copy(update={"sharded": True})})
    assert train_in_processes([(sharded, 0)], tmp_path / "meeting") == [NUM_STEPS]
    assert column(first.run_dir, "batch_hash") == column(alone.run_dir, "batch_hash")
    assert column(first.run_dir, "loss") == pytest.approx(column(alone.run_dir, "loss"), rel=TOLERANCE)
    assert column(first.run_dir, "taken") == column(alone.run_dir, "taken")
