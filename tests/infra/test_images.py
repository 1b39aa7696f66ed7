"""The scripts of infra/images, run: what the image's build does, and what its containers start with."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "infra" / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text()
PATH = "/usr/bin:/bin"
USER_ID = 10001


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": PATH} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


# the Dockerfile, and what its build does


def test_dockerfile_pins_its_base_and_ends_without_root() -> None:
    lines = DOCKERFILE.splitlines()
    assert any(re.fullmatch(r"FROM python:3\.1[12]\.\d+-slim-bookworm", line) for line in lines)
    user = lines.index("USER tokenmill")
    assert f"useradd --uid {USER_ID} " in DOCKERFILE
    assert [line.split("/")[-2:] for line in lines[user:] if line.startswith("RUN")] == [["bin", "python"]]  # prove.sh


def test_build_sees_what_it_copies_and_nothing_else() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    ignored, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == "*"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == copied


def test_scripts_can_be_executed() -> None:
    for script in IMAGES.glob("*.sh"):
        assert os.access(script, os.X_OK), script.name
        assert script.read_text().startswith("#!/bin/sh\n")
        assert run("sh", "-n", script).returncode == 0


def _interpreter_for_others() -> str | None:
    """One of this very version that other users than the one who runs the tests may start."""
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        if run(*_without_root(), "sh", "-c", f"{candidate} -c 'import ensurepip'").returncode == 0:
            return candidate
    return None


def _without_root() -> list[str]:
    if os.geteuid() != 0:
        return []
    ids = [f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"]
    return ["setpriv", *ids, "--bounding-set=-all", "--inh-caps=-all"]


@pytest.mark.verify
@pytest.mark.timeout(300)
def test_steps_of_the_image() -> None:
    """A wheel from the sources as the build sees them, installed, and imported without root and without the sources.

    The libraries are the ones of this environment: pip finds each requirement met.
    """
    python = _interpreter_for_others()
    if python is None:
        pytest.skip("no interpreter of this version that another user may start")
    folder = (
        Path("/tmp") / f"tokenmill-image-{os.getpid()}"
    )  # another user has to get there, unlike to pytest's folders
    source, venv = folder / "source", folder / "venv"
    try:
        source.mkdir(parents=True)
        for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
            for name in line.split():
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, source / name)
        subprocess.run([python, "-m", "venv", venv], check=True)
        (site_packages,) = venv.glob("lib/python*/site-packages")
        libraries = next(path for path in sys.path if path.endswith("site-packages"))
        (site_packages / "libraries.pth").write_text(f"{libraries}\n")
        pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "HTTP", "SSL_"))}
        installed = subprocess.run(
            [source / "infra/images/install.sh", source, venv],
            env={"PATH": PATH, **pip},
            capture_output=True,
            text=True,
            check=False,
        )
        assert installed.returncode == 0, installed.stderr[-2000:]
        shutil.move(source / "infra/images/prove.sh", folder / "prove.sh")
        shutil.rmtree(source)
        (folder / "home").mkdir()
        (folder / "home").chmod(0o777)
        proved = subprocess.run(
            [*_without_root(), "sh", folder / "prove.sh", venv / "bin/python"],
            cwd=folder / "home",
            env={"PATH": PATH, "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert proved.returncode == 0 and "every module imports" in proved.stdout, proved.stderr[-2000:]
    finally:
        shutil.rmtree(folder)


# secrets.sh


def test_secrets_are_the_owners_and_differ(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert run(IMAGES / "secrets.sh", folder).returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [file for file in folder.iterdir() if file.name != ".gitignore"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o444}
    random = [word for file in files for word in re.findall(r"[0-9a-f]{64}", file.read_text())]
    assert len(random) == len(files) and len(set(random)) == len(random) - 1  # the S3 key is there for both ends


def test_secrets_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    run(IMAGES / "secrets.sh", folder)
    before = (folder / "ray_token").read_text()
    again = run(IMAGES / "secrets.sh", folder)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "is there already" in again.stderr
    assert (folder / "ray_token").read_text() == before


# entry.sh


def entry(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run(IMAGES / "entry.sh", *command, **variables)


def test_entry_gives_the_command_its_secrets(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text('it\'s $(a) `secret` "word" \\n')
    shown = entry(sys.executable, "-c", "import os; print(dict(os.environ))", MLFLOW_TRACKING_PASSWORD_FILE=str(secret))
    variables = eval(shown.stdout)
    assert variables["MLFLOW_TRACKING_PASSWORD"] == secret.read_text()
    assert "MLFLOW_TRACKING_PASSWORD_FILE" not in variables


def test_entry_leaves_a_programs_own_file_alone() -> None:
    shown = entry("env", AWS_SHARED_CREDENTIALS_FILE="/nowhere")
    assert "AWS_SHARED_CREDENTIALS_FILE=/nowhere\n" in shown.stdout and "AWS_SHARED_CREDENTIALS=" not in shown.stdout


@pytest.mark.parametrize("content", [None, ""])
def test_entry_starts_nothing_without_the_secret(tmp_path: Path, content: str | None) -> None:
    secret = tmp_path / "password"
    if content is not None:
        secret.write_text(content)
    refused = entry("echo", "started", PGPASSWORD_FILE=str(secret))
    assert refused.returncode == 78 and refused.stdout == ""
    assert refused.stderr == (
        f"entry.sh: PGPASSWORD_FILE: there is no secret in {secret}; make them with infra/images/secrets.sh\n"
    )


def test_entry_becomes_the_command() -> None:
    """Signals reach the command itself, and its exit code is the container's."""
    with subprocess.Popen([IMAGES / "entry.sh", "sleep", "600"], env={"PATH": PATH}) as process:
        deadline = time.monotonic() + 10
        while b"sleep\0" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        assert process.wait(5) == -signal.SIGTERM


