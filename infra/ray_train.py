"""Pretraining on Ray Train: workers run `tasks.training.train`; the driver follows the metrics file they write.

Ray carries nothing but the job's paths and numbers. Checkpoints and metrics are files of the run's folder, so what a
killed run leaves behind is complete, and the next one goes on from it; so does this one, with the workers that are
left, where some are lost. What ends a run and what does not is said in `infra.ray_elastic`.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from functools import partial
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import RunConfig, ScalingConfig

from infra.follow import MetricsFollower, OnRows
from infra.ray_elastic import FittingSizes, GoesOn, ResizeError, RunFiles, Trainer
from infra.ray_map import ClusterError
from tasks.atomic import write_json
from tasks.checkpoints import checkpoint_step, latest_checkpoint
from tasks.metrics_file import read_metrics
from tasks.spike_file import SPIKES_FILE, read_spikes
from tasks.training import TrainingDivergedError, TrainJob, TrainResult, check_job, train

RESULT_FILE = "result.json"
STOP_GRACE_S = 6.0
"""How long a cancelled training has for its step and checkpoint. With what Ray takes to shut down (1-2 s), all work has
ended within 10 s; a longer step is cut off, and the checkpoint before it stands."""
_POLL_S = 1.0
_logger = logging.getLogger(__name__)


def _worker(configuration: dict[str, Any]) -> None:
    job = TrainJob.model_validate(configuration["job"])
    files = RunFiles(job.run_dir, configuration["attempt"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        newest = latest_checkpoint(job.checkpoints_location)
        files.note("started", workers=world_size, after_step=checkpoint_step(newest) if newest else 0)
    try:
        result = train(job, rank=rank, world_size=world_size, should_stop=files.should_stop)
    except TrainingDivergedError:
        raise
    except ValueError as error:  # plain, because not every kind of it can be pickled on its way to the driver
        raise ValueError(str(error)) from error
    if world_size > 1:
        dist.barrier()  # whoever fails first has Ray end the others, and what they are still writing
    if not result.complete and not files.stop.exists():
        raise ResizeError("training stopped at a checkpoint to go on with another number of workers")
    if rank == 0:
        write_json(job.run_dir / RESULT_FILE, result_facts(result))


def result_facts(result: TrainResult) -> dict[str, Any]:
    """What RESULT_FILE holds. `tokens` are those that the weights were trained on: without the steps that were left out
    after a spike."""
    steps_left_out = sum(not row.get("taken", True) for row in read_metrics(result.metrics_file))
    return {
        "step": result.step,
        "num_steps": result.num_steps,
        "steps_left_out": steps_left_out,
        "spikes": len(read_spikes(result.metrics_file.with_name(SPIKES_FILE))),
        "tokens": result.tokens_seen - steps_left_out * (result.tokens_seen // result.step),
        "loss": result.loss,
        "bits_per_byte": result.held_out.bits_per_byte if result.held_out else None,
        "checkpoint": result.checkpoint,
        "num_parameters": result.num_parameters,
    }


def num_gpus() -> int:
    """GPUs of the connected cluster."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU", 0))


