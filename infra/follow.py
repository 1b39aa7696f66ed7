"""What a process at work writes into its files, handed over as it is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.metrics_file import METRICS_FILE, ROLLED_BACK_FILE
from tasks.training import RUN_FILE

MetricRow = dict[str, Any]
OnRows = Callable[[list[MetricRow], int], None]
_POLL_S = 5.0


class Tail:
    """The complete lines of a file, each once; from its beginning again where what was read has been taken back."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset_bytes = 0
        self._last = b""  # the line before the offset: as long as it stands there, so does what is before it

    def lines(self) -> list[bytes]:
        """What was added since the last call; nothing while there is no file."""
        try:
            stream = self._file.open("rb")
        except FileNotFoundError:
            return []
        with stream:
            stream.seek(self._offset_bytes - len(self._last))
            if stream.read(len(self._last)) != self._last:
                self._offset_bytes = stream.seek(0)
            added = stream.read()
        lines = [line for line in added.splitlines(keepends=True) if line.endswith(b"\n")]
        if lines:
            self._offset_bytes += sum(map(len, lines))
            self._last = lines[-1]
        return lines


class MetricsFollower(threading.Thread):
    """Hands the rows of a run's metrics to a callback, in order, each step's with the same batch once.

    A run that goes on from a checkpoint takes the steps after it again, with the batches they had: these rows have been
    handed over. After a rollback the steps are counted anew and the batches go on: these rows are new. Rows that it
    took back may have been in the file for less than a poll: they are in the other one by then, before newer ones come.
    """

    def __init__(self, run_dir: Path, on_rows: OnRows) -> None:
        super().__init__(name="metrics", daemon=True)
        self._tails = [Tail(run_dir / METRICS_FILE), Tail(run_dir / ROLLED_BACK_FILE)]  # in this order
        self._run_file, self._on_rows = run_dir / RUN_FILE, on_rows
        self._tails[1].lines()  # what was taken back before this begins, others have handed over
        self._seen: set[tuple[int, int]] = set()
        self._done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        while not self._done.wait(_POLL_S):
            self._hand_over()
        self._hand_over()

    def _hand_over(self) -> None:
        try:
            found = [json.loads(line) for tail in self._tails for line in tail.lines()]
            rows = sorted(
                (row for row in found if (row["step"], row["batch"]) not in self._seen), key=lambda row: row["batch"]
            )
            if rows:
                self._seen |= {(row["step"], row["batch"]) for row in rows}
                num_steps = json.loads(self._run_file.read_bytes())["num_steps"]
                self._on_rows(rows, num_steps)
        except Exception as error:  # shown by the driver when training is over; training itself must not stop for it
            self.error = error

    def stop(self) -> None:
        """Hand over what is left, and end."""
        self._done.set()
        self.join()
