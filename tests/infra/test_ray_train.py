"""Training on a real local Ray cluster: its metrics, its end before its end, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import ray_train
from infra.ray_elastic import MAX_FRUITLESS_FAILURES, WORKERS_FILE
from infra.ray_map import ClusterError, ray_cluster
from infra.ray_train import STOP_GRACE_S, result_facts, run_training
from tasks.checkpoints import complete_checkpoints, latest_checkpoint
from tasks.metrics_file import METRICS_FILE, read_metrics
from tasks.spike_file import SPIKES_FILE, append_spike, read_spikes
from tasks.spikes import SpikeRule
from tasks.training import CHECKPOINTS, TrainingDivergedError, TrainJob, TrainResult, train
from tests.infra.small_training import SEQ_LEN, job_for, write_tokens
from tests.integration.running import alive, environment, wait_until
from tests.tasks.spike_records import RECORD

ALL_ENDED_S = 10.0
NUM_STEPS = 250
LOSS_TOLERANCE = 1e-5  # relative; as in tests/faults/test_elastic_training.py
_DRIVER = """
import json, os, signal, sys
from infra.ray_map import ray_cluster
from infra.ray_train import run_training
from tasks.training import TrainJob

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

signal.signal(signal.SIGTERM, stop)
seen = []
job = TrainJob.model_validate_json(sys.argv[1])
try:
    with ray_cluster():
        result = run_training(
            job, num_workers=int(sys.argv[2]), on_rows=lambda rows, num_steps: seen.extend(rows)
        )
    print(json.dumps({"result": result, "steps": [row["step"] for row in seen]}))
except Stopped:
    print(json.dumps({"steps": [row["step"] for row in seen]}))
    os._exit(7)
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"))


def test_a_result_counts_what_was_trained_on(tmp_path: Path) -> None:
    """A step that was left out is one of the run's steps; its tokens moved no weight."""
    result = TrainResult(4, 4, 4 * 64, 2.5, None, "/c/step-00000004", tmp_path / METRICS_FILE, 800)
    rows = [{"step": step, "taken": step != 3} for step in range(1, 4)] + [{"step": 4}]  # one of an earlier program
    result.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    calm = result_facts(result)
    assert (calm["step"], calm["steps_left_out"], calm["tokens"], calm["spikes"]) == (4, 1, 3 * 64, 0)
    append_spike(tmp_path / SPIKES_FILE, RECORD)
    assert result_facts(result)["spikes"] == 1


def start(job: TrainJob, store: Path, num_workers: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _DRIVER, job.model_dump_json(), str(num_workers)],
        env=environment(
            TOKENMILL_STORE=str(store),
            OMP_NUM_THREADS="1",
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"],
        ),
        cwd=store,
        stdout=subprocess.PIPE,
        text=True,
    )


def steps_done(job: TrainJob) -> int:
    file = job.run_dir / METRICS_FILE
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.verify
@pytest.mark.parametrize("num_workers", [1, 2])
def test_interrupted_it_leaves_a_checkpoint_and_no_process_and_goes_on_from_there_with_one_worker(
    tokens: Path, tmp_path: Path, num_workers: int
) -> None:
    sizes = {"num_steps": NUM_STEPS, "sequences": 8, "learning_rate": 5e-4}
    job = job_for(tokens, tmp_path / "run", **sizes)
    process = start(job, tmp_path, num_workers)
    try:
        wait_until(lambda: steps_done(job) >= 20, 120, "step 20 was not reached", poll_s=0.02)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        output, _ = process.communicate(timeout=60)
        wait_until(lambda: not alive(tmp_path), 30, "a process is left")
        assert time.monotonic() - told < ALL_ENDED_S
    finally:
        process.kill()
    assert process.returncode == 7
    checkpoint = latest_checkpoint(job.run_dir / CHECKPOINTS)
    assert checkpoint is not None
    stopped_at = int(Path(checkpoint).name.removeprefix("step-"))
    assert 20 <= stopped_at < NUM_STEPS and stopped_at == len(read_metrics(job.run_dir / METRICS_FILE))
    assert json.loads(output)["steps"] == list(range(1, stopped_at + 1))  # the driver got all there is
    assert not list(job.run_dir.glob("stop-*"))

    process = start(job, tmp_path, num_workers=1)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    finished = json.loads(output)
    assert finished["result"]["step"] == NUM_STEPS
    assert finished["steps"] == list(range(1, NUM_STEPS + 1))

    train(undisturbed := job_for(tokens, tmp_path / "undisturbed", **sizes))
    rows, expected = (read_metrics(each.run_dir / METRICS_FILE) for each in (job, undisturbed))
    assert [row["batch_hash"] for row in rows] == [row["batch_hash"] for row in expected]
    losses, expected_losses = ([row["loss"] for row in each] for each in (rows, expected))
    assert losses == pytest.approx(expected_losses, rel=LOSS_TOLERANCE)


