"""What a run was made with: the exact versions of everything that is installed, and what the machine was doing."""

from __future__ import annotations

import functools
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

SYSTEM_PREFIX = "system/"
"""MLflow shows metrics of this prefix on the run's page of system metrics."""
_FIRST_INTERVAL_S, _LAST_INTERVAL_S = 5.0, 60.0

logger = logging.getLogger(__name__)


@functools.cache
def environment_lock() -> str:
    """Python, system, processors, and every installed distribution as `name==version`, one a line."""
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": str(os.cpu_count()),
        "gpus": ", ".join(_gpus()) or "none",
    }
    installed = {f"{found.name.lower().replace('_', '-')}=={found.version}" for found in distributions()}
    return "\n".join([*(f"# {key}: {value}" for key, value in machine.items()), *sorted(installed)]) + "\n"


def _gpus() -> list[str]:
    """Models of NVIDIA's GPUs, as their driver lists them."""
    models = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        models += [
            line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("Model:")
        ]
    return models


@contextmanager
def system_metrics(write: Callable[[Mapping[str, float], int], None], first_step: int) -> Iterator[None]:
    """While the block runs, and at its end, `write(metrics, step)` what processors, memory, disk, network and GPUs of
    this machine do; steps are counted from `first_step`.

    Every five seconds at first, then ever more rarely, down to once a minute: a run of a minute has a curve, one of a
    week ten thousand points.
    """
    stopped = threading.Event()
    thread = threading.Thread(target=_sample, args=(write, first_step, stopped), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _sample(write: Callable[[Mapping[str, float], int], None], step: int, stopped: threading.Event) -> None:
    began_s = time.monotonic()
    monitors = _monitors()
    while True:
        elapsed_s = time.monotonic() - began_s
        is_last = stopped.wait(min(max(_FIRST_INTERVAL_S, elapsed_s / 60), _LAST_INTERVAL_S))
        values: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            values |= {f"{SYSTEM_PREFIX}{key}": value for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        write(values, step)
        step += 1
        if is_last:
            return


def _monitors() -> list[Any]:
    """MLflow's own, without the thread that it gives them: that one asks the server between samples, and ends when the
    server does not answer."""
    kinds: tuple[Any, ...] = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor)  # untyped
    monitors = []
    for kind in kinds:
        try:
            monitor = kind()
        except (ImportError, RuntimeError):  # of GPUs: nvidia-ml-py is not installed, or there is no driver
            logger.debug("%s can't be used", kind.__name__, exc_info=True)
            continue
        monitor.collect_metrics()  # the first look at the processors only says from when on the next one counts
        monitor.clear_metrics()
        monitors.append(monitor)
    return monitors
