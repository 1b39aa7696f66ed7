"""Runner and flow killed at once, beside a flow that lives: Prefect, MLflow and the store end as they should.

Prefect's server is a process of its own here: `tokenmill up` would end with its runner.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from infra.settings import environment as variables_of
from tasks.store import Store
from tests.integration.running import alive, command, environment, family, wait_until
from tests.integration.serving import Served, answer, free_port, request

pytestmark = [pytest.mark.verify, pytest.mark.timeout(900)]
READY_S = 180.0
CRASHED_S = 180.0  # 90 s without a heartbeat, and the server's looks at that


class Stalling(http.server.BaseHTTPRequestHandler):
    """A file that never comes to its end: a byte each second, so that no reader gives up."""

    protocol_version = "HTTP/1.1"

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.send_header("ETag", '"1"')
        self.end_headers()

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        self._head()
        try:
            while True:
                self.wfile.write(b" ")
                time.sleep(1)
        except (BrokenPipeError, ConnectionResetError):
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def endless() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/endless.jsonl"
    server.shutdown()
    server.server_close()


@contextmanager
def process(arguments: list[str], variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session; nothing of its family is left afterwards."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            arguments, env=variables, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield started
    finally:
        kill_family(started)


def kill_family(started: subprocess.Popen[bytes]) -> None:
    """SIGKILL to it and all below it at once, as when power fails."""
    for pid in family(started.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            continue
    started.wait()


def test_runner_and_flow_killed_beside_a_flow_that_lives(tmp_path: Path, endless: str) -> None:
    store = Store.open(tmp_path / "store")
    port = free_port()
    prefect = f"http://127.0.0.1:{port}"
    variables = variables_of(store) | environment(TOKENMILL_STORE=str(store.root))
    variables |= {name: value for name, value in variables_of(store).items() if name.startswith(("PREFECT_", "RAY_"))}
    variables |= {"PREFECT_API_URL": f"{prefect}/api", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    variables |= {"PREFECT_UI_URL": prefect, "TMPDIR": "/tmp"}
    served = Served(store.root, prefect, "")

    def state(run_id: str) -> str:
        return str(served.run(run_id)["state"]["type"])

    def holds_lock(run_id: str) -> bool:
        return store.is_locked(f"flow-{run_id}")

    def tracked() -> dict[str, Any]:
        client = MlflowClient(tracking_uri=f"sqlite:///{store.root}/mlflow/mlflow.db")
        experiment = client.get_experiment_by_name("tokenmill")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return {run.data.tags["prefect.flow_run_id"]: run for run in runs}

    with ExitStack() as stack:
        python = [sys.executable, "-P", "-m"]
        server = [*python, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(process(server, variables, tmp_path / "prefect.log"))
        wait_until(lambda: healthy(prefect), READY_S, "Prefect's server is not ready")
        runner = stack.enter_context(process([*python, "flows.deployments"], variables, tmp_path / "runner.log"))
        wait_until(lambda: is_polled(prefect), READY_S, "the runner does not poll")

        doomed = served.trigger("refresh_corpus/refresh", {"name": "doomed", "input": {"source": endless}})
        refresh = [*command(), "refresh", "--name", "living", "--source", endless]
        stack.enter_context(process(refresh, variables, tmp_path / "living.log"))
        wait_until(lambda: holds_lock(doomed) and doomed in tracked(), READY_S, "the triggered run has not begun")
        wait_until(lambda: len(tracked()) == 2, READY_S, "the run beside it has not begun")
        (living,) = set(tracked()) - {doomed}
        time.sleep(5)  # a first heartbeat

        kill_family(runner)
        wait_until(lambda: not holds_lock(doomed), 10, "a killed flow holds its lock")
        assert state(doomed) == "RUNNING"  # there is nobody left to say otherwise
        wait_until(lambda: state(doomed) == "CRASHED", CRASHED_S, "the heartbeat automation has not crashed the run")
        assert "No heartbeat" in served.run(doomed)["state"]["message"]
        assert state(living) == "RUNNING" and holds_lock(living)

        assert tracked()[doomed].info.status == "RUNNING"
        stack.enter_context(process([*python, "flows.deployments"], variables, tmp_path / "runner.log"))
        tidied = served.trigger("reconcile/reconcile", {"min_age_minutes": 0})
        wait_until(lambda: state(tidied) in {"COMPLETED", "FAILED", "CRASHED"}, READY_S, "reconcile has not ended")
        assert state(tidied) == "COMPLETED", served.run(tidied)["state"]
        assert tracked()[doomed].info.status == "KILLED"
        assert tracked()[living].info.status == "RUNNING" and state(living) == "RUNNING" and holds_lock(living)
        assert not (store.root / "locks" / f"flow-{doomed}.lock").exists()
        filtered = {"artifacts": {"flow_run_id": {"any_": [tidied]}, "key": {"any_": ["reconcile"]}}}
        (table,) = request(prefect, "POST", "/api/artifacts/filter", filtered)
        assert doomed in table["data"] and "MLflow run ended as KILLED" in table["data"]
        wait_until(lambda: scheduled(prefect, served.deployment("reconcile/reconcile")["id"]), 120, "nothing scheduled")
    wait_until(lambda: not alive(store.root), 60, "a process is left")


def healthy(prefect: str) -> bool:
    try:
        return answer(prefect, "GET", "/api/health")[0] == 200
    except OSError:
        return False


def is_polled(prefect: str) -> bool:
    deployments = request(prefect, "POST", "/api/deployments/filter", {})
    return any(deployment["last_polled"] for deployment in deployments)


def scheduled(prefect: str, deployment_id: str) -> bool:
    runs = request(prefect, "POST", "/api/flow_runs/filter", {"deployments": {"id": {"any_": [deployment_id]}}})
    return any(run["auto_scheduled"] for run in runs)