def _of_nodes(resource: str) -> list[int]:
    """How much each node of the cluster has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [int(node["Resources"].get(resource, 0)) for node in nodes if node["Alive"]]


def _cpus_per_worker(num_workers: int) -> int:
    """The most CPUs that each of so many workers can have, none of them on two nodes. At least 1."""
    node_cpus = _of_nodes("CPU")
    sizes = range(max(node_cpus, default=0), 1, -1)
    return next((size for size in sizes if sum(cpus // size for cpus in node_cpus) >= num_workers), 1)


def _processes_per_node(num_workers: int, places: list[int]) -> int:
    """How many of the workers share a node: all where one holds them, because Ray packs them; `places` by node."""
    return num_workers if num_workers <= max(places) else min(place for place in places if place)


def _check(job: TrainJob, num_workers: int, places: list[int], num_gpus: int) -> None:
    """ValueError where so many workers cannot run the job."""
    check_job(job, num_workers, processes_per_node=_processes_per_node(num_workers, places), num_gpus=num_gpus)


def _fitting_sizes(job: TrainJob, smallest: int, largest: int, places: list[int]) -> list[int]:
    """The numbers of workers that can run the job. Both ends must; in between those are left out that cannot.

    Only for the fewest the devices must be there now.
    """
    there = num_gpus()
    _check(job, smallest, places, there)
    _check(job, largest, places, max(there, largest) if there else 0)

    def fits(size: int) -> bool:
        try:
            _check(job, size, places, max(there, size) if there else 0)
        except ValueError:
            return False
        return True

    return sorted({smallest, largest, *(size for size in range(smallest + 1, largest) if fits(size))})


class _Fit:
    """`trainer.fit()` beside the main thread, which alone can be interrupted and must stay able to."""

    def __init__(self, trainer: Trainer) -> None:
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

    def stop(self, files: RunFiles) -> None:
        """Have the workers make a checkpoint after the step they are at, and wait for it, but not for ever."""
        files.stop.touch()
        if self._done.wait(STOP_GRACE_S):
            files.stop.unlink()
        else:
            _logger.warning(
                f"the step in progress takes longer than {STOP_GRACE_S:.0f} s: it is cut off, and the last checkpoint"
                " stands"
            )

    def refused(self) -> ValueError | None:
        """What the training loop itself would not go on with, where that is how it ended."""
        failures = getattr(self.error, "worker_failures", {}).values()
        return next((failure for failure in failures if isinstance(failure, ValueError)), None)


def run_training(
    job: TrainJob, *, num_workers: int | tuple[int, int], on_rows: OnRows, resize_check_s: float = 60.0
) -> dict[str, Any]:
    """Train on the connected Ray cluster, on GPUs where it has them; the run's result as a plain mapping.

    `num_workers` is their number, or the fewest and the most: then training starts with what there is, goes on with
    fewer where some are lost, and with more where there is room again, for which it looks every `resize_check_s`
    seconds. A lost worker costs the steps since the last checkpoint, in either case.

    `on_rows` gets the metrics of the steps as they are written, from step 1 on also where the run was resumed, and the
    number of steps of the whole run; steps that are taken again after a worker was lost come once. Where the caller's
    thread is interrupted, training stops after its step with a checkpoint, within STOP_GRACE_S, before the
    interruption goes on. `workers.jsonl` in the run's folder says how many workers trained from when on, and why.

    Raises ClusterError where the cluster cannot hold the workers and ValueError for a job that does not fit, before any
    worker starts, and ValueError for what the training loop refuses.
    """
    smallest, largest = num_workers if isinstance(num_workers, tuple) else (num_workers, num_workers)
    use_gpu = num_gpus() > 0
    cpus_per_worker = _cpus_per_worker(largest)
    places = _of_nodes("GPU") if use_gpu else [cpus // cpus_per_worker for cpus in _of_nodes("CPU")]
    if smallest > sum(places):
        kind = "GPUs" if use_gpu else "CPUs"
        raise ClusterError(
            f"{smallest} training workers were asked for, the Ray cluster has {sum(places)} {kind}; ask for fewer with"
            " --workers"
        )
    sizes = _fitting_sizes(job, smallest, largest, places)
    job.run_dir.mkdir(parents=True, exist_ok=True)
    attempt = uuid.uuid4().hex[:8]
    files = RunFiles(job.run_dir, attempt)
    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scaling_config = ScalingConfig(
        num_workers=num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
        elastic_resize_monitor_interval_s=resize_check_s,
    )
    trainer = Trainer(
        _worker,
        # what may be resumed was checked above; workers that start anew go on from what the ones before have made
        train_loop_config={"job": job.model_copy(update={"resume": True}).model_dump(mode="json"), "attempt": attempt},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=scaling_config,
        # a name used before would silently resume that run's Ray state; our checkpoints decide what is resumed
        run_config=RunConfig(name=f"attempt-{attempt}", storage_path=str(job.run_dir / "ray")),
        goes_on=GoesOn(partial(latest_checkpoint, job.checkpoints_location), files),
        fitting_sizes=FittingSizes(scaling_config, sizes, files) if isinstance(num_workers, tuple) else None,
    )
    follower = MetricsFollower(job.run_dir, on_rows)
    fit = _Fit(trainer)
    follower.start()
    fit.start()
    try:
        fit.wait()
    except BaseException:
        fit.stop(files)
        raise
    finally:
        follower.stop()
        files.resize.unlink(missing_ok=True)
    if fit.error is not None:
        if refused := fit.refused():
            raise refused from fit.error
        raise fit.error
    if follower.error is not None:
        raise RuntimeError(
            f"training is complete in {job.run_dir}, its metrics were not all recorded"
        ) from follower.error
    result: dict[str, Any] = json.loads((job.run_dir / RESULT_FILE).read_bytes())
    return result
