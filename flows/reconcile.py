"""Ends what killed runs have left open: in Prefect, in MLflow, on Ray, in the store. Touches nothing that is alive.

A flow holds the lock `flow-<id>` of the store while it runs (flows.stages.flow_scope), and the system releases it
however the process ends. So a run that Prefect believes to be running and whose lock is free was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow, get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from flows.parameters import ReconcileParameters
from flows.stages import flow_run_id, flow_scope, one_line_failures, show_table
from flows.training_slot import free_dead_slots, places
from infra.orphans import (
    Action,
    close_tracked_runs,
    end_forgotten_processes,
    remove_half_written,
    remove_lock_files,
    remove_ray_sessions,
    unfinished_stages,
)
from infra.settings import current_store
from infra.tracking_spool import deliver_spools
from tasks.store import LIFE_LOCK, InUseError, Store

FLOW_NAMES = (
    "ablate",
    "diff_versions",
    "evaluate",
    "pipeline",
    "preview_corpus",
    "pretrain",
    "pretrain_on_publish",
    "reconcile",
    "refresh_corpus",
    "takedown",
    "train_classifier",
)
"""Our flows; the server may be shared with others. Written out: importing them takes torch, which takes seconds."""

_PENDING_S = 30 * 60.0  # a process has started within seconds, or its runner was killed first
_SETTLE_S = 10.0  # from a flow's release of its lock to its last word to the server
_PAGE = 200
_OPEN = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)  # a paused run waits for a person


@flow(name="reconcile", flow_run_name="reconcile", persist_result=False)
@one_line_failures
def reconcile(parameters: ReconcileParameters) -> dict[str, Any]:
    """End and remove what killed runs have left. Returns actions, noticed (each with what, name, why), dry_run."""
    store = current_store()
    if parameters.dry_run:
        return _reconcile(store, parameters)
    try:
        with store.lock("reconcile"), flow_scope(store):
            return _reconcile(store, parameters)
    except InUseError:
        get_run_logger().info("another reconcile is at work on this store: nothing to do")
        return {"actions": [], "noticed": [], "dry_run": False}


def _reconcile(store: Store, parameters: ReconcileParameters) -> dict[str, Any]:
    min_age_s, dry_run = parameters.min_age_minutes * 60.0, parameters.dry_run
    actions: list[Action] = []
    errors: list[Exception] = []

    def part(find: Callable[[], list[Action]]) -> None:
        """A server that is away, or a file that cannot be removed, stops one part and not the others."""
        try:
            actions.extend(find())
        except Exception as error:
            get_run_logger().exception("a part was left undone")
            errors.append(error)

    with get_client(sync_client=True) as client:
        dead: set[str] = set()
        part(lambda: end_dead_flow_runs(client, store, dead, min_age_s=min_age_s, dry_run=dry_run))
        has_ended = _Ended(client, dead)
        part(lambda: _free_slots(store, dry_run))
        part(lambda: _deliver(store, dry_run))
        part(lambda: close_tracked_runs(store, has_ended, min_age_s=min_age_s, dry_run=dry_run))
        part(lambda: end_forgotten_processes(store, min_age_s=min_age_s, dry_run=dry_run))
        part(lambda: remove_ray_sessions(dry_run=dry_run))
        part(lambda: remove_half_written(store, min_age_s=min_age_s, dry_run=dry_run))
        part(lambda: remove_lock_files(store, has_ended, dry_run=dry_run))
    noticed = unfinished_stages(store, min_age_s=min_age_s)
    _show(actions, noticed, dry_run)
    if errors:
        raise errors[0]
    return {
        "actions": [asdict(action) for action in actions],
        "noticed": [asdict(action) for action in noticed],
        "dry_run": dry_run,
    }


def end_dead_flow_runs(
    client: SyncPrefectClient, store: Store, dead: set[str], *, min_age_s: float, dry_run: bool
) -> list[Action]:
    """Runs that are open in Prefect and whose process is gone become Crashed, those being cancelled Cancelled.

    Their ids are added to `dead`. Looked at twice: a flow that has just ended has released its lock before it says so.
    """
    suspects = {run.id: why for run in _open_runs(client) if (why := _dead_because(store, run, min_age_s))}
    if not suspects:
        return []
    time.sleep(_SETTLE_S)
    actions = []
    for run in _open_runs(client):
        if (why := suspects.get(run.id)) is None or _dead_because(store, run, min_age_s) is None:
            continue
        assert run.state is not None
        cancelling = run.state.type == StateType.CANCELLING
        if not dry_run:
            make = Cancelled if cancelling else Crashed
            client.set_flow_run_state(run.id, make(message=f"reconcile: {why}. Retry goes on with what is finished."))
        dead.add(str(run.id))
        what = f"flow run ended as {'Cancelled' if cancelling else 'Crashed'}"
        actions.append(Action(what, f"{run.name} ({run.id})", why))
    return actions


def _open_runs(client: SyncPrefectClient) -> list[FlowRun]:
    runs: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOW_NAMES))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_OPEN)))),
            limit=_PAGE,
            offset=len(runs),
        )
        runs += page
        if len(page) < _PAGE:
            return runs


def _dead_because(store: Store, run: FlowRun, min_age_s: float) -> str | None:
    """Why the process of an open run is gone; None where it lives, or where this store cannot know."""
    assert run.state is not None
    age_s = (datetime.now(UTC) - run.state.timestamp).total_seconds()
    if age_s < min_age_s or str(run.id) == flow_run_id():
        return None
    lock = f"{LIFE_LOCK}{run.id}"
    if (store.root / "locks" / f"{lock}.lock").is_file():
        return None if store.is_locked(lock) else "its process is gone: nobody holds its lock"
    if run.state.type == StateType.PENDING and age_s >= _PENDING_S:
        return f"it has been Pending for {age_s / 60:.0f} minutes: its process never started"
    return None


class _Ended:
    """Whether flow runs have ended, each asked for once."""

    def __init__(self, client: SyncPrefectClient, dead: set[str]) -> None:
        self._client, self._dead = client, dead
        self._known: dict[str, bool | None] = {}

    def __call__(self, run_id: str) -> bool | None:
        if run_id in self._dead:
            return True
        if run_id not in self._known:
            self._known[run_id] = self._asked(run_id)
        return self._known[run_id]

    def _asked(self, run_id: str) -> bool | None:
        try:
            state = self._client.read_flow_run(UUID(run_id)).state
        except (ObjectNotFound, ValueError):  # of another server, or no id at all
            return None
        return state.is_final() if state is not None else None


def _free_slots(store: Store, dry_run: bool) -> list[Action]:
    dead = places(store)[1] if dry_run else free_dead_slots(store)
    return [
        Action("training slot freed", f"{place.name} ({place.flow_run_id})", "its process is gone") for place in dead
    ]


def _deliver(store: Store, dry_run: bool) -> list[Action]:
    """What killed runs had still to tell MLflow, before the runs are closed there."""
    if dry_run:
        return []
    return [Action("rest of an MLflow run delivered", str(run), "its process is gone") for run in deliver_spools(store)]


def _show(actions: Sequence[Action], noticed: Sequence[Action], dry_run: bool) -> None:
    logger = get_run_logger()
    for action in actions:
        logger.info(f"{'would: ' if dry_run else ''}{action.what}: {action.name}: {action.why}")
    if not actions:
        logger.info("nothing to do")
    if actions:  # no page for each of the runs, one in ten minutes, that have found nothing
        rows = [asdict(action) for action in (*actions, *noticed)]
        show_table("reconcile", rows, "What would be done" if dry_run else "What was done")
