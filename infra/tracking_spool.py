"""What runs have still to tell MLflow waits on disk, so that nothing is lost while the server is away.

Every write of a run goes first to its journal, `<store>/spool/<run id>/`; one thread a run delivers it in order. The
writer never waits. What a killed process leaves is delivered by the next run of the store, or by `tokenmill reconcile`.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tenacity
from mlflow.tracking import MlflowClient

from infra.journal import Journal, has_journal
from infra.settings import mlflow_uri
from infra.tracking_client import FIRST_WAIT_S, MAX_WAIT_S, RESTART_S, client_at, is_away
from infra.tracking_delivery import deliver_next
from tasks.address import explained
from tasks.atomic import write_file
from tasks.store import InUseError, Store
from tasks.transient import UnavailableError

_SERVER = "server"  # file beside the journal: the tracking URI
_STORE = "<store>"  # stands for the store's folder in it
_SAY_EVERY_S = 10.0
_STOP_S = 2.0  # for a call that is under way; it ends with the process otherwise
_WORTH_SAYING_S = 3.0  # a database that another process is writing to is away for moments
_HELD_S = 60.0  # how long another process may take to deliver what an earlier part of the same run has left

logger = logging.getLogger(__name__)


class RejectedError(ValueError):
    """MLflow refused something that a run wrote; it is kept on disk, with the reason."""


class Spool:
    """The journal of one run, and the thread that delivers it."""

    def __init__(self, store: Store, mlflow_client: MlflowClient, run_id: str) -> None:
        """Raises InUseError where another process has it, and keeps it for a minute."""
        self._client, self.run_id = mlflow_client, run_id
        self._journal = _opened(_spools(store) / run_id)
        write_file(self.folder / _SERVER, _portable(store, mlflow_uri(store)).encode())
        self._changed = threading.Condition()
        self._closing, self._gives_up = False, threading.Event()
        self._away_since_s = math.inf  # on the clock of time.monotonic
        self._thread = threading.Thread(target=self._send, name=f"spool-{run_id}", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path:
        return self._journal.folder

    def pending(self) -> Iterator[Mapping[str, Any]]:
        """What has not been delivered yet."""
        return (line.entry for line in self._journal.pending(sys.maxsize))

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry of infra/tracking_delivery.py; it will be delivered after all that were written before."""
        self._journal.append(entry)
        with self._changed:
            self._changed.notify_all()

    def append_artifact(self, path: Path, folder: str) -> None:
        """A copy of a file, or of what is in a folder, goes into the run's artifacts, in their `folder`."""
        copy, staged = self._journal.stage(path.name)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        self.append({"kind": "artifact", "staged": staged, "folder": folder})

    def append_text(self, content: str, name: str, folder: str) -> None:
        """As `append_artifact`, of a text."""
        copy, staged = self._journal.stage(name)
        copy.write_text(content, encoding="utf-8")
        self.append({"kind": "artifact", "staged": staged, "folder": folder})

    def wait(self, patience_s: float, at_most_s: float = math.inf) -> bool:
        """Whether all that is written by now was delivered before the server had been away for `patience_s` seconds,
        or `at_most_s` seconds had passed."""
        end, began_s = self._journal.end, time.monotonic()
        said_s = began_s
        with self._changed:
            while self._journal.confirmed < end:
                now_s = time.monotonic()
                if now_s - max(began_s, self._away_since_s) >= patience_s or now_s - began_s >= at_most_s:
                    return False
                if now_s - said_s >= _SAY_EVERY_S:
                    said_s = now_s
                    left_bytes = end - self._journal.confirmed
                    logger.warning("run %s: MLflow has %s bytes still to get", self.run_id, f"{left_bytes:,}")
                self._changed.wait(0.5)
        return True

    def settle(self) -> None:
        """Wait until MLflow has all that is written by now. UnavailableError where it has been away for ten minutes."""
        if not self.wait(RESTART_S):
            raise UnavailableError(f"MLflow has not answered for {RESTART_S:.0f} s: see that it runs, and try again")

    def check(self) -> None:
        """RejectedError where MLflow has refused something of what this process wrote."""
        if refusals := self._journal.refusals:
            raise RejectedError(
                f"MLflow refused {len(refusals)} writes of run {self.run_id}, first: {refusals[0]};"
                f" they are in {self._journal.rejected_file}"
            )

    def close(self, patience_s: float, at_most_s: float = math.inf) -> None:
        """Deliver the rest as `wait` does; where that is not possible it stays, and a warning says so."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if not self.wait(patience_s, at_most_s):
            logger.warning(
                "MLflow is away: the end of run %s stays in %s; the next run or `tokenmill reconcile` delivers it",
                self.run_id,
                self.folder,
            )
        self._gives_up.set()
        self._thread.join(_STOP_S)

    def _send(self) -> None:
        """The thread: delivers until it is closed and nothing is left, or given up while the server is away."""
        delay_s, said = FIRST_WAIT_S, False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or not self._journal.is_empty)
            if self._journal.is_empty:
                break
            try:
                deliver_next(self._journal, self._client, self.run_id)
            except Exception as error:  # the server is away; or the disk is full, which can pass as well
                if self._away_since_s == math.inf:
                    self._away_since_s = time.monotonic()
                    logger.warning(
                        "run %s: MLflow is away (%s); what it gets waits on disk", self.run_id, explained(error)
                    )
                if self._gives_up.wait(delay_s):
                    break
                delay_s = min(2 * delay_s, MAX_WAIT_S)
                continue
            if said:
                logger.warning("run %s: MLflow is back", self.run_id)
            self._away_since_s, delay_s, said = math.inf, FIRST_WAIT_S, False
            with self._changed:
                self._changed.notify_all()
        self._journal.close()


def deliver_spools(store: Store) -> list[str]:
    """Deliver what runs whose process is gone have left; the ids of the runs. What a server that is away is to get
    stays, and a warning says so."""
    delivered: list[str] = []
    away: set[str] = set()
    for folder in sorted(_spools(store).iterdir()):
        if not has_journal(folder):
            continue
        try:
            journal = Journal(folder)
        except InUseError:  # its run is alive
            continue
        try:
            if journal.is_empty:
                continue
            uri = (folder / _SERVER).read_text().replace(_STORE, str(store.root))
            if uri in away:
                continue
            try:
                while not journal.is_empty:
                    deliver_next(journal, client_at(uri), folder.name)
            except Exception as error:
                if not is_away(error):
                    raise
                away.add(uri)
                logger.warning(
                    "MLflow is away (%s): the end of run %s stays in %s", explained(error), folder.name, folder
                )
            else:
                delivered.append(folder.name)
                if journal.refusals:
                    logger.warning("MLflow refused writes of run %s: see %s", folder.name, journal.rejected_file)
        finally:
            journal.close()
    return delivered


def _spools(store: Store) -> Path:
    folder = store.root / "spool"
    folder.mkdir(mode=0o700, exist_ok=True)  # an address may hold a password
    return folder


def _portable(store: Store, uri: str) -> str:
    """A tracking URI that still leads to the store's own database when the store has been moved."""
    return uri.replace(str(store.root), _STORE)


def _opened(folder: Path) -> Journal:
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(InUseError),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(_HELD_S),
        reraise=True,
    )
    return retrying(Journal, folder)
