"""`tokenmill up` is ended while a flow run is in progress: both histories say so, and nothing of it goes on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

READY_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)


def alive(store: Path) -> dict[int, str]:
    """Command lines of the processes that work on this store, whatever session they are in."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"TOKENMILL_STORE={store}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def request(port: int, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status < 300, content[:500]
        return json.loads(content)
    finally:
        connection.close()


def rows(database: Path, query: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    store = tmp_path / "store"
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    command = [str(Path(sys.executable).parent / "tokenmill"), "up", "--store", str(store)]
    command += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "RAY_", "TOKENMILL_"))
    }
    process = subprocess.Popen(command, cwd=tmp_path, env=clean)
    try:
        wait_until(lambda: process.poll() is not None or (store / "up.json").is_file(), READY_TIMEOUT_S)
        assert process.poll() is None
        yield process, ports[0], store
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        wait_until(lambda: not alive(store), STOP_TIMEOUT_S)


@pytest.mark.verify
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_run_in_progress_is_recorded_as_cancelled(
    served: tuple[subprocess.Popen[bytes], int, Path], tmp_path: Path, number: signal.Signals
) -> None:
    process, port, store = served
    source = tmp_path / "many.jsonl"
    text = "It was the doctor, of all people, who brought the first bicycle to this valley in the year of the storm. "
    source.write_text("".join(json.dumps({"text": f"{line} {text * 40}"}) + "\n" for line in range(20_000)))
    deployment = request(port, "GET", "/api/deployments/name/refresh_corpus/refresh")["id"]
    parameters = {"parameters": {"parameters": {"name": "many", "input": {"source": str(source)}}}}
    run = request(port, "POST", f"/api/deployments/{deployment}/create_flow_run", parameters)["id"]
    wait_until(lambda: any("ray::" in command for command in alive(store).values()), 120)

    process.send_signal(number)
    wait_until(lambda: process.poll() is not None and not alive(store), STOP_TIMEOUT_S)
    query = f"select state_type from flow_run where id = '{run}'"
    assert rows(store / "prefect" / "prefect.db", query) == [("CANCELLED",)]
    assert rows(store / "mlflow" / "mlflow.db", "select status from runs") == [("KILLED",)]