@pytest.mark.verify
def test_a_step_that_is_longer_than_the_grace_is_cut_off(tokens: Path, tmp_path: Path) -> None:
    job = job_for(tokens, tmp_path / "run", num_steps=4, sequences=256, model="30m")
    process = start(job, tmp_path)
    try:
        wait_until(lambda: (job.run_dir / "run.json").is_file(), 120, "training did not begin", poll_s=0.02)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        process.communicate(timeout=60)
        wait_until(lambda: not alive(tmp_path), 30, "a process is left")
        assert STOP_GRACE_S <= time.monotonic() - told < ALL_ENDED_S
    finally:
        process.kill()
    assert process.returncode == 7 and latest_checkpoint(job.run_dir / CHECKPOINTS) is None


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster(2):
        yield


def run(job: TrainJob, num_workers: int | tuple[int, int]) -> dict[str, Any]:
    return run_training(job, num_workers=num_workers, on_rows=lambda rows, num_steps: None)


def events(job: TrainJob) -> list[str]:
    file = job.run_dir / WORKERS_FILE
    return [json.loads(line)["event"] for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.parametrize(("gpus", "sizes"), [(0, [1, 2, 4]), (2, [1, 2, 4]), (8, [1, 2, 4])])
def test_of_an_elastic_run_only_the_fewest_devices_must_be_there(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(ray_train, "num_gpus", lambda: gpus)
    job = job_for(tokens, tmp_path, num_steps=2, sequences=8)
    job = job.model_copy(update={"device": "auto"})
    assert ray_train._fitting_sizes(job, 1, 4, [2]) == sizes
    monkeypatch.setattr(ray_train, "num_gpus", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need a GPU each and there are 1"):
        ray_train._fitting_sizes(job, 2, 4, [2])


@pytest.mark.usefixtures("cluster")
class TestBeforeAnyWorkerStarts:
    def test_more_workers_than_the_cluster_can_hold(self, tokens: Path, tmp_path: Path) -> None:
        job = job_for(tokens, tmp_path, num_steps=2, sequences=8)
        cpus = os.cpu_count() or 1
        for num_workers in (cpus + 1, (cpus + 1, cpus + 2)):
            with pytest.raises(ClusterError, match=f"{cpus + 1} training workers were asked for, the Ray cluster has"):
                run(job, num_workers)
        assert events(job) == []

    @pytest.mark.parametrize("num_workers", [2, (1, 2), (2, 4)])
    def test_a_number_of_workers_that_does_not_divide_the_batch(
        self, tokens: Path, tmp_path: Path, num_workers: int | tuple[int, int]
    ) -> None:
        with pytest.raises(ValueError, match="2"):
            run(job_for(tokens, tmp_path, num_steps=2, sequences=5), num_workers)
        assert not (tmp_path / METRICS_FILE).exists() and not (tmp_path / WORKERS_FILE).exists()

    def test_a_missing_corpus(self, tokens: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="tokens"):
            run(job_for(tokens / "nowhere", tmp_path, num_steps=2, sequences=8), 1)
        assert not (tmp_path / WORKERS_FILE).exists()


@pytest.mark.verify
@pytest.mark.usefixtures("cluster")
class TestWhatEndsARun:
    def test_what_the_loop_refuses_ends_it_at_once_for_all_workers(self, tokens: Path, tmp_path: Path) -> None:
        """Found by one worker, while the other waits for it."""
        job = job_for(tokens, tmp_path, num_steps=4, sequences=8, checkpoint_every_steps=2)
        run(job, 2)
        latest = complete_checkpoints(job.run_dir / CHECKPOINTS)[-1]
        assert Path(latest).name == "step-00000004"
        longer = job.model_copy(update={"recipe": job.recipe.model_copy(update={"total_tokens": 8 * 8 * SEQ_LEN})})
        with pytest.raises(ValueError, match="total_tokens"):  # of the checks, before any worker
            run(longer, 2)
        shutdown = len(events(job))
        for folder in complete_checkpoints(job.run_dir / CHECKPOINTS)[1:]:
            Path(folder, "state.json").unlink()
        (job.run_dir / METRICS_FILE).unlink()
        began = time.monotonic()
        with pytest.raises(ValueError, match="does not hold the steps 1 to 2"):
            run(job, 2)
        assert events(job)[shutdown:] == ["started"]
        assert time.monotonic() - began < 60

    def test_a_divergence_arrives_as_what_it_is(self, tokens: Path, tmp_path: Path) -> None:
        rule = SpikeRule(policy="rollback", window_steps=8, min_history_steps=8, loss_z=0.5, grad_norm_z=0.5)
        job = job_for(tokens, tmp_path, num_steps=200, sequences=2, spikes=rule)
        with pytest.raises(TrainingDivergedError, match=r"went back to step 0 2 times.*spikes\.policy=skip, or start"):
            run(job, 1)
        assert len(read_spikes(tmp_path / SPIKES_FILE)) == 3

    def test_what_fails_again_and_again_at_the_same_place_ends_it(self, tokens: Path, tmp_path: Path) -> None:
        job = job_for(tokens, tmp_path, num_steps=4, sequences=8)
        (tmp_path / METRICS_FILE).mkdir()
        with pytest.raises(Exception, match="IsADirectoryError"):
            run(job, 1)
        assert events(job) == ["started", "lost"] * MAX_FRUITLESS_FAILURES
