"""The training slot on a real Prefect server, with runs in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.running import environment, wait_until

SERVER_TIMEOUT_S, START_TIMEOUT_S = 120.0, 60.0
_HOLDER = """
import sys, time
from pathlib import Path
from prefect import flow
from flows.training_slot import training_slot

name, log, hold_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])

def say(what):
    with log.open("a") as file:
        file.write(f"{time.monotonic()} {name} {what}\\n")

@flow(name="holder", flow_run_name=name)
def holder():
    say("asks")
    with training_slot():
        say("begins")
        time.sleep(hold_s)
        say("ends")

holder()
"""


class Server:
    """`prefect server start` on a free port, and runs that ask it for the slot."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.variables = environment(
            PREFECT_HOME=str(folder / "prefect"),
            PREFECT_API_URL=f"http://127.0.0.1:{self.port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="ERROR",
            DO_NOT_TRACK="true",
            TOKENMILL_STORE=str(folder / "store"),
        )
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        output = (self.folder / "server.log").open("ab")
        process = subprocess.Popen(command, env=self.variables, stdout=output, stderr=output)
        output.close()
        wait_until(self._answers, SERVER_TIMEOUT_S, "the server does not answer")
        return process

    def _answers(self) -> bool:
        try:
            return bool(self.request("GET", "/health"))
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"http://127.0.0.1:{self.port}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return json.loads(response.read() or b"null")

    def restart(self) -> None:
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)

    def run(self, name: str, hold_s: float, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", _HOLDER, name, str(self.log), str(hold_s)]
        return subprocess.Popen(command, env=self.variables | variables, cwd=self.folder)

    def events(self) -> list[tuple[str, str]]:
        return [(line.split()[1], line.split()[2]) for line in self.log.read_text().splitlines()]

    def state(self, name: str) -> tuple[str, str, str]:
        (run,) = self.request("POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return run["state"]["type"], run["state"]["name"], run["state"]["message"] or ""

    def free_slots(self) -> int:
        limit = self.request("GET", "/v2/concurrency_limits/training")
        return int(limit["limit"] - limit["active_slots"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def wait_for(server: Server, name: str, what: str) -> None:
    wait_until(lambda: (name, what) in server.events(), START_TIMEOUT_S, f"{name} never {what}")


@pytest.mark.verify
def test_never_two_at_once_and_first_come_first_served(server: Server) -> None:
    runs = []
    for name in ("one", "two", "three"):
        runs.append(server.run(name, 6.0))
        wait_for(server, name, "asks")
    wait_until(lambda: server.state("three")[1] == "AwaitingTraining", START_TIMEOUT_S, "the queue is not shown")
    assert server.state("one")[:2] == ("RUNNING", "Training")
    kind, _, message = server.state("three")
    assert kind == "RUNNING" and "'one' (training), 'two' (waiting)" in message
    assert [run.wait(timeout=90) for run in runs] == [0, 0, 0]
    held = [event for event in server.events() if event[1] != "asks"]
    assert held == [(name, what) for name in ("one", "two", "three") for what in ("begins", "ends")]
    assert server.state("three")[:2] == ("COMPLETED", "Completed")
    assert server.free_slots() == 1


@pytest.mark.verify
def test_a_killed_holder_and_a_killed_waiter_hold_nobody_up(server: Server) -> None:
    holder = server.run("holder", 600.0)
    wait_for(server, "holder", "begins")
    waiter, last = server.run("waiter", 0.0), None
    try:
        wait_for(server, "waiter", "asks")
        last = server.run("last", 0.0)
        wait_for(server, "last", "asks")
        wait_until(lambda: "waiter" in server.state("last")[2], START_TIMEOUT_S, "the queue is not shown")
        waiter.kill()
        waiter.wait()
        holder.kill()
        holder.wait()
        killed = time.monotonic()
        assert last.wait(timeout=60) == 0
        assert time.monotonic() - killed < 20
        assert ("waiter", "begins") not in server.events() and server.free_slots() == 1
    finally:
        for process in filter(None, (holder, waiter, last)):
            process.kill()


@pytest.mark.verify
def test_a_holder_of_another_store_loses_its_slot_with_its_lease(server: Server) -> None:
    """Nothing but the lease tells of it: Prefect's own clock, 90 s and a look every 10."""
    holder = server.run("holder", 600.0, TOKENMILL_STORE=str(server.folder / "other"))
    waiter = None
    try:
        wait_for(server, "holder", "begins")
        waiter = server.run("waiter", 0.0)
        wait_until(
            lambda: "of another store" in server.state("waiter")[2] if ("waiter", "asks") in server.events() else False,
            START_TIMEOUT_S,
            "the wait is not shown",
        )
        holder.kill()
        holder.wait()
        killed = time.monotonic()
        assert waiter.wait(timeout=150) == 0
        assert time.monotonic() - killed < 130
    finally:
        for process in filter(None, (holder, waiter)):
            process.kill()


@pytest.mark.verify
def test_an_interrupted_wait_ends_and_an_operators_limit_stays(server: Server) -> None:
    server.request("POST", "/v2/concurrency_limits/", {"name": "training", "limit": 0})
    waiter = server.run("waiter", 0.0)
    try:
        wait_until(
            lambda: ("waiter", "asks") in server.events() and server.state("waiter")[1] == "AwaitingTraining",
            START_TIMEOUT_S,
            "the wait is not shown",
        )
        os.kill(waiter.pid, signal.SIGINT)
        assert waiter.wait(timeout=20) != 0
        assert ("waiter", "begins") not in server.events()
        assert server.request("GET", "/v2/concurrency_limits/training")["limit"] == 0
        assert not list((server.folder / "store" / "locks").glob("training-*.json"))
    finally:
        waiter.kill()


@pytest.mark.verify
@pytest.mark.parametrize("own", [True, False])
def test_a_command_without_a_server_takes_over_from_a_killed_one(tmp_path: Path, own: bool) -> None:
    """The server that lives as long as the command forgets leases and never expires them."""
    store = tmp_path / "store"
    variables = environment(
        PREFECT_HOME=str(store / "prefect"),
        PREFECT_API_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}",
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
        PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="ERROR",
        DO_NOT_TRACK="true",
        TOKENMILL_STORE=str(store),
    )
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-P", "-c", _HOLDER]
    holder = subprocess.Popen([*command, "holder", str(log), "600"], env=variables, cwd=tmp_path, process_group=0)
    try:
        wait_until(lambda: "begins" in log.read_text(), START_TIMEOUT_S * 2, "the slot was not given")
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
    if not own:  # killed between the server's answer and its note of it
        for file in (store / "locks").glob("training-*.json"):
            file.unlink()
    subprocess.run([*command, "next", str(log), "0"], env=variables, cwd=tmp_path, check=True, timeout=150)
    assert log.read_text().split()[-1] == "ends"
