"""`tokenmill up` as a user starts it, from a folder full of decoys; refusals and failures of its parts."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import local_stack
from infra.local_stack import StackError, _Process, _Service, _Signals, serve_until_interrupted
from infra.settings import UP_FILE
from tasks.store import Store

READY_TIMEOUT_S = 180  # two noisy cores, shared
STOP_TIMEOUT_S = 40
DECOY = "raise SystemExit('a decoy was imported')"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


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


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def get(port: int, path: str) -> tuple[int, bytes]:
    return send(port, "GET", path, None)


def send(port: int, method: str, path: str, body: Any) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def listening_addresses(ports: list[int]) -> set[str]:
    """Local addresses, as the kernel's tables write them, on which somebody listens at these ports."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            address, port = local.split(":")
            if state == "0A" and int(port, 16) in ports:  # TCP_LISTEN
                found.add(address)
    return found


class Stack:
    """`tokenmill up` as its own process."""

    def __init__(self, folder: Path, store: Path, environment: dict[str, str] | None = None) -> None:
        self.store, self.output, self.errors = store, folder / "up.out", folder / "up.err"
        self.prefect_port, self.mlflow_port = free_ports(2)
        decoys = folder / "decoys"
        for name in ("tasks", "flows", "infra", "model", "prefect", "mlflow", "uvicorn", "ray"):
            (decoys / name).mkdir(parents=True, exist_ok=True)
            (decoys / name / "__init__.py").write_text(DECOY)
        self.command = [str(Path(sys.executable).parent / "tokenmill"), "up", "--store", str(store)]
        self.command += ["--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port)]
        self.decoys = decoys
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "MLFLOW_", "RAY_", "TOKENMILL_"))
        }
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                self.command, cwd=decoys, stdout=output, stderr=errors, env=clean | (environment or {})
            )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.errors.read_text()
            return (self.store / UP_FILE).is_file()

        wait_until(ready, READY_TIMEOUT_S)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def clear(self) -> None:
        """Whatever a failed test has left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        wait_until(lambda: not alive(self.store), STOP_TIMEOUT_S)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    started = Stack(tmp_path, tmp_path / "store")
    yield started
    started.clear()


def names_of_deployments(stack: Stack) -> set[str]:
    status, body = send(stack.prefect_port, "POST", "/api/deployments/filter", {})
    assert status == 200
    return {deployment["name"] for deployment in json.loads(body)}


# the whole stack


@pytest.mark.timeout(400)
def test_up_serves_both_pages_until_interrupted(stack: Stack) -> None:
    stack.wait_until_ready()
    served = json.loads((stack.store / UP_FILE).read_bytes())
    prefect, mlflow = f"http://127.0.0.1:{stack.prefect_port}", f"http://127.0.0.1:{stack.mlflow_port}"
    assert served == {"prefect": prefect, "mlflow": mlflow, "pid": stack.process.pid}
    wait_until(lambda: "Ctrl-C" in stack.output.read_text(), 5)
    assert prefect in stack.output.read_text() and mlflow in stack.output.read_text()

    assert listening_addresses([stack.prefect_port, stack.mlflow_port]) == {"0100007F"}  # 127.0.0.1
    assert get(stack.prefect_port, "/api/health") == (200, b"true")
    assert get(stack.mlflow_port, "/health") == (200, b"OK")
    status, page_settings = get(stack.prefect_port, "/ui-settings")
    assert status == 200 and json.loads(page_settings)["api_url"] == f"{prefect}/api"
    assert get(stack.mlflow_port, "/")[0] == 200
    assert names_of_deployments(stack) >= {"refresh", "nightly-refresh", "pretrain", "evaluate", "pipeline"}
    guide = stack.output.read_text()
    assert f"{prefect}/deployments" in guide and f"{mlflow}/#/?workflowType=machine_learning" in guide
    assert all(len(line) <= 120 for line in guide.splitlines() if str(stack.store) not in line)

    working_folders = {Path(f"/proc/{pid}/cwd").readlink() for pid in alive(stack.store)}
    assert working_folders == {stack.store / "empty"}
    for log in (stack.store / "logs").iterdir():
        assert "decoy" not in log.read_text()
        assert (stack.store / "ray-token").read_text() not in log.read_text()

    second = subprocess.run(stack.command, cwd=stack.decoys, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1 and f"process {stack.process.pid} at {prefect}" in second.stderr

    assert stack.stop() == 0
    assert alive(stack.store) == {}
    assert not (stack.store / UP_FILE).exists()
    assert not listening_addresses([stack.prefect_port, stack.mlflow_port])


@pytest.mark.verify
@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", ["prefect server", "uvicorn", "flows.deployments"])
def test_service_that_dies_is_named_and_the_others_end(stack: Stack, service: str) -> None:
    stack.wait_until_ready()
    victim = max(pid for pid, command in alive(stack.store).items() if service in command and "tied" not in command)
    os.kill(victim, signal.SIGKILL)
    assert stack.process.wait(STOP_TIMEOUT_S) == 1
    name = {"prefect server": "prefect", "uvicorn": "mlflow", "flows.deployments": "deployments"}[service]
    assert f"{name} has ended by itself; the end of {stack.store}/logs/{name}.log" in stack.errors.read_text()
    assert alive(stack.store) == {}
    assert not (stack.store / UP_FILE).exists()


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_killed_up_leaves_no_process_and_the_next_one_keeps_the_history(tmp_path: Path, stack: Stack) -> None:
    stack.wait_until_ready()
    flow_run = {"name": "before the kill", "flow_id": flow_of(stack, "refresh_corpus"), "state": {"type": "PENDING"}}
    status, body = send(stack.prefect_port, "POST", "/api/flow_runs/", flow_run)
    assert status == 201
    experiment = {"name": "before the kill"}
    status, _ = send(stack.mlflow_port, "POST", "/api/2.0/mlflow/experiments/create", experiment)
    assert status == 200

    stack.process.kill()
    wait_until(lambda: not alive(stack.store), STOP_TIMEOUT_S)
    assert (stack.store / UP_FILE).exists()  # nobody was left to remove it

    (tmp_path / "again").mkdir()
    again = Stack(tmp_path / "again", stack.store)
    try:
        wait_until(lambda: "Ctrl-C" in again.output.read_text(), READY_TIMEOUT_S)
        assert get(again.prefect_port, f"/api/flow_runs/{json.loads(body)['id']}")[0] == 200
        path = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=before%20the%20kill"
        assert get(again.mlflow_port, path)[0] == 200
        assert again.stop(signal.SIGTERM) == 0
    finally:
        again.clear()


def flow_of(stack: Stack, name: str) -> str:
    status, body = get(stack.prefect_port, f"/api/flows/name/{name}")
    assert status == 200
    return str(json.loads(body)["id"])


@pytest.fixture
def hang_ups_arrive() -> Iterator[None]:
    """Where the tests themselves run under nohup, what they start would ignore SIGHUP, as it should."""
    earlier = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, earlier)


@pytest.mark.usefixtures("hang_ups_arrive")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_while_starting(stack: Stack, number: signal.Signals) -> None:
    wait_until(lambda: "waiting for prefect" in stack.errors.read_text(), 60)
    assert stack.stop(number) == 0
    assert alive(stack.store) == {}
    assert not (stack.store / UP_FILE).exists()


# refusals, before anything is started


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return Store.open(tmp_path / "store")


def refused(store: Store, prefect_port: int, mlflow_port: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve_until_interrupted(store, prefect_port=prefect_port, mlflow_port=mlflow_port)
    assert not (store.root / "logs").exists()


@pytest.mark.parametrize("taken", ["--prefect-port", "--mlflow-port"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_taken_port(store: Store, taken: str, host: str) -> None:
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        port, free = other.getsockname()[1], free_ports(1)[0]
        ports = (port, free) if taken == "--prefect-port" else (free, port)
        refused(store, *ports, f"port {port} is taken by another program; choose another with {taken}")


def test_port_in_time_wait_is_free(store: Store) -> None:
    """A page was open when the last server ended: its port can be used again at once."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server's side closes first, and so keeps the port in TIME_WAIT
            client.recv(1)
    local_stack._check_ports({"--prefect-port": port})


