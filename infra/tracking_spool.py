"""What runs have still to tell MLflow waits on disk, so that nothing is lost while the server is away.

Every write of a run goes first to its journal, `<store>/spool/<run id>/`; one thread a run delivers it in order. The
writer never waits. What a killed process leaves is delivered by the next run of the store, or by `tokenmill reconcile`.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tenacity
from mlflow.tracking import MlflowClient

from infra.journal import Journal, has_journal
from infra.settings import mlflow_uri
from infra.tracking_client import FIRST_WAIT_S, MAX_WAIT_S, RESTART_S, client_at, is_away
from tasks.address import explained, redacted
from tasks.atomic import write_file
from tasks.store import InUseError, Store
from tasks.transient import UnavailableError

_SERVER = "server"  # file beside the journal: the tracking URI, empty for the store's own database
_SAY_EVERY_S = 10.0
_HELD_S = 60.0  # how long another process may take to deliver what an earlier part of the same run has left

logger = logging.getLogger(__name__)


class RejectedError(ValueError):
    """MLflow refused something that a run wrote; it is kept on disk, with the reason."""


class Spool:
    """The journal of one run, and the thread that delivers it."""

    def __init__(self, store: Store, mlflow_client: MlflowClient, run_id: str) -> None:
        """Raises InUseError where another process has it, and keeps it for a minute."""
        self._client, self.run_id = mlflow_client, run_id
        self._journal = _opened(_folder(store) / run_id)
        self._uri = mlflow_uri(store)
        own = Store(store.root)
        write_file(self.folder / _SERVER, (self._uri if self._uri != _own_database(own) else "").encode())
        self._changed = threading.Condition()
        self._closing, self._gives_up = False, threading.Event()
        self._away_since = math.inf
        self._thread = threading.Thread(target=self._send, name=f"spool-{run_id}", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path:
        return self._journal.folder
