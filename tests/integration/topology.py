"""docker-compose.yml as processes of this machine: its commands, variables, health checks and order, on free ports.

What an image would bring is replaced by what Debian has (PostgreSQL, Redis) and by moto for the S3 store; all else is
taken from the file. Containers of one network become addresses of the loopback interface.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import yaml

from tests.integration.running import alive

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BIN = Path(sys.executable).parent
READY_TIMEOUT_S = 120  # for each service, on two busy cores
STOP_TIMEOUT_S = 20
# A node of Ray is known by its address; the worker's own node takes the machine's.
RAY_ADDRESSES = {"ray": "127.0.0.2", "ray-worker": "127.0.0.3"}
PORTS = {"4200": "prefect", "5000": "mlflow", "5432": "postgres", "8333": "s3", "8080": "worker"}
VARIABLES = {"TOKENMILL_HEAD_CPUS": "1", "TOKENMILL_WORKER_CPUS": "1"}  # both nodes take work, one task each


def postgres_programs() -> Path | None:
    """Folder of Debian's server programs, which are not on the path."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def missing_programs() -> list[str]:
    """What this machine lacks; a test skips with it."""
    missing = [name for name in ("redis-server", "redis-cli", "psql") if shutil.which(name) is None]
    return missing if postgres_programs() else [*missing, "postgresql"]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Process:
    """A command that cannot outlive this process, however that ends (infra/tied.py)."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        with log.open("ab") as output:
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", "infra.tied", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        self.log = log

    @property
    def exit_code(self) -> int | None:
        return self._launcher.poll()

    def untie(self) -> None:
        tie = self._launcher.stdin
        assert tie is not None
        tie.close()

    def join(self) -> None:
        self._launcher.wait(STOP_TIMEOUT_S)


class Topology:
    """All services without a profile. `start` brings them up in the file's order; `stop` ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.secrets = folder / "store", folder / "secrets"
        numbers = free_ports(len(PORTS) + 2)
        self.ports = dict(zip([*PORTS.values(), "redis", "ray"], map(str, numbers), strict=True))
        self.processes: dict[str, Process] = {}
        for name in ("store/empty", "tmp", "logs", "redis", "postgres", "ray"):
            (folder / name).mkdir(parents=True)
        subprocess.run(
            [ROOT / "infra/images/secrets.sh", self.secrets],
            env=os.environ | {"REDIS_HOST": f"127.0.0.1:{self.ports['redis']}"},
            check=True,
            capture_output=True,
        )

    # what the file says, as this machine says it

    def _here(self, service: str, text: str) -> str:
        text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: VARIABLES.get(match[1], match[2]), text)
        for place, here in {"/tmp": "tmp", "/store": "store", "/data": service}.items():
            text = re.sub(rf"^{place}(?=/|$)", f"{self.folder}/{here}", text)
        text = text.replace("/run/secrets/", f"{self.secrets}/").replace("/opt/tokenmill/", f"{ROOT}/infra/images/")
        for config in SERVICES[service].get("configs", []):
            text = text.replace(config["target"], str(ROOT / COMPOSE["configs"][config["source"]]["file"]))
        text = re.sub(r"\bray:6379\b", f"{RAY_ADDRESSES['ray']}:{self.ports['ray']}", text)
        text = re.sub(r"\b6379\b", self.ports["redis" if service == "redis" else "ray"], text)
        text = re.sub(rf"\b(?:{'|'.join(PORTS.values())})(?=:\d)", "127.0.0.1", text)
        text = re.sub(rf"\b(?:{'|'.join(PORTS)})\b", lambda match: self.ports[PORTS[match[0]]], text)
        return text.replace("0.0.0.0", "127.0.0.1")

    def environment(self, service: str) -> dict[str, str]:
        given = SERVICES[service].get("environment", {})
        values = {name: self._here(service, value) for name, value in given.items()}
        values |= {name: "127.0.0.1" for name, value in values.items() if name.endswith("HOST") and value == "postgres"}
        programs = [str(BIN), *([str(folder)] if (folder := postgres_programs()) else []), "/usr/bin", "/bin"]
        return {
            "PATH": ":".join(programs),
            "HOME": str(self.folder / "tmp"),
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(
                self.folder / "ray"
            ),  # a socket's path may be 107 bytes long: /tmp of a container is short
            **values,
        }

    def command(self, service: str) -> list[str]:
        definition = SERVICES[service]
        words = [self._here(service, word) for word in [*definition.get("entrypoint", []), *definition["command"]]]
        if service in RAY_ADDRESSES:
            words.append(f"--node-ip-address={RAY_ADDRESSES[service]}")
        image = definition["image"].startswith("tokenmill:")
        return [str(ROOT / "infra/images/entry.sh"), *words] if image else words

    # up and down

    def start(self) -> None:
        for service, definition in SERVICES.items():
            if "profiles" not in definition:
                self._start_after_dependencies(service)

    def _start_after_dependencies(self, service: str) -> None:
        if service in self.processes:
            return
        for dependency, terms in SERVICES[service].get("depends_on", {}).items():
            self._start_after_dependencies(dependency)
            if terms["condition"] == "service_completed_successfully":
                self._wait(dependency, lambda name=dependency: self.processes[name].exit_code == 0)
            else:
                self._wait(dependency, lambda name=dependency: self.is_healthy(name))
        {"postgres": self._start_postgres, "s3": self._start_s3}.get(service, lambda: self._run(service))()

    def _run(self, service: str, command: list[str] | None = None) -> None:
        self.processes[service] = Process(
            command or self.command(service),
            self.environment(service),
            self.store / "empty",
            self.folder / "logs" / f"{service}.log",
        )

    def _start_postgres(self) -> None:
        """What the image's entry point does: initdb, the server, then the script for an empty database."""
        data, environment = self.folder / "postgres", self.environment("postgres")
        password, as_owner = self.secrets / "postgres_password", list[str]()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(data, "postgres", "postgres")
            as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
            password = Path(shutil.copy(password, data.parent / "initdb-password"))
            shutil.chown(password, "postgres")
        arguments = environment["POSTGRES_INITDB_ARGS"].split()
        subprocess.run(
            [*as_owner, "initdb", "--username=postgres", f"--pwfile={password}", f"--pgdata={data}/data", *arguments],
            env=environment,
            cwd=data,
            check=True,
            capture_output=True,
        )
        options = {
            "port": self.ports["postgres"],
            "unix_socket_directories": str(data),
            "listen_addresses": "127.0.0.1",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._run("postgres", [*as_owner, "postgres", "-D", f"{data}/data", *settings])
        superuser = environment | {
            "PGHOST": "127.0.0.1",
            "PGPORT": self.ports["postgres"],
            "PGPASSWORD": password.read_text(),
        }
        self._wait("postgres", lambda: self._succeeds(["pg_isready", "--username=postgres"], superuser))
        subprocess.run(
            ["sh", ROOT / "infra/images/postgres_databases.sh"], env=superuser, check=True, capture_output=True
        )

    def _start_s3(self) -> None:
        self._run("s3", [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", self.ports["s3"]])

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(self.ports["s3"])), 1):
                return True
            return False

        self._wait("s3", answers)
        self.bucket().create()

    def bucket(self) -> Any:
        credentials = dict(re.findall(r"^(\w+) = (\w+)$", (self.secrets / "s3_credentials").read_text(), re.MULTILINE))
        resource = boto3.resource(
            "s3", endpoint_url=f"http://127.0.0.1:{self.ports['s3']}", region_name="us-east-1", **credentials
        )
        return resource.Bucket(SERVICES["s3"]["environment"]["S3_BUCKET"])

    def health_check(self, service: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the file's own health check as Docker would: with the container's environment."""
        kind, *words = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        words = ["127.0.0.1" if word == "postgres" else self._here(service, word) for word in words]
        environment = self.environment(service) if environment is None else environment
        program = shutil.which(words[0], path=environment["PATH"])
        assert program is not None, words[0]
        return subprocess.run(
            [program, *words[1:]], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def is_healthy(self, service: str) -> bool:
        return service == "s3" or self.health_check(service).returncode == 0  # moto has no users to refuse

    @staticmethod
    def _succeeds(command: list[str], environment: dict[str, str]) -> bool:
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0

    def _wait(self, service: str, condition: Any) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not condition():
            process = self.processes[service]
            ended = process.exit_code not in (None, 0)
            assert not ended and time.monotonic() < deadline, f"{service}: {process.log.read_text()[-4000:]}"
            time.sleep(0.5)

    def stop(self) -> None:
        """The last started first; the launchers end what is left of each."""
        for process in reversed(self.processes.values()):
            process.untie()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.join()


class WorkOfNodes(threading.Thread):
    """Watches which of Ray's nodes had a worker on a task of this store: a busy worker is called `ray::<task>`.

    Ray's own agents are called likewise."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self._store, self._done = store, threading.Event()
        self.tasks: defaultdict[int, set[str]] = defaultdict(set)
        """Names of the tasks, by the process id of the node's raylet."""

    def run(self) -> None:
        while not self._done.wait(0.1):
            for pid, command in alive(self._store).items():
                title = command.strip()
                if title.startswith("ray::") and not title.startswith("ray::IDLE") and "Agent" not in title:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
                        self.tasks[int(stat.rpartition(")")[2].split()[1])].add(title.removeprefix("ray::"))

    def __enter__(self) -> WorkOfNodes:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


@contextlib.contextmanager
def running_topology() -> Iterator[Topology]:
    """The stack, for as long as the block runs; in a temporary folder, whose name must be short."""
    folder = Path(tempfile.mkdtemp(prefix="tm-"))
    folder.chmod(0o711)  # PostgreSQL's own user passes through
    topology = Topology(folder)
    try:
        topology.start()
        yield topology
    finally:
        topology.stop()
        shutil.rmtree(folder, ignore_errors=True)