@pytest.mark.parametrize(("prefect_port", "mlflow_port"), [(65536, 5000), (4200, 0)])
def test_port_out_of_range(store: Store, prefect_port: int, mlflow_port: int) -> None:
    refused(store, prefect_port, mlflow_port, "a port is a number from 1 to 65535")


def test_highest_port_is_one() -> None:
    local_stack._check_ports({"--prefect-port": 65535})


def test_one_port_for_both(store: Store) -> None:
    (port,) = free_ports(1)
    refused(store, port, port, f"port {port} is asked for twice; choose another with --mlflow-port")


def test_store_that_is_being_served(store: Store) -> None:
    prefect_port, mlflow_port = free_ports(2)
    with store.lock("up"):
        refused(store, prefect_port, mlflow_port, "just starting or stopping; stop that one first")


def test_other_mlflow_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    prefect_port, mlflow_port = free_ports(2)
    refused(store, prefect_port, mlflow_port, "MLFLOW_TRACKING_URI names another MLflow server; unset it")


# one service, with a small real program in its place


def service(store: Store, program: str, is_ready: Callable[[], bool] = lambda: False) -> _Process:
    (store.root / "logs").mkdir(exist_ok=True)
    (store.root / "empty").mkdir(exist_ok=True)
    return _Process(_Service("small", ("-c", program), is_ready), store, os.environ, [])


def test_error_shows_the_end_of_this_starts_log_only(store: Store) -> None:
    processes = []
    for word in ("earlier", "later"):
        process = service(store, f"for line in range(100): print('{word}', line)\nraise SystemExit(7)")
        processes.append(process)
        with pytest.raises(StackError, match="small has ended by itself") as caught:
            local_stack._wait_until_ready(process, [process], time.monotonic(), _Signals())
        process.untie()
        process.join()
    assert "later 99" in str(caught.value) and "later 70" in str(caught.value)
    assert "later 69" not in str(caught.value) and "earlier" not in str(caught.value)
    log = processes[0].log.read_text()
    assert re.findall(r"^--- \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ small started$", log, re.MULTILINE) and "earlier 0" in log


def test_service_that_never_gets_ready(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_stack, "READY_TIMEOUT_S", 1.0)
    process = service(store, "print('so far', flush=True); import time; time.sleep(600)")
    try:
        with pytest.raises(StackError, match=r"small is not ready after 1 s; the end of .*small\.log:\n    so far"):
            local_stack._wait_until_ready(process, [process], time.monotonic(), _Signals())
    finally:
        process.untie()
        process.join()
    assert process.died()


def test_servers_outlive_the_deployments_that_report_to_them(store: Store) -> None:
    """With the starter's own end closed, a server's tie is still held by the launcher of what depends on it."""
    server = service(store, "import time; time.sleep(600)")
    dependent = _Process(
        _Service("dependent", ("-c", "import time; time.sleep(600)"), lambda: True), store, os.environ, [server]
    )
    server.untie()
    time.sleep(1)
    assert not server.died()
    dependent.untie()
    dependent.join()
    server.join()
    assert server.died()


def test_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals = _Signals()
    with signals.caught():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: signals.received is not None, 5)
    assert signals.received is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
