"""A `ShardMap` over spawned processes that notes per stage how long its shards took and the most memory any used."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tasks.ports import ShardError

T = TypeVar("T")
R = TypeVar("R")

_STATUS, _CLEAR, _IO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/self/io")


def forget_peak_memory() -> None:
    """Let the kernel count this process's peak memory anew (proc(5): clear_refs, 5)."""
    _CLEAR.write_text("5")


def peak_memory_bytes() -> int:
    """The most resident memory of this process since `forget_peak_memory`, file pages it has mapped included."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def moved_bytes() -> tuple[int, int]:
    """What this process has read and written so far through system calls; pages of mapped files are not among it."""
    counts = dict(line.split(": ") for line in _IO.read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


@dataclass
class StageCost:
    """Sums over the shards of one stage that are done; `wall_s` is the time during which the stage ran."""

    shards: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    longest_s: float = 0.0
    peak_bytes: int = 0
    """Of the one process that used most."""
    read_bytes: int = 0
    written_bytes: int = 0

    def add(self, other: StageCost) -> None:
        self.shards += other.shards
        self.cpu_s += other.cpu_s
        self.read_bytes += other.read_bytes
        self.written_bytes += other.written_bytes
        self.longest_s = max(self.longest_s, other.longest_s)
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


@dataclass(frozen=True)
class _Measured:
    function: Callable[[Any], Any]

    def __call__(self, item: Any) -> tuple[Any, StageCost]:
        forget_peak_memory()
        wall, cpu, (read, written) = time.perf_counter(), time.process_time(), moved_bytes()
        result = self.function(item)
        cost = StageCost(1, cpu_s=time.process_time() - cpu, longest_s=time.perf_counter() - wall)
        cost.peak_bytes = peak_memory_bytes()
        now_read, now_written = moved_bytes()
        cost.read_bytes, cost.written_bytes = now_read - read, now_written - written
        return result, cost


def _warm_up(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    time.sleep(0.5)  # so that no worker takes two of these


@dataclass
class MeasuredMap:
    """Use as a context. `costs` is by stage, in the order in which they first ran, and up to date after every shard."""

    num_workers: int
    modules: Sequence[str] = ()
    """Imported by each worker before any stage, so that no stage is charged for it."""
    costs: dict[str, StageCost] = field(default_factory=dict)
    on_progress: Callable[[str, int, int], object] = lambda stage, done, total: None

    def __enter__(self) -> MeasuredMap:
        self._pool = ProcessPoolExecutor(self.num_workers, mp_context=multiprocessing.get_context("spawn"))
        list(self._pool.map(_warm_up, [self.modules] * self.num_workers))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        of_stage = self.costs.setdefault(name, StageCost())
        before_s, start = of_stage.wall_s, time.perf_counter()
        futures = {self._pool.submit(_Measured(function), item): index for index, item in enumerate(items)}
        results: dict[int, R] = {}
        for future in as_completed(futures):
            index = futures[future]
            try:
                results[index], cost = future.result()
            except Exception as error:
                for other in futures:
                    other.cancel()
                raise ShardError(name, index, f"{type(error).__name__}: {error}") from error
            of_stage.add(cost)
            of_stage.wall_s = before_s + time.perf_counter() - start
            if on_done is not None:
                on_done(index, results[index])
            self.on_progress(name, len(results), len(items))
        return [results[index] for index in range(len(items))]
