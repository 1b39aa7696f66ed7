"""`tokenmill up`: Prefect's server, MLflow's server and the deployments, on this machine, until told to end.

Both servers listen on 127.0.0.1 only and read the databases that the command line writes, so they show its history.
The deployments hold the servers' ties as well as their own (infra/tied.py): however this process ends, a running flow
can still report its last state before the servers go.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import IO, Any

from infra.settings import UP_FILE, environment, mlflow_artifacts, mlflow_uri, prefect_database
from infra.tied import GRACE_S
from tasks.atomic import write_json
from tasks.store import InUseError, Store

HOST = "127.0.0.1"
READY_TIMEOUT_S = 180.0  # for each service; ~20 s is usual on two cores, and a busy machine gets its time
_POLL_S = 0.2
_REQUEST_TIMEOUT_S = 5.0
_TAIL_LINES = 30
_KILL_MARGIN_S = 5.0  # beyond the launcher's own grace


class StackError(RuntimeError):
    """A service died, or did not get ready: which one, and the end of its log."""


@dataclass(frozen=True)
class _Service:
    name: str
    arguments: tuple[str, ...]  # behind the interpreter
    is_ready: Callable[[], bool]


class _Signals:
    """Remembers the first signal that asks this process to end. Polled: nothing is interrupted half-way."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        wanted = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            wanted.append(signal.SIGHUP)
        earlier = {number: signal.signal(number, self._remember) for number in wanted}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


