"""Nothing of a run is lost, and nothing doubled, whatever happens to the server, its answers, or the writer."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

import infra.mlflow_tracker as tracker_module
import infra.tracking_delivery as delivery_module
import infra.tracking_spool as spool_module
from infra.mlflow_tracker import tracked_run
from infra.tracking_client import answered, client, is_away
from infra.tracking_spool import RejectedError, deliver_spools
from tasks.store import Store
from tasks.transient import UnavailableError

NUM_STEPS = 2000


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of the module: a new database takes seconds."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    (store.root / "mlflow" / "artifacts").mkdir(parents=True)
    return store


@pytest.fixture
def store(own_store: Store) -> Iterator[Store]:
    yield own_store
    assert deliver_spools(own_store) == [], "a test has left something"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little waiting as can be."""
    for name in ("FIRST_WAIT_S", "MAX_WAIT_S"):
        monkeypatch.setattr(spool_module, name, 0.01)
    for name in ("END_S", "BEGIN_S", "KILLED_S"):
        monkeypatch.setattr(tracker_module, name, 0.3)


def steps(store: Store, run_id: str, metric: str = "loss") -> list[int]:
    """In the order of the history."""
    return [entry.step for entry in client(store).get_metric_history(run_id, metric)]


class UnreliableClient(MlflowClient):
    """The real one, whose calls fail before or after they have done their work."""

    fault: Callable[[], str] = staticmethod(lambda: "")

    def log_batch(self, *arguments: Any, **options: Any) -> Any:
        fault = type(self).fault()
        if fault == "away":
            raise MlflowException("away", error_code=TEMPORARILY_UNAVAILABLE)
        result = super().log_batch(*arguments, **options)
        if fault == "answer lost":
            raise MlflowException("the connection broke")
        return result


@pytest.fixture
def unreliable(store: Store, monkeypatch: pytest.MonkeyPatch) -> type[UnreliableClient]:
    reliable = client(store)
    monkeypatch.setattr(tracker_module, "client", lambda _: UnreliableClient(reliable.tracking_uri))
    return UnreliableClient


