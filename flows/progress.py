"""How far a stage is: a bar on the terminal and, inside a flow run, one Prefect progress artifact for each stage.

The work calls `progress` from whatever thread it runs in and never waits for Prefect: a thread of its own, which has
the flow run's context, sends what is the latest by then.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.console import console

SEND_INTERVAL_S = 5.0  # between two updates of an artifact; the last one is always sent
_LAST_SEND_TIMEOUT_S = 10.0  # a Prefect server that is away must not keep a finished flow
_UNITS = {  # of stages that don't count shards
    "collect": "pages",
    "inventory": "files",
    **dict.fromkeys(("gather", "index", "members", "settle", "tokens"), "buckets"),
    "edges": "parts",
    "components": "passes",
    "resolve": "parts",
    "train": "steps",
    "evaluate": "documents",
    "trials": "trials",
    "tasks": "tasks",
}
Clock = Callable[[], float]


def duration(seconds: float) -> str:
    """`1 h 2 min`, `1 min 20 s`, `7 s`."""
    whole = max(round(seconds), 0)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


@dataclass
class Meter:
    """One stage's progress. What was done before its first report, in an earlier run, is no speed of this one."""

    stage: str
    started_s: float
    first_done: int
    first_records: int
    done: int = 0
    total: int = 0
    records: int = 0
    note: str = ""
    latest_s: float = 0.0

    @property
    def percent(self) -> float:
        return 100.0 * self.done / self.total if self.total else 100.0

    def rate(self) -> str:
        """Pages per second, or what the stage itself notes."""
        elapsed_s, new = self.latest_s - self.started_s, self.records - self.first_records
        pages = [f"{new / elapsed_s:,.0f} pages/s"] if new > 0 and elapsed_s > 0 else []
        return ", ".join(pages + ([self.note] if self.note else []))

    def description(self) -> str:
        """`37 of 120 shards, 412 pages/s, 1 min 20 s left`."""
        unit = _UNITS.get(self.stage, "shards")
        if self.first_done >= self.total and not self.note:
            return f"{self.total:,} {unit}, all from an earlier run"
        parts = [f"{self.done:,} of {self.total:,} {unit}"]
        if rate := self.rate():
            parts.append(rate)
        new, elapsed_s = self.done - self.first_done, self.latest_s - self.started_s
        if self.done >= self.total:
            parts.append(f"done in {duration(elapsed_s)}")
        elif new > 0:
            parts.append(f"{duration((self.total - self.done) * elapsed_s / new)} left")
        return ", ".join(parts)


class _Artifacts:
    """Keeps the artifacts of one flow run up to date. Made in the flow's thread, whose context it keeps."""

    def __init__(self) -> None:
        self._logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = get_run_logger()
        self._ids: dict[str, UUID] = {}
        self._waiting: dict[str, tuple[float, str]] = {}  # stage -> percent, description
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="progress-artifacts", daemon=True
        )
        self._thread.start()

    def show(self, stage: str, percent: float, description: str) -> None:
        with self._changed:
            self._waiting[stage] = (percent, description)
            self._changed.notify()

    def close(self) -> None:
        """Send what is waiting, within a stated time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_LAST_SEND_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                waiting, self._waiting = self._waiting, {}
            for stage, (percent, description) in waiting.items():
                self._send(stage, percent, description)
            with self._changed:
                if self._closing and not self._waiting:
                    return
                self._changed.wait_for(lambda: self._closing, timeout=SEND_INTERVAL_S)

    def _send(self, stage: str, percent: float, description: str) -> None:
        try:
            if stage in self._ids:
                update_progress_artifact(self._ids[stage], progress=percent, description=description)
            else:
                key = f"progress-{stage.replace('_', '-')}"
                artifact = create_progress_artifact(progress=percent, key=key, description=description)
                assert isinstance(artifact, UUID)
                self._ids[stage] = artifact
        except Exception:  # the page is a convenience: whatever its server has, the work goes on
            self._logger.warning(f"progress of {stage} could not be shown in Prefect", exc_info=True)


class Progress:
    """The `tasks.stages.Progress` that every flow passes on."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._artifacts: list[_Artifacts] = []  # of the flow runs that are open here, the innermost last
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
        """`records` is the number that the finished shards took in; `note` what the stage itself has to say."""
        with self._lock:
            now = self._clock()
            meter = self._meters.get(stage)
            if meter is None or done < meter.done:  # a stage's first report, or its second try
                meter = self._meters[stage] = Meter(stage, now, done, records)
            meter.done, meter.total, meter.records, meter.note, meter.latest_s = done, total, records, note, now
            percent, description, rate = meter.percent, meter.description(), meter.rate()
            artifacts = self._artifacts[-1] if self._artifacts else None
        console.progress(stage, done, total, rate)
        if artifacts is not None:
            artifacts.show(stage, percent, description)

    @contextmanager
    def shown_in_flow_run(self) -> Iterator[None]:
        """Until the block ends, what is reported is shown on the page of the flow run that this thread is in."""
        artifacts = _Artifacts()
        with self._lock:
            outer, self._meters = self._meters, {}
            self._artifacts.append(artifacts)
        try:
            yield
        finally:
            with self._lock:
                self._artifacts.remove(artifacts)
                self._meters = outer
            artifacts.close()


progress = Progress()
"""The progress of this process."""
