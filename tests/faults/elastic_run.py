"""A training on a Ray cluster of two nodes (on this machine), the second of which is lost, comes back, and loses its
worker: what `test_elastic_training` runs and looks at.

    python -m tests.faults.elastic_run JOB

Prints the result as JSON, with the steps that the driver was told of.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from infra.ray_elastic import WORKERS_FILE
from infra.ray_map import ray_cluster
from infra.ray_train import run_training
from tasks.metrics_file import METRICS_FILE
from tasks.training import TrainJob
from tests.integration.running import family, wait_until

STEPS_BETWEEN = 20
RESIZE_CHECK_S = 2.0
_PHASE_TIMEOUT_S = 180.0
# of this machine alone, and not 127.0.0.1, for which Ray puts the machine's address in the network
_NODE: dict[str, Any] = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.2",
    "include_dashboard": False,
    "object_store_memory": 80_000_000,
}


class Disturbances:
    """What happens to the training, each when it has got on since the last."""

    def __init__(self, job: TrainJob, cluster: Cluster) -> None:
        self._job, self._cluster = job, cluster
        self._second = cluster.add_node(**_NODE)

    def happen(self) -> None:
        self._wait_for_steps(starts=1)
        self._kill(lambda line: True)  # the node with all that runs on it
        self._wait_for_steps(starts=2)
        self._second = self._cluster.add_node(**_NODE)
        self._wait_for_steps(starts=3)
        self._kill(lambda line: "RayTrainWorker" in line)

    def _wait_for_steps(self, starts: int) -> None:
        """Until so many groups of workers have started, and the last has taken some steps."""
        wait_until(lambda: len(self._started()) == starts, _PHASE_TIMEOUT_S, f"no start number {starts}")
        after_step = self._started()[-1]["after_step"]
        wait_until(lambda: self._num_steps() >= after_step + STEPS_BETWEEN, _PHASE_TIMEOUT_S, "no steps", poll_s=0.02)

    def _started(self) -> list[dict[str, Any]]:
        file = self._job.run_dir / WORKERS_FILE
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return [row for row in rows if row["event"] == "started"]

    def _num_steps(self) -> int:
        file = self._job.run_dir / METRICS_FILE
        return file.read_bytes().count(b"\n") if file.is_file() else 0

    def _kill(self, chosen: Callable[[str], bool]) -> None:
        """SIGKILL to processes of the second node, by their command lines."""
        raylet = next(
            information.process.pid
            for name, processes in self._second.all_processes.items()
            if name == "raylet"
            for information in processes
        )
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in family(raylet)}
        for pid in [pid for pid, line in lines.items() if chosen(line)]:
            with suppress(ProcessLookupError):  # it has followed its raylet already
                os.kill(pid, signal.SIGKILL)


def main() -> None:
    job = TrainJob.model_validate_json(sys.argv[1])
    job.run_dir.mkdir(parents=True)
    steps: list[int] = []

    def training() -> dict[str, Any]:
        return run_training(
            job,
            num_workers=(1, 2),
            on_rows=lambda rows, num_steps: steps.extend(row["step"] for row in rows),
            resize_check_s=RESIZE_CHECK_S,
        )

    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    try:
        disturbances = Disturbances(job, cluster)
        os.environ["RAY_ADDRESS"] = cluster.address
        with ray_cluster(), ThreadPoolExecutor(1) as beside:  # Ray starts nodes in the main thread alone
            trained = beside.submit(training)
            disturbances.happen()
            result = trained.result()
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps({"result": result, "steps": steps}))


if __name__ == "__main__":
    main()