def test_each_step_arrives_once_and_in_order_whatever_calls_fail(
    store: Store, unreliable: type[UnreliableClient], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(7)
    monkeypatch.setattr(tracker_module, "END_S", 30.0)
    monkeypatch.setattr(delivery_module, "METRICS_PER_CALL", 50)
    monkeypatch.setattr(
        unreliable, "fault", staticmethod(lambda: random.choices(["", "away", "answer lost"], [2, 3, 3])[0])
    )
    with tracked_run(store, "unlucky", tags={"a": "b"}) as tracker:
        for step in range(NUM_STEPS):
            tracker.metric_rows([(step, {"loss": 1.0, "lr": step / 7})])
            assert tracker.last_step("loss") == step
    assert steps(store, tracker.run_id) == list(range(NUM_STEPS))
    assert steps(store, tracker.run_id, "lr") == list(range(NUM_STEPS))
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"
    assert not (store.root / "spool" / tracker.run_id).exists()


def test_a_run_succeeds_without_the_server_and_the_next_one_tells_of_it(
    store: Store,
    unreliable: type[UnreliableClient],
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(unreliable, "fault", staticmethod(lambda: "away"))
    note = tmp_path / "note.txt"
    note.write_text("before")
    with tracked_run(store, "alone", tags={}) as tracker:
        tracker.metrics({"loss": float("nan")}, step=3)
        tracker.artifact(note, "notes")
        tracker.text("a <b>", "cards/card.md")
        note.write_text("after")
    assert "MLflow is away" in caplog.text and tracker.run_id in caplog.text
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == "RUNNING" and "loss" not in run.data.metrics
    monkeypatch.undo()

    with tracked_run(store, "next", tags={}):
        run = client(store).get_run(tracker.run_id)
        assert run.info.status == "FINISHED" and run.data.metrics["loss"] != run.data.metrics["loss"]
        assert run.info.end_time >= run.info.start_time
        artifacts = store.root / "mlflow" / "artifacts" / tracker.run_id / "artifacts"
        assert (artifacts / "notes" / "note.txt").read_text() == "before"
        assert (artifacts / "cards" / "card.md").read_text() == "a <b>"


def test_a_run_that_goes_on_knows_what_waits_for_the_server(
    store: Store, unreliable: type[UnreliableClient], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt), tracked_run(store, "first part", tags={}) as tracker:
        tracker.metrics({"loss": 1.0}, step=1)
        tracker.settle()
        monkeypatch.setattr(unreliable, "fault", staticmethod(lambda: "away"))
        tracker.metrics({"loss": 1.0}, step=2)
        raise KeyboardInterrupt
    with tracked_run(store, "second part", tags={}, resume=tracker.run_id) as again:
        assert again.last_step("loss") == 2
        again.metrics({"loss": 1.0}, step=3)
        monkeypatch.setattr(unreliable, "fault", staticmethod(lambda: ""))
    assert steps(store, tracker.run_id) == [1, 2, 3]
    assert client(store).get_run(tracker.run_id).info.status == "FINISHED"


def test_what_mlflow_refuses_is_kept_and_fails_the_run(store: Store) -> None:
    with pytest.raises(RejectedError, match=r"refused 1 writes .*bad/\.\./name") as caught:  # noqa: SIM117
        with tracked_run(store, "refused", tags={}) as tracker:
            tracker.metrics({"bad/../name": 1.0}, step=1)
            tracker.metrics({"loss": 1.0}, step=1)  # sent in the same call, and not to blame
    run = client(store).get_run(tracker.run_id)
    assert run.info.status == "FAILED" and "bad/../name" in run.data.tags["tokenmill.error"]
    assert steps(store, tracker.run_id) == [1]
    rejected = store.root / "spool" / tracker.run_id / "rejected.jsonl"
    assert str(rejected) in str(caught.value) and '"bad/../name"' in rejected.read_text()


KILLED = """
import os, signal, sys, time
import infra.journal as journal
from infra.mlflow_tracker import tracked_run
from tasks.store import Store

confirm, confirmed = journal.Journal.confirm, 0

def dies(self, line):
    global confirmed
    if line.entry["kind"] == "metrics":
        confirmed += 1
        if confirmed == 5:
            os.kill(os.getpid(), signal.SIGKILL)  # MLflow has it; nobody knows
    confirm(self, line)

journal.Journal.confirm = dies
with tracked_run(Store.open(sys.argv[1]), "killed", tags={}) as tracker:
    print(tracker.run_id, flush=True)
    for step in range(100_000):
        tracker.metrics({"loss": 0.5}, step=step)
        print(step, flush=True)
        time.sleep(0.001)  # let the sender have a turn
"""


def test_what_a_killed_process_has_written_arrives_once(store: Store, tmp_path: Path) -> None:
    client(store).search_experiments()  # the database is made
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(
        [sys.executable, str(script), str(store.root)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    run_id, *written = ended.stdout.split()
    assert len(steps(store, run_id)) > 0
    assert deliver_spools(store) == [run_id]
    assert deliver_spools(store) == []
    arrived = steps(store, run_id)
    assert arrived == list(range(len(arrived)))
    assert len(arrived) - len(written) in (0, 1)  # the last may have been killed before it could say so
    assert client(store).get_run(run_id).info.status == "RUNNING"  # `reconcile` closes it


def test_a_run_cannot_begin_without_an_answer(tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with (
        pytest.raises(UnavailableError, match=r"beginning the run lonely: MLflow has not answered"),
        tracked_run(Store.open(tmp_path), "lonely", tags={}),
    ):
        raise AssertionError("not reached")


def test_only_what_can_pass_is_tried_again() -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("broken connection")
        return 5

    assert answered(call, "asking") == 5
    refused = MlflowException.invalid_parameter_value("no")
    assert not is_away(refused) and not is_away(PermissionError("no")) and is_away(ConnectionRefusedError())
    with pytest.raises(MlflowException):
        answered(lambda: (_ for _ in ()).throw(refused), "asking")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def mlflow_server(root: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root / 'server.db'}",
        "--artifacts-destination",
        str(root / "files"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (root / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=root, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None and time.monotonic() < deadline, (root / "server.log").read_text()
                time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # in the middle of whatever it does
        server.wait()


@pytest.mark.verify
def test_a_server_that_was_killed_for_a_while_has_everything_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    store = Store.open(tmp_path / "store")
    with mlflow_server(tmp_path, port):
        tracking = tracked_run(store, "long", tags={})
        tracker = tracking.__enter__()
        for step in range(NUM_STEPS // 2):
            tracker.metrics({"loss": 1 / (step + 1)}, step=step)
    slowest_s = 0.0
    for step in range(NUM_STEPS // 2, NUM_STEPS):  # nobody there
        began_s = time.monotonic()
        tracker.metrics({"loss": 1 / (step + 1)}, step=step)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    tracker.text("a card", "card.md")
    tracker.rename("longer")
    time.sleep(3)
    assert slowest_s < 1.0, "the writer waited for the server"
    with mlflow_server(tmp_path, port):
        tracking.__exit__(None, None, None)
        assert steps(store, tracker.run_id) == list(range(NUM_STEPS))
        run = client(store).get_run(tracker.run_id)
        assert (run.info.status, run.info.run_name) == ("FINISHED", "longer")
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert {"card.md", "environment.txt"} <= {file.path for file in client(store).list_artifacts(tracker.run_id)}
        assert list((store.root / "spool").iterdir()) == []
