"""The training slot on a real Prefect server, with runs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.prefect_server import PrefectServer
from tests.integration.running import environment, wait_until

START_TIMEOUT_S = 60.0
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


class Slots:
    """Runs that ask for the slot, each test's with names and a store of their own."""

    def __init__(self, server: PrefectServer, folder: Path) -> None:
        self.server, self.folder, self.log = server, folder, folder / "log"
        self.log.touch()

    def run(self, name: str, hold_s: float, store: str = "store") -> subprocess.Popen[bytes]:
        arguments = (name, str(self.log), str(hold_s))
        return self.server.run(_HOLDER, *arguments, TOKENMILL_STORE=str(self.folder / store))

    def events(self) -> list[tuple[str, str]]:
        return [(line.split()[1], line.split()[2]) for line in self.log.read_text().splitlines()]

    def wait_for(self, name: str, what: str) -> None:
        wait_until(lambda: (name, what) in self.events(), START_TIMEOUT_S, f"{name} never {what}")

    def wait_for_message(self, name: str, text: str) -> None:
        wait_until(lambda: text in self.server.state(name)[2], START_TIMEOUT_S, f"{name} does not say {text!r}")

    def free(self) -> int:
        limit = self.server.request("GET", "/v2/concurrency_limits/training")
        return int(limit["limit"] - limit["active_slots"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def slots(server: PrefectServer, tmp_path: Path) -> Slots:
    return Slots(server, tmp_path)


@pytest.mark.verify
def test_never_two_at_once_and_first_come_first_served(slots: Slots) -> None:
    runs = []
    for name in ("one", "two", "three"):
        runs.append(slots.run(name, 6.0))
        slots.wait_for(name, "asks")
    slots.wait_for_message("three", "'one' (training), 'two' (waiting)")
    assert slots.server.state("one")[:2] == ("RUNNING", "Training")
    assert slots.server.state("three")[:2] == ("RUNNING", "AwaitingTraining")
    assert [run.wait(timeout=90) for run in runs] == [0, 0, 0]
    held = [event for event in slots.events() if event[1] != "asks"]
    assert held == [(name, what) for name in ("one", "two", "three") for what in ("begins", "ends")]
    assert slots.server.state("three")[:2] == ("COMPLETED", "Completed")
    assert slots.free() == 1


@pytest.mark.verify
def test_a_killed_holder_and_a_killed_waiter_hold_nobody_up(slots: Slots) -> None:
    started = [slots.run("holder", 600.0)]
    try:
        slots.wait_for("holder", "begins")
        started.append(slots.run("waiter", 0.0))
        slots.wait_for("waiter", "asks")
        started.append(slots.run("last", 0.0))
        slots.wait_for_message("last", "'waiter' (waiting)")
        for process in started[:2]:
            process.kill()
            process.wait()
        killed = time.monotonic()
        assert started[2].wait(timeout=60) == 0
        assert time.monotonic() - killed < 20
        assert ("waiter", "begins") not in slots.events() and slots.free() == 1
    finally:
        for process in started:
            process.kill()


@pytest.mark.verify
def test_a_holder_of_another_store_loses_its_slot_with_its_lease(slots: Slots) -> None:
    """Nothing but the lease tells of it: Prefect's own clock, 90 s and a look every 10."""
    started = [slots.run("elsewhere", 600.0, store="other")]
    try:
        slots.wait_for("elsewhere", "begins")
        started.append(slots.run("here", 0.0))
        slots.wait_for_message("here", "of another store")
        started[0].kill()
        started[0].wait()
        killed = time.monotonic()
        assert started[1].wait(timeout=150) == 0
        assert time.monotonic() - killed < 130
    finally:
        for process in started:
            process.kill()


@pytest.mark.verify
def test_an_interrupted_wait_ends_and_an_operators_limit_stays(slots: Slots) -> None:
    slots.server.request("PATCH", "/v2/concurrency_limits/training", {"limit": 0})
    waiter = slots.run("hopeful", 0.0)
    try:
        slots.wait_for_message("hopeful", "which is 0")
        waiter.send_signal(signal.SIGINT)
        assert waiter.wait(timeout=20) != 0
        assert ("hopeful", "begins") not in slots.events()
        assert slots.server.request("GET", "/v2/concurrency_limits/training")["limit"] == 0
        assert not list((slots.folder / "store" / "locks").glob("training-*.json"))
    finally:
        waiter.kill()
        slots.server.request("PATCH", "/v2/concurrency_limits/training", {"limit": 1})


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
