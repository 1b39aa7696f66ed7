"""Cancel on Prefect's page for runs of the command line: only runs of deployments have a runner that listens to it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

_POLL_S = 2.0


@contextmanager
def cancelled_from_the_page() -> Iterator[None]:
    """While the block runs, a run that no runner watches is interrupted, as by Ctrl-C, when it is cancelled.

    Does nothing in a run of a deployment, in a part of another run, and where no server shows the run.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id or run.parent_task_run_id or not os.environ.get("PREFECT_API_URL"):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(run.id, ended), name="cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(run_id: UUID, ended: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not ended.wait(_POLL_S):
            try:
                state = client.read_flow_run(run_id).state
            except httpx.HTTPError as error:  # the server is away; the next look, then
                get_logger("cancellation").debug("the run's state was not read: %s", error)
                continue
            except ObjectNotFound:  # somebody has deleted the run on the page: nothing is left to cancel
                return
            if state is not None and state.type == StateType.CANCELLING:
                os.kill(os.getpid(), signal.SIGINT)
                return
