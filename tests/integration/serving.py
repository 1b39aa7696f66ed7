"""`tokenmill up` for tests, and its two servers asked as any client asks them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.integration.running import environment

READY_TIMEOUT_S = 180
RUN_TIMEOUT_S = 300
_STOP_TIMEOUT_S = 60
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_DECOYS = ("tasks", "flows", "infra", "model")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answer(address: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON content of one request."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    finally:
        connection.close()


def request(address: str, method: str, path: str, body: Any = None) -> Any:
    """The content of an answer that must be a success."""
    status, content = answer(address, method, path, body)
    assert status < 300, f"{method} {path}: {status} {content!r:.500}"
    return content


class Served:
    """A served store: where its pages are, and what a test asks of them."""

    def __init__(self, store: Path, prefect: str, mlflow: str) -> None:
        self.store, self.prefect, self.mlflow = store, prefect, mlflow

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by `flow/name`."""
        found: dict[str, Any] = request(self.prefect, "GET", f"/api/deployments/name/{name}")
        return found

    def trigger(self, name: str, parameters: dict[str, Any]) -> str:
        """Id of a new run of the deployment `flow/name`."""
        path = f"/api/deployments/{self.deployment(name)['id']}/create_flow_run"
        run = request(self.prefect, "POST", path, {"parameters": {"parameters": parameters}})
        return str(run["id"])

    def set_parameters(self, name: str, parameters: dict[str, Any]) -> None:
        """Edit a deployment's own parameters, as on its page."""
        path = f"/api/deployments/{self.deployment(name)['id']}"
        request(self.prefect, "PATCH", path, {"parameters": parameters})

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = request(self.prefect, "GET", f"/api/flow_runs/{run_id}")
        return found

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        """Runs of the deployment `flow/name`, the first one first."""
        body = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = request(self.prefect, "POST", "/api/flow_runs/filter", body)
        return found

    def log(self, run_id: str) -> str:
        lines = request(self.prefect, "POST", "/api/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})
        return "\n".join(line["message"] for line in lines)

    def ended(self, run_id: str, state: str = "COMPLETED", timeout_s: float = RUN_TIMEOUT_S) -> dict[str, Any]:
        """The run, when it has ended; it must have ended in a state of this type."""
        deadline = time.monotonic() + timeout_s
        while (run := self.run(run_id))["state"]["type"] not in FINAL:
            assert time.monotonic() < deadline, run["state"]
            time.sleep(0.5)
        assert run["state"]["type"] == state, f"{run['state']}\n{self.log(run_id)}"
        return run

    def artifacts(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Artifacts of a flow run by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
        return {found["key"]: found for found in request(self.prefect, "POST", "/api/artifacts/filter", body)}

    def tracked(self, run_id: str) -> dict[str, Any]:
        """The MLflow run of a flow run."""
        path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tokenmill"
        experiment = request(self.mlflow, "GET", path)["experiment"]["experiment_id"]
        search = {"experiment_ids": [experiment], "filter": f"tags.`prefect.flow_run_id` = '{run_id}'"}
        (found,) = request(self.mlflow, "POST", "/api/2.0/mlflow/runs/search", search)["runs"]
        run: dict[str, Any] = found
        return run

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float = RUN_TIMEOUT_S) -> Any:
        """The first true value of `condition`."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, what
            time.sleep(0.5)
        return value


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A new store in `folder`, served from a current folder full of decoys; stopped as with Ctrl-C at the end."""
    store = folder / "store"
    decoys = folder / "decoys"
    for name in _DECOYS:
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text("raise SystemExit('a decoy was imported')")
    errors = folder / "up.err"
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    with errors.open("w") as error_file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "tokenmill"), "up", "--store", str(store), *ports],
            cwd=decoys,
            stdout=subprocess.DEVNULL,
            stderr=error_file,
            env=environment(TOKENMILL_STORE=str(store)),
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not (store / "up.json").is_file():
            assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
            time.sleep(0.2)
        addresses = json.loads((store / "up.json").read_bytes())
        yield Served(store, addresses["prefect"], addresses["mlflow"])
        process.send_signal(signal.SIGINT)
        assert process.wait(_STOP_TIMEOUT_S) == 0
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
            process.wait(_STOP_TIMEOUT_S)
