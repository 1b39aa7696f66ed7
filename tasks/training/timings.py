"""Where the time of a step goes: data, compute, communication, evaluation, checkpoint, tracking.

The parts share the wall clock of this process without gap or overlap: entering one ends the time of the one around it,
and what is in none of them counts as compute. On a GPU, work that was only queued counts where it is waited for; the
loop waits once a step, when it reads the loss, before anything is exchanged.

Communication is what the loop itself exchanges (sums of losses and batch hashes, with the wait for the slowest
process), and of the exchange of gradients as much as can be told apart: that happens within the last microbatch's
backward pass, so where there are several microbatches it is what the last one took longer than the median of the
others. With one microbatch, and for weights that sharded processes gather in every pass, it counts as compute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

Part = Literal["data", "compute", "communication", "evaluation", "checkpoint", "tracking"]
PARTS: tuple[Part, ...] = ("data", "compute", "communication", "evaluation", "checkpoint", "tracking")
_OF_A_STEP: tuple[Part, ...] = ("data", "compute", "communication")


class StepClock:
    """One process's time since the last `lap`, by part."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._part: Part = "compute"
        self._booked_until = now()

    def _book(self) -> None:
        now = self._now()
        self._seconds[self._part] += now - self._booked_until
        self._booked_until = now

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """What is done within counts as `part`."""
        self._book()
        outer, self._part = self._part, part
        try:
            yield
        finally:
            self._book()
            self._part = outer

    def rebook(self, seconds: float, *, source: Part, to: Part) -> None:
        """Some time that was booked as one part turns out to belong to another."""
        self._book()
        moved = min(max(seconds, 0.0), self._seconds[source])
        self._seconds[source] -= moved
        self._seconds[to] += moved

    def step_s(self) -> float:
        """Data, compute and communication since the last lap."""
        self._book()
        return sum(self._seconds[part] for part in _OF_A_STEP)

    def lap(self) -> dict[str, float]:
        """Seconds of each part since the last lap (`data_s`), and of all together (`step_s`); begins a new lap."""
        self._book()
        times_s = {f"{part}_s": seconds for part, seconds in self._seconds.items()}
        times_s["step_s"] = sum(self._seconds.values())
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return times_s


class MicrobatchClock:
    """How long each microbatch took, on the device that computes it, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[float | torch.cuda.Event] = []

    def mark(self) -> None:
        """Before the first microbatch, and after each."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each microbatch. Call it when the device has finished them."""
        return [_between(start, end) for start, end in zip(self._marks, self._marks[1:], strict=False)]


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    return float(start.elapsed_time(end)) / 1000  # from milliseconds


def exchange_s(microbatches_s: Sequence[float]) -> float:
    """What the last microbatch took longer than the others; 0 where it is alone, or was faster."""
    if len(microbatches_s) < 2:
        return 0.0
    return max(0.0, microbatches_s[-1] - statistics.median(microbatches_s[:-1]))