# health.py


@contextlib.contextmanager
def server(status: int) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that answers everything with `status`; its address, and the path and credentials of what was asked."""
    asked: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_address[1]}", asked
        listening.shutdown()


def health(service: str, address: str) -> subprocess.CompletedProcess[str]:
    return run(
        sys.executable,
        IMAGES / "health.py",
        service,
        PREFECT_API_URL=f"http://{address}/api",
        PREFECT_API_AUTH_STRING="user:word",
        MLFLOW_TRACKING_URI=f"http://{address}",
        MLFLOW_TRACKING_USERNAME="user",
        MLFLOW_TRACKING_PASSWORD="word",
        PREFECT_WORKER_WEBSERVER_PORT=address.rpartition(":")[2],
        http_proxy="http://127.0.0.1:9",  # nobody there: a proxy of the environment is not asked
    )


@pytest.mark.parametrize("service", ["prefect", "mlflow", "worker"])
def test_health_asks_as_a_client_does(service: str) -> None:
    with server(200) as (address, asked):
        assert health(service, address).returncode == 0
    ((path, credentials),) = asked
    assert path.startswith({"prefect": "/api/flows/count", "mlflow": "/api/2.0/mlflow", "worker": "/health"}[service])
    assert credentials == (None if service == "worker" else "Basic dXNlcjp3b3Jk")  # user:word


@pytest.mark.parametrize("service", ["prefect", "mlflow", "worker"])
@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_whoever_refuses_clients_is_not_healthy(service: str, status: int) -> None:
    with server(status) as (address, _):
        refused = health(service, address)
    assert refused.returncode == 1 and str(status) in refused.stderr and "word" not in refused.stderr


def test_nobody_there_is_not_healthy() -> None:
    assert health("prefect", "127.0.0.1:9").returncode == 1


# worker.sh, with small programs in place of Ray and Prefect


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """`ray` and `prefect` that write down what befalls them, and end when told so by a file of their name."""
    for name in ("ray", "prefect"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\ncd {tmp_path}\necho {name} started "$@" >>events\n'
            f"trap 'sleep .3; echo {name} told to end >>events; exit 0' TERM\n"
            f"while ! [ -e end-{name} ]; do sleep .1; done\nexit 3\n"
        )
        program.chmod(0o755)
    return tmp_path


@contextlib.contextmanager
def worker(programs: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [IMAGES / "worker.sh", "pool"],
        env={"PATH": f"{programs}:{PATH}", "RAY_ADDRESS": "ray:6379"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 10
        while len(events(programs)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def events(programs: Path) -> list[str]:
    file = programs / "events"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(("ends", "other"), [("ray", "prefect"), ("prefect", "ray")])
def test_worker_ends_with_either_of_its_parts(programs: Path, ends: str, other: str) -> None:
    with worker(programs) as process:
        (programs / f"end-{ends}").touch()
        assert process.wait(10) == 1
        assert f"{other} told to end" in events(programs)


def test_worker_ends_the_flow_runs_before_the_node_that_they_report_through(programs: Path) -> None:
    with worker(programs) as process:
        process.terminate()
        assert process.wait(10) == 0
        assert events(programs)[2:] == ["prefect told to end", "ray told to end"]


def test_worker_joins_the_cluster_without_capacity(programs: Path) -> None:
    with worker(programs):
        (node,) = [line for line in events(programs) if line.startswith("ray")]
        assert "--address=ray:6379" in node and "--num-cpus=0" in node and "--num-gpus=0" in node
