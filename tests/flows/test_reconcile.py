"""Dead runs are ended, living ones beside them are not: with real locks on a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Completed, Paused, Pending, Running, State
from prefect.testing.utilities import prefect_test_harness

import flows.reconcile as module
from flows.parameters import ReconcileParameters
from flows.reconcile import reconcile
from infra.mlflow_tracker import tracked_run
from infra.settings import environment
from infra.tracking_client import client as mlflow_client_of
from tasks.store import Store

pytestmark = [pytest.mark.verify, pytest.mark.timeout(300)]
NOW = ReconcileParameters(min_age_minutes=0)


@flow(name="refresh_corpus", persist_result=False)
def ours() -> None:
    """Only its name counts: the runs are made over the API."""


@flow(name="of somebody else", persist_result=False)
def foreign() -> None:
    """Of another project on the same server."""


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    (opened.root / "locks").mkdir()
    environment(opened)  # makes the folders of the databases
    monkeypatch.setenv("TOKENMILL_STORE", str(opened.root))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("infra.orphans.TEMPORARY_FOLDERS", (tmp_path,))
    monkeypatch.setattr(module, "_SETTLE_S", 0.2)
    yield opened


def run_in(client: SyncPrefectClient, store: Store, state: State[Any], *, lock: bool = True, of: Any = ours) -> str:
    """A flow run in this state, whose process has held its lock and is gone."""
    run = client.create_flow_run(of)
    client.set_flow_run_state(run.id, state, force=True)
    if lock:
        with store.lock(f"flow-{run.id}"):
            """It lives for an instant."""
    return str(run.id)


def state_of(client: SyncPrefectClient, run_id: str) -> StateType:
    state = client.read_flow_run(run_id).state  # type: ignore[arg-type]
    assert state is not None
    return state.type


def names(result: dict[str, Any], what: str) -> set[str]:
    return {action["name"].rpartition("(")[2].rstrip(")") for action in result["actions"] if what in action["what"]}


def test_dead_runs_are_ended_and_the_living_are_not(client: SyncPrefectClient, store: Store) -> None:
    running, pending = run_in(client, store, Running()), run_in(client, store, Pending())
    cancelling = run_in(client, store, Cancelling())
    paused = run_in(client, store, Paused(timeout_seconds=600))
    unmarked = run_in(client, store, Running(), lock=False)  # of another store, or not begun yet
    of_others = run_in(client, store, Running(), of=foreign)
    finished = run_in(client, store, Completed())
    with ExitStack() as living:
        alive = run_in(client, store, Running(name="Training"))
        ending = run_in(client, store, Cancelling())
        for run_id in (alive, ending):
            living.enter_context(store.lock(f"flow-{run_id}"))

        assert names(reconcile(ReconcileParameters()), "flow run") == set()  # nothing is ten minutes old
        would = reconcile(ReconcileParameters(min_age_minutes=0, dry_run=True))
        assert names(would, "flow run") == {running, pending, cancelling}
        assert state_of(client, running) == StateType.RUNNING

        result = reconcile(NOW)
        assert names(result, "flow run") == {running, pending, cancelling}
        assert {state_of(client, run_id) for run_id in (running, pending)} == {StateType.CRASHED}
        assert state_of(client, cancelling) == StateType.CANCELLED
        assert state_of(client, alive) == StateType.RUNNING and state_of(client, ending) == StateType.CANCELLING
        assert state_of(client, paused) == StateType.PAUSED
        assert state_of(client, unmarked) == state_of(client, of_others) == StateType.RUNNING
        assert state_of(client, finished) == StateType.COMPLETED
        assert names(reconcile(NOW), "flow run") == set()
    locks = {file.stem.removeprefix("flow-") for file in (store.root / "locks").glob("flow-*.lock")}
    assert {alive, ending, paused} <= locks and not {running, pending, cancelling, finished} & locks


def test_a_run_that_ends_while_it_is_looked_at_stays_as_it_ended(
    client: SyncPrefectClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLE_S", 3.0)
    run_id = run_in(client, store, Running())  # its lock is free already, its last word is on the way
    word = threading.Timer(1.0, lambda: client.set_flow_run_state(run_id, Completed()))  # type: ignore[arg-type]
    word.start()
    result = reconcile(NOW)
    word.join()
    assert names(result, "flow run") == set()
    assert state_of(client, run_id) == StateType.COMPLETED


def test_a_process_that_never_started(client: SyncPrefectClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = run_in(client, store, Pending(), lock=False)
    assert names(reconcile(NOW), "flow run") == set()
    monkeypatch.setattr(module, "_PENDING_S", 0.0)
    assert names(reconcile(NOW), "flow run") == {run_id}
    assert state_of(client, run_id) == StateType.CRASHED


def test_the_mlflow_run_of_a_dead_flow_is_killed_in_the_same_go(client: SyncPrefectClient, store: Store) -> None:
    run_id = run_in(client, store, Running())
    with tracked_run(store, "finished", tags={"prefect.flow_run_id": run_id}) as tracker:
        experiment = tracker.experiment_id
    tracking = mlflow_client_of(store)
    left = tracking.create_run(experiment, run_name="left", tags={"prefect.flow_run_id": run_id}).info.run_id
    assert names(reconcile(ReconcileParameters(min_age_minutes=0, dry_run=True)), "MLflow") == {left}
    assert names(reconcile(NOW), "MLflow") == {left}
    assert tracking.get_run(left).info.status == "KILLED"
    assert tracking.get_run(tracker.run_id).info.status == "FINISHED"


def test_only_one_at_a_time(client: SyncPrefectClient, store: Store) -> None:
    run_id = run_in(client, store, Running())
    with store.lock("reconcile"):
        assert reconcile(NOW) == {"actions": [], "noticed": [], "dry_run": False}
    assert state_of(client, run_id) == StateType.RUNNING


def test_what_it_did_is_shown_and_a_part_that_fails_stops_no_other(
    client: SyncPrefectClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = run_in(client, store, Running())

    def away(*_: Any, **__: Any) -> list[Any]:
        raise ConnectionError("MLflow is away")

    monkeypatch.setattr(module, "close_tracked_runs", away)
    state = reconcile(NOW, return_state=True)
    assert state.is_failed() and "MLflow is away" in (state.message or "")
    assert state_of(client, run_id) == StateType.CRASHED
    assert not (store.root / "locks" / f"flow-{run_id}.lock").exists()  # a later part was done
    (own,) = [run for run in client.read_flow_runs() if run.id == state.state_details.flow_run_id]
    body = {"artifacts": {"flow_run_id": {"any_": [str(own.id)]}}}
    artifacts = client.request("POST", "/artifacts/filter", json=body).json()
    (table,) = [artifact for artifact in artifacts if artifact["key"] == "reconcile"]
    assert run_id in table["data"]
