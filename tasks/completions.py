"""Requests that arrive at different times and are answered from one shared batch.

One thread steps the batch (`tasks.text_batch`); between two steps it takes in what has been submitted and lets go of
what has been cancelled. A submission has one row for each of its prompts; rows for which there is no place wait, first
come, first served. What a row has got is delivered from that thread, by a function that must not block: whoever reads
slowly holds up nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tasks.generation import TextGenerator
from tasks.text_batch import Piece, TextBatch, TextRequest

STOPPING = "the server is stopping"
BROKEN = "the model can not go on because of an error on the server, which its log tells"


class QueueFullError(Exception):
    """There is no place for so many rows now; there may be later."""


class UnavailableError(Exception):
    """Nothing more is done: the service is stopping, or broken."""


Deliver = Callable[[int, Piece | UnavailableError], None]
"""Takes the number of a submission's row, from 0, and what it has got. The last of a row is a piece that says why it
has ended, or the error that has ended it."""


@dataclass(eq=False)
class _Row:
    request: TextRequest
    deliver: Callable[[Piece | UnavailableError], None]
    cancelled: bool = False


@dataclass(frozen=True)
class Submission:
    """Rows under way."""

    _rows: Sequence[_Row] = field(repr=False)

    def cancel(self) -> None:
        """Free the rows' places, within a step; nothing is waited for. What has ended already stays as it is."""
        for row in self._rows:
            row.cancelled = True


class CompletionService:
    """Continues what is submitted, from any thread, in `max_rows` places and a queue of `max_queue` more."""

    def __init__(self, generator: TextGenerator, *, max_rows: int, max_queue: int) -> None:
        """Starts the thread; `close` ends it."""
        assert max_rows > 0 and max_queue >= 0
        self.max_rows, self.max_queue = max_rows, max_queue
        self._batch = TextBatch(generator.model, generator.tokenizer, max_rows=max_rows)
        self._waiting: deque[_Row] = deque()
        self._running: dict[int, _Row] = {}
        self._changed = threading.Condition()  # guards what is above and below
        self._ends_at: float | None = None  # monotonic; once there is one, nothing more is taken
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="completions")
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Rows that advance with each step."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def broken(self) -> bool:
        """Whether an error of this software has ended the thread."""
        return self._broken

    @property
    def available(self) -> bool:
        """Whether anything can be submitted."""
        return not self._broken and self._ends_at is None

    def check_number(self, num_requests: int) -> None:
        """ValueError for more requests at once than there will ever be places."""
        num_places = self.max_rows + self.max_queue
        if num_requests > num_places:
            raise ValueError(f"{num_requests} continuations are asked for at once; there are {num_places} places")

    def submit(self, requests: Sequence[TextRequest], deliver: Deliver) -> Submission:
        """Queue all of the requests, or none. Returns at once.

        ValueError for a request that can not work, and for more of them than there will ever be places;
        QueueFullError and UnavailableError where another time, or another server, may do.
        """
        self.check_number(len(requests))
        num_places = self.max_rows + self.max_queue
        for request in requests:
            self._batch.check(request)
        rows = [_Row(request, partial(deliver, number)) for number, request in enumerate(requests)]
        with self._changed:
            if not self.available:
                raise UnavailableError(BROKEN if self._broken else STOPPING)
            num_taken = len(self._running) + len(self._waiting)
            if num_taken + len(rows) > num_places:
                raise QueueFullError(f"{num_taken} of {num_places} places are taken; try again in a moment")
            self._waiting += rows
            self._changed.notify()
        return Submission(rows)

    def drain(self, grace_s: float) -> None:
        """Take nothing more, end what waits, and what runs after `grace_s` seconds at the latest. Returns at once."""
        with self._changed:
            end = time.monotonic() + grace_s
            self._ends_at = end if self._ends_at is None else min(self._ends_at, end)
            self._changed.notify()

    def close(self) -> None:
        """End everything now and wait for the thread. Rows that had not ended get a last piece that says so."""
        self.drain(0)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._work_is_there():
                for piece in self._batch.step():
                    self._hand_out(piece)
        except BaseException:
            self._broken = True
            raise  # to the log, by threading.excepthook
        finally:
            self._end_all(BROKEN if self._broken else STOPPING)

    def _work_is_there(self) -> bool:
        """Wait until the batch has a row; False once everything is to end."""
        with self._changed:
            while True:
                if self._ends_at is not None:
                    self._end(self._waiting, STOPPING)
                    self._waiting.clear()
                    if not self._running or time.monotonic() >= self._ends_at:
                        return False
                self._let_go()
                self._take_in()
                if self._running:
                    return True
                self._changed.wait()

    def _let_go(self) -> None:
        for row_id in [row_id for row_id, row in self._running.items() if row.cancelled]:
            self._batch.remove(row_id)
            del self._running[row_id]

        self._waiting = deque(row for row in self._waiting if not row.cancelled)

    def _take_in(self) -> None:
        while self._waiting and self._batch.num_free:
            row = self._waiting.popleft()
            self._running[self._batch.add(row.request)] = row

    def _hand_out(self, piece: Piece) -> None:
        row = self._running[piece.row_id]
        if piece.ended:  # before it is told: who asks again at once finds the place free
            with self._changed:
                del self._running[piece.row_id]
        if not row.cancelled:
            row.deliver(piece)

    def _end_all(self, why: str) -> None:
        with self._changed:
            self._end([*self._running.values(), *self._waiting], why)
            self._running.clear()
            self._waiting.clear()

    @staticmethod
    def _end(rows: Iterable[_Row], why: str) -> None:
        for row in rows:
            if not row.cancelled:
                row.deliver(UnavailableError(why))
