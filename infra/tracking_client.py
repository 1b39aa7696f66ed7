"""The way to MLflow's server or database, and what to do while it is away.

MLflow itself would try each call again for four minutes, and nothing could stop it. Here a call fails within seconds,
and its caller decides: what a run writes waits on disk (infra/tracking_spool.py), what needs an answer waits in
`answered`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import requests
import tenacity
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infra.settings import mlflow_uri
from tasks.address import explained
from tasks.store import Store
from tasks.transient import TRANSIENT_STATUSES, UnavailableError, is_transient

T = TypeVar("T")

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # at once: a connection that the server has closed
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds; to connect, and between two bytes of an answer

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 10.0
"""Between two tries, doubled from the first on: a server that is back is noticed within ten seconds."""
RESTART_S = 600.0
"""How long a server may be away, in seconds, while work that cannot go on without its answer waits."""

logger = logging.getLogger(__name__)


def client(store: Store) -> MlflowClient:
    """A client of the store's history."""
    return client_at(mlflow_uri(store))


def client_at(tracking_uri: str) -> MlflowClient:
    """A client of a server or database; the databases' own talk stays off the terminal."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised as well
    return MlflowClient(tracking_uri=tracking_uri)


def is_away(error: BaseException) -> bool:
    """Whether the same call can pass later: no connection, no answer in time, 429, or the server's own trouble."""
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return status in TRANSIENT_STATUSES
    if isinstance(error, requests.HTTPError) and error.response is not None:  # of an artifact
        return error.response.status_code in TRANSIENT_STATUSES
    return isinstance(error, requests.ConnectionError | requests.Timeout) or is_transient(error)


def answered(call: Callable[[], T], what: str, wait_s: float = RESTART_S) -> T:
    """`call()`, tried again while the server is away. `what` names it: "registering web-smoke".

    Raises UnavailableError (a ValueError) after `wait_s` seconds, and any other error of `call` at once.
    """

    def log(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if state.attempt_number == 1 and error is not None:
            logger.warning("%s: MLflow does not answer (%s); waiting for it", what, explained(error))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_away),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S),
        stop=tenacity.stop_after_delay(wait_s),
        before_sleep=log,
    )
    try:
        return retrying(call)
    except tenacity.RetryError as error:
        cause = error.last_attempt.exception()
        assert cause is not None
        raise UnavailableError(
            f"{what}: MLflow has not answered for {wait_s:.0f} s ({explained(cause)}): see that it runs, and try again"
        ) from cause