class _Process:
    """A service behind its launcher, and the log that both append to."""

    def __init__(self, service: _Service, store: Store, variables: Mapping[str, str], above: list[_Process]) -> None:
        self.service = service
        self.log = store.root / "logs" / f"{service.name}.log"
        with self.log.open("ab") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {service.name} started\n".encode())
            log.flush()
            self._log_start = log.tell()
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", "infra.tied", sys.executable, "-P", *service.arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=store.root / "empty",  # the user's folder may hold another project's `tasks/`
                env=dict(variables),
                start_new_session=True,  # Ctrl-C is for this process to answer
                pass_fds=[process._tie.fileno() for process in above],
            )

    @property
    def _tie(self) -> IO[bytes]:
        assert self._launcher.stdin is not None
        return self._launcher.stdin

    def died(self) -> bool:
        return self._launcher.poll() is not None

    def untie(self) -> None:
        """Tell the service to end; `join` waits for it."""
        self._tie.close()

    def join(self) -> None:
        try:
            self._launcher.wait(GRACE_S + _KILL_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
        if self._launcher.wait() < 0:  # the launcher was killed, and can't have ended the rest of its process group
            with contextlib.suppress(ProcessLookupError):  # nothing is left of it
                os.killpg(self._launcher.pid, signal.SIGKILL)

    def tail(self) -> str:
        """The end of what the log has got since this start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:]) or "    (empty)"


def serve_until_interrupted(store: Store, *, prefect_port: int, mlflow_port: int) -> int:
    """Start the three services, say where they are, and stop them on SIGINT, SIGTERM or SIGHUP: exit code 0.

    Returns 1 where a service dies or does not get ready; the end of its log is shown. While all is ready,
    `<store>/up.json` holds the addresses and this process's id. An address of Prefect in the environment is replaced by
    this server's. Raises ValueError, before anything is started, where a port is taken, where the store is served
    already, or where MLFLOW_TRACKING_URI names another server. Must run in the main thread.
    """
    if mlflow_uri(store).startswith("http"):
        raise ValueError(
            "MLFLOW_TRACKING_URI names another MLflow server; unset it: `tokenmill up` serves this store's own history"
        )
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock("up"))
        except InUseError as error:
            raise ValueError(_already_served(store)) from error
        _check_ports({"--prefect-port": prefect_port, "--mlflow-port": mlflow_port})
        up_file = store.root / UP_FILE
        up_file.unlink(missing_ok=True)  # left by one that was killed
        signals = _Signals()
        held.enter_context(signals.caught())
        processes: list[_Process] = []
        try:
            _start(store, prefect_port, mlflow_port, processes, signals)
            if signals.received is None:
                addresses = {"prefect": f"http://{HOST}:{prefect_port}", "mlflow": f"http://{HOST}:{mlflow_port}"}
                write_json(up_file, addresses | {"pid": os.getpid()})
                _announce(store, addresses)
            while signals.received is None:
                _check_alive(processes)
                time.sleep(_POLL_S)
            with contextlib.suppress(OSError):  # the terminal may be gone: SIGHUP
                _say(f"stopping ({signals.received.name}); this takes up to {2 * GRACE_S:.0f} s")
            return 0
        except StackError as error:
            _say(str(error))
            return 1
        finally:
            up_file.unlink(missing_ok=True)
            _stop(processes)


def _start(store: Store, prefect_port: int, mlflow_port: int, processes: list[_Process], signals: _Signals) -> None:
    """Append each process to `processes` as it starts; returns early when a signal has come."""
    (store.root / "logs").mkdir(exist_ok=True)
    variables = _variables(store, prefect_port)
    _say(f"starting; logs are in {store.root / 'logs'}")
    for service in (_prefect(prefect_port), _mlflow(store, mlflow_port)):
        processes.append(_Process(service, store, variables, []))
    started = time.monotonic()
    for process in list(processes):
        _wait_until_ready(process, processes, started, signals)
    if signals.received is None:
        started = time.monotonic()
        process = _Process(_deployments(prefect_port), store, variables, processes)
        processes.append(process)
        _wait_until_ready(process, processes, started, signals)


def _stop(processes: list[_Process]) -> None:
    """The deployments first, so that their flow runs can report to servers that are still there."""
    for group in (processes[2:], processes[:2]):
        for process in group:
            process.untie()
        for process in group:
            process.join()


def _variables(store: Store, prefect_port: int) -> dict[str, str]:
    """The environment of all three. Addresses with credentials travel here, never as arguments, which `ps` shows."""
    return (
        dict(os.environ)
        | environment(store)
        | {
            "PYTHONSAFEPATH": "1",  # for what they start in turn: never import from the current folder
            "PYTHONUNBUFFERED": "1",  # a log is there to be read while things run
            "PREFECT_API_URL": f"http://{HOST}:{prefect_port}/api",  # the web page asks for it too
            "PREFECT_API_DATABASE_CONNECTION_URL": os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL")
            or prefect_database(store),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",  # here the console is the log file
            "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            "TQDM_DISABLE": "1",  # progress bars are for terminals
            "MLFLOW_BACKEND_STORE_URI": mlflow_uri(store),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes and 0.5 GB instead of 10 and 1.8 GB
            "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # else whoever reaches the port has a shell on this machine
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
        }
    )


def _prefect(port: int) -> _Service:
    return _Service(
        name="prefect",
        arguments=("-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)),
        is_ready=lambda: _request(port, "GET", "/api/health")[0] == http.HTTPStatus.OK,
    )


def _mlflow(store: Store, port: int) -> _Service:
    artifacts = mlflow_artifacts(store).as_uri()
    return _Service(
        name="mlflow",
        arguments=(
            *("-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
            *("--default-artifact-root", artifacts, "--artifacts-destination", artifacts),
            *("--uvicorn-opts", "--log-level warning"),  # the page polls: an access log would grow for ever
        ),
        is_ready=lambda: _request(port, "GET", "/health")[0] == http.HTTPStatus.OK,
    )


def _deployments(prefect_port: int) -> _Service:
    """Ready when Prefect has been asked for their runs since this start: earlier starts have registered them before."""
    started = datetime.now(UTC)

    def polled() -> bool:
        status, body = _request(prefect_port, "POST", "/api/deployments/filter", {})
        if status != http.HTTPStatus.OK:
            return False
        polls = [deployment["last_polled"] for deployment in json.loads(body)]
        return any(poll is not None and datetime.fromisoformat(poll) >= started for poll in polls)

    return _Service(name="deployments", arguments=("-m", "flows.deployments"), is_ready=polled)


def _request(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    """Status and body of one request; status 0 where nobody answers yet. Proxies of the environment are not asked."""
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    connection = http.client.HTTPConnection(HOST, port, timeout=_REQUEST_TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def _wait_until_ready(process: _Process, running: list[_Process], started: float, signals: _Signals) -> None:
    """Raises StackError where any running service dies, or this one isn't ready in READY_TIMEOUT_S."""
    name = process.service.name
    _say(f"waiting for {name}")
    while not process.service.is_ready():
        if signals.received is not None:
            return
        _check_alive(running)
        if time.monotonic() - started > READY_TIMEOUT_S:
            raise StackError(
                f"{name} is not ready after {READY_TIMEOUT_S:.0f} s; the end of {process.log}:\n{process.tail()}"
            )
        time.sleep(_POLL_S)
    _say(f"{name} is ready after {time.monotonic() - started:.0f} s")


def _check_alive(processes: list[_Process]) -> None:
    for process in processes:
        if process.died():
            raise StackError(f"{process.service.name} has ended by itself; the end of {process.log}:\n{process.tail()}")


def _check_ports(ports: Mapping[str, int]) -> None:
    """ValueError where a port is taken or cannot be one."""
    seen: set[int] = set()
    for option, port in ports.items():
        if not 0 < port < 1 << 16:
            raise ValueError(f"{option} {port}: a port is a number from 1 to 65535")
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
                probe.bind((HOST, port))
        except PermissionError as error:
            raise ValueError(f"port {port} needs more rights; choose one above 1023 with {option}") from error
        except OSError as error:
            raise ValueError(f"port {port} is taken by another program; choose another with {option}") from error
        if port in seen:
            raise ValueError(f"port {port} is asked for twice; choose another with {option}")
        seen.add(port)


def _already_served(store: Store) -> str:
    try:
        up = json.loads((store.root / UP_FILE).read_bytes())
    except FileNotFoundError:
        where = "another `tokenmill up`, which is just starting or stopping"
    else:
        where = f"process {up['pid']} at {up['prefect']} and {up['mlflow']}"
    return f"the store {store.root} is already served by {where}; stop that one first, or choose another --store"


_GUIDE = """\
Prefect   {prefect}/deployments    flows to trigger, schedules, approvals
MLflow    {mlflow}/#/?workflowType=machine_learning    parameters, metrics, data, models

To begin  Deployments > pipeline > Run > Custom run: raw pages to a trained model, in some minutes as it is filled in.
          Its run shows each stage, and among its Artifacts is the link mlflow-run to the same run in MLflow.
To go on  refresh reads new pages, pretrain trains on what it published, evaluate compares. nightly-refresh and
          weekly-pretrain are paused: their switch is under Deployments.
To end    Ctrl-C stops everything; the history stays in {store}"""


def _announce(store: Store, addresses: Mapping[str, str]) -> None:
    print(_GUIDE.format(**addresses, store=store.root), flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
