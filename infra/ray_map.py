"""`ShardMap` on Ray: a local cluster by default, an existing one through RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import ray.exceptions

from tasks.ports import ShardError, WorkerLostError

T = TypeVar("T")
R = TypeVar("R")

_NOBODY_LOOKS = {"enable_metrics_collection": False, "event_stats": False, "task_events_report_interval_ms": 0}
"""What Ray's processes count for a dashboard, which a local cluster has not: half of the time that they take while the
workers work (tests/benchmarks/LOG.md)."""
_OBJECT_STORE_BYTES = 200_000_000  # only paths and reports travel; documents stay in files
_CONNECT_TIMEOUT_S = 5.0
_INTERRUPT_POLL_S = 0.5
_LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OwnerDiedError,
    ray.exceptions.LocalRayletDiedError,
)
"""What Ray raises where a shard's process or its machine is gone, after its own three retries."""


class ClusterError(ValueError):
    """The Ray cluster that was asked for is not there, or is too small."""


def check_reachable(address: str) -> None:
    """Say within seconds that nobody answers: `ray.init` itself takes two minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"RAY_ADDRESS={address!r} is no host:port; set it to the cluster's head, or unset it")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S):
            pass
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it, or unset RAY_ADDRESS for a local one"
        ) from error


def check_cluster() -> None:
    """ClusterError where RAY_ADDRESS names a cluster that does not answer; before any work, without connecting."""
    if address := os.environ.get("RAY_ADDRESS"):
        check_reachable(address)


def trains_here() -> bool:
    """Whether Ray's work is done by this machine alone, so that its devices are those that train."""
    return not os.environ.get("RAY_ADDRESS")


def _connect(address: str | None) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address:
            check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _system_config=_NOBODY_LOOKS,
            )
    except SystemExit:  # Ray's own handler, on a signal that came while it was starting
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray's own handlers abort the process: a cancelled flow could then neither clean up nor say what happened
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def ray_cluster(num_workers: int | None = None) -> Iterator[RayMap]:
    """Connect to RAY_ADDRESS, or start a cluster on this machine for as long as the block runs.

    Raises ClusterError where the cluster can't be reached or has fewer CPUs than `num_workers`. Inside another
    `ray_cluster` block it is that one's cluster.
    """
    address = os.environ.get("RAY_ADDRESS")
    started = not ray.is_initialized()
    if started:
        _connect(address)
    try:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        num_cpus = int(resources.get("CPU", 0))
        if num_cpus < (num_workers or 1):
            raise ClusterError(
                f"{num_workers or 1} workers were asked for, {address or 'this machine'} has {num_cpus} CPUs;"
                " ask for fewer with --workers"
            )
        yield RayMap(num_workers or num_cpus)
    finally:
        if started:
            ray.shutdown()


class RayMap:
    """Runs shards as Ray tasks of one CPU each, at most `num_workers` at a time."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        remote = ray.remote(num_cpus=1)(function).options(name=name)
        results: dict[int, R] = {}
        running: dict[Any, int] = {}
        waiting = iter(enumerate(items))
        try:
            while True:
                while len(running) < self.num_workers and (entry := next(waiting, None)) is not None:
                    running[remote.remote(entry[1])] = entry[0]
                if not running:
                    return [results[index] for index in range(len(items))]
                for reference in self._ready(list(running)):
                    index = running.pop(reference)
                    results[index] = self._result(reference, name, index)
                    if on_done is not None:
                        on_done(index, results[index])
        finally:
            for reference in running:  # after an error or an interrupt: nothing goes on behind the caller's back
                ray.cancel(reference, force=True)

    @staticmethod
    def _ready(running: list[Any]) -> list[Any]:
        ready: list[Any] = []
        while not ready:
            try:
                # an interrupt is raised inside Ray's compiled wait, which lets it out when it returns, and not before
                ready = ray.wait(running, num_returns=1, timeout=_INTERRUPT_POLL_S)[0]
            except SystemError as error:
                interrupt = error.__cause__ or error.__context__
                if interrupt is None or isinstance(interrupt, Exception):
                    raise
                raise interrupt from None
        return ready

    @staticmethod
    def _result(reference: Any, name: str, index: int) -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise ShardError(name, index, f"{type(cause).__name__}: {cause}") from cause
        except _LOST as error:
            raise WorkerLostError(name, index, f"the worker was lost: {error}") from error
        except ray.exceptions.RayError as error:
            raise ShardError(name, index, str(error)) from error
