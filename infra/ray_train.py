"""Pretraining on Ray Train: workers run `tasks.train_loop.train`; the driver follows the metrics file they write.

Ray carries nothing but the job's paths and numbers. Checkpoints and metrics are files of the run's folder, so what a
killed run leaves behind is complete, and the next one goes on from it. So is the word to stop: a file that every worker
looks for before each step, because Ray has no way to reach a loop that is running.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from infra.ray_map import ClusterError
from tasks.atomic import write_json
from tasks.metrics_file import METRICS_FILE
from tasks.train_loop import RUN_FILE, TrainJob, train

RESULT_FILE = "result.json"
STOP_GRACE_S = 6.0
"""How long a cancelled training has for its step and checkpoint. With what Ray takes to shut down (1-2 s), all work has
ended within 10 s; a longer step is cut off, and the checkpoint before it stands."""
_POLL_S = 1.0
_logger = logging.getLogger(__name__)

MetricRow = dict[str, Any]
OnRows = Callable[[list[MetricRow], int], None]


def _worker(configuration: dict[str, Any]) -> None:
    job = TrainJob.model_validate(configuration["job"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    stop_file = job.run_dir / configuration["stop_file"]
    try:
        result = train(job, rank=rank, world_size=context.get_world_size(), should_stop=stop_file.exists)
    except ValueError as error:
        if rank == 0:
            write_json(job.run_dir / configuration["error_file"], {"error": str(error)})
        raise
    if rank == 0:
        write_json(
            job.run_dir / RESULT_FILE,
            {
                "step": result.step,
                "num_steps": result.num_steps,
                "tokens": result.tokens_seen,
                "loss": result.loss,
                "bits_per_byte": result.held_out.bits_per_byte if result.held_out else None,
                "checkpoint": str(result.checkpoint),
                "num_parameters": result.num_parameters,
            },
        )


class _Follower(threading.Thread):
    """Hands the lines of a metrics file to a callback as they are written, in order, each once."""

    def __init__(self, run_dir: Path, on_rows: OnRows) -> None:
        super().__init__(name="metrics", daemon=True)
        self._run_dir, self._on_rows = run_dir, on_rows
        self._last_step = 0
        self._done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._done.wait(_POLL_S):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        try:
            file = self._run_dir / METRICS_FILE
            content = file.read_bytes() if file.is_file() else b""
            lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
            rows = [row for line in lines if (row := json.loads(line))["step"] > self._last_step]
            if rows:
                self._last_step = rows[-1]["step"]
                num_steps = json.loads((self._run_dir / RUN_FILE).read_bytes())["num_steps"]
                self._on_rows(rows, num_steps)
        except Exception as error:  # shown by the driver when training is over; training itself must not stop for it
            self.error = error

    def stop(self) -> None:
        self._done.set()
        self.join()


def num_gpus() -> int:
    """GPUs of the connected cluster."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0))


def _cpus_per_worker(num_workers: int) -> int:
    """The most CPUs that each of so many workers can have, none of them on two nodes. At least 1."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    node_cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    sizes = range(max(node_cpus, default=0), 1, -1)
    return next((size for size in sizes if sum(cpus // size for cpus in node_cpus) >= num_workers), 1)


class _Fit:
    """`trainer.fit()` beside the main thread, which alone can be interrupted and must stay able to."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._done = threading.Event()  # an interrupted Thread.join of Python 3.11 takes the thread for ended
        self.error: Exception | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="fit", daemon=True).start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # raised by the main thread
            self.error = error
        finally:
            self._done.set()

    def wait(self) -> None:
        while not self._done.wait(_POLL_S):
            pass

    def stop(self, stop_file: Path) -> None:
        """Have the workers make a checkpoint after the step they are at, and wait for it, but not for ever."""
        stop_file.touch()
        if self._done.wait(STOP_GRACE_S):
            stop_file.unlink()
        else:
            _logger.warning(
                f"the step in progress takes longer than {STOP_GRACE_S:.0f} s: it is cut off, and the last checkpoint"
                " stands"
            )


def run_training(job: TrainJob, *, num_workers: int, on_rows: OnRows) -> dict[str, Any]:
    """Train on the connected Ray cluster, on GPUs where it has them; the run's result as a plain mapping.

    `on_rows` gets the metrics of the steps as they are written, from step 1 on also where the run was resumed, and the
    number of steps of the whole run. Where the caller's thread is interrupted, training stops after its step with a
    checkpoint, within STOP_GRACE_S, before the interruption goes on.
    Raises ClusterError where the cluster cannot hold the workers, ValueError for what the training loop refuses.
    """
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus, use_gpu = int(resources.get("CPU", 0)), num_gpus() > 0
    if num_workers > (num_gpus() if use_gpu else num_cpus):
        kind = "GPUs" if use_gpu else "CPUs"
        raise ClusterError(
            f"{num_workers} training workers were asked for, the Ray cluster has {num_gpus() if use_gpu else num_cpus}"
            f" {kind}; ask for fewer with --workers"
        )
    job.run_dir.mkdir(parents=True, exist_ok=True)
    attempt = uuid.uuid4().hex[:8]
    error_file, stop_file = job.run_dir / f"error-{attempt}.json", job.run_dir / f"stop-{attempt}"
    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "job": job.model_dump(mode="json"),
            "error_file": error_file.name,
            "stop_file": stop_file.name,  # of this attempt: one that was left never stops a later one
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": _cpus_per_worker(num_workers), **({"GPU": 1} if use_gpu else {})},
        ),
        # a name used before would silently resume that run's Ray state; our checkpoints decide what is resumed
        run_config=RunConfig(name=f"attempt-{attempt}", storage_path=str(job.run_dir / "ray")),
    )
    follower, fit = _Follower(job.run_dir, on_rows), _Fit(trainer)
    follower.start()
    fit.start()
    try:
        fit.wait()
    except BaseException:
        fit.stop(stop_file)
        raise
    finally:
        follower.stop()
    if fit.error is not None:
        if error_file.is_file():
            raise ValueError(json.loads(error_file.read_bytes())["error"]) from fit.error
        raise fit.error
    if follower.error is not None:
        raise RuntimeError(
            f"training is complete in {job.run_dir}, its metrics were not all recorded"
        ) from follower.error
    result: dict[str, Any] = json.loads((job.run_dir / RESULT_FILE).read_bytes())
    return result
