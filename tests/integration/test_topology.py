"""The whole stack as processes: a refresh and a small pretraining, triggered as an operator does it, run through it.

PostgreSQL and Redis are the real ones; Prefect's server and services apart, a worker, MLflow with its users, a Ray
head, a second node, an S3 endpoint: each started as docker-compose.yml starts it (tests/integration/topology.py).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.store import Store
from tests.integration.running import family
from tests.integration.topology import ROOT, SERVICES, Topology, WorkOfNodes, missing_programs, running_topology

pytestmark = [pytest.mark.verify, pytest.mark.timeout(900)]

RUN_TIMEOUT_S = 420
NUM_FILES, PAGES_A_FILE = 4, 60
WORDS = (
    "river garden bridge market winter harbour forest library mountain kitchen teacher doctor mason brother valley"
    " museum letter window road field bread water stone music bicycle storm roof map coast lamp snow bell hill door"
).split()
SENTENCES = (
    "Nobody who had seen the {0} at night would go back to the {1} without a lamp.",
    "In {2} a teacher wrote down what her grandmother had told her about the {0} and the {1}.",
    "The road that leads from the {0} to the {1} is {3} miles long and mostly dry.",
    "For a while the mayor thought of selling the {0} to a railway company, which had no use for a {1}.",
    "That plan failed because {3} brothers could not agree on the price of a single {1}.",
    "Visitors often ask why the {0} is painted green, and there is no good answer to that.",
    "A storm took the roof in {2}, and with it the only picture of the {0} by the {1}.",
    "You can still buy bread from the family that lived in the {0} when the {1} was new.",
    "Some of the stones in the {1} carry letters, which scholars have read in {3} different ways.",
    "When snow lies on the {0}, the sound of the {1} travels much further than in summer.",
    "She kept the {1} for {3} years and then gave it to the {0}, where it hangs today.",
    "Old letters of {2} mention the {0} on Thursdays, although no {1} was ever found.",
)


def page(seed: int) -> str:
    """A page of plain English, other words and another order for each seed."""
    chance = random.Random(seed)
    return "\n".join(
        text.format(*chance.sample(WORDS, 2), chance.randint(1700, 2000), chance.randint(2, 90))
        for text in chance.sample(SENTENCES, 10)
    )


@pytest.fixture(scope="module")
def stack() -> Iterator[Topology]:
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: postgresql redis-server)")
    with running_topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def source(stack: Topology) -> Path:
    """Several files, so that there are several shards to spread."""
    folder = stack.folder / "pages"
    folder.mkdir()
    for number in range(NUM_FILES):
        seeds = range(number * PAGES_A_FILE, (number + 1) * PAGES_A_FILE)
        rows = [{"url": f"https://example.org/{seed}", "text": page(seed)} for seed in seeds]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Client:
    """One server's HTTP interface, with a user's credentials or without any."""

    def __init__(self, address: str, credentials: str = "") -> None:
        self.address = address
        self.headers = {"Content-Type": "application/json"}
        if credentials:
            self.headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"

    def status(self, method: str, path: str, body: Any = None) -> int:
        try:
            with self._open(method, path, body) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            with self._open(method, path, body) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:1000]!r}") from error

    def _open(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, self.headers, method=method)
        return urllib.request.urlopen(request, timeout=60)


def prefect(stack: Topology, *, credentials: bool = True) -> Client:
    secret = (stack.secrets / "prefect_auth").read_text() if credentials else ""
    return Client(f"http://127.0.0.1:{stack.ports['prefect']}/api", secret)


def mlflow(stack: Topology, *, credentials: bool = True) -> Client:
    secret = f"tokenmill:{(stack.secrets / 'mlflow_password').read_text()}" if credentials else ""
    return Client(f"http://127.0.0.1:{stack.ports['mlflow']}", secret)


def finished(stack: Topology, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The flow run that a click on Run makes, when it has ended; its log in the message where it has not completed."""
    server = prefect(stack)
    found = server.ask("GET", f"/deployments/name/{deployment}")
    body = {"parameters": {"parameters": parameters}}
    created = server.ask("POST", f"/deployments/{found['id']}/create_flow_run", body)
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while True:
        run: dict[str, Any] = server.ask("GET", f"/flow_runs/{created['id']}")
        if run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} or time.monotonic() > deadline:
            break
        time.sleep(1)
    log = server.ask("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    lines = [line["message"] for line in log]
    assert run["state"]["type"] == "COMPLETED", "\n".join([run["state"]["message"] or run["state"]["name"], *lines])
    return run


def tracked(stack: Topology, flow_run: dict[str, Any]) -> dict[str, Any]:
    """The MLflow run of a flow run."""
    server = mlflow(stack)
    experiment = server.ask("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tokenmill")["experiment"]
    assert experiment["artifact_location"].startswith("mlflow-artifacts:/")  # through the server, not around it
    search = {
        "experiment_ids": [experiment["experiment_id"]],
        "filter": f"tags.`prefect.flow_run_id` = '{flow_run['id']}'",
    }
    (run,) = server.ask("POST", "/api/2.0/mlflow/runs/search", search)["runs"]
    return dict(run)


def objects(stack: Topology, prefix: str) -> set[str]:
    return {entry.key.removeprefix(prefix) for entry in stack.bucket().objects.filter(Prefix=prefix)}


@pytest.fixture
def store_of_another_machine(stack: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Nothing in it but what the S3 endpoint has."""
    worker = stack.environment("worker")
    for name, value in worker.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return Store.open(tmp_path / "other", remote=worker["TOKENMILL_REMOTE"])


# in this order: the second flow trains on what the first has published


def test_nobody_gets_in_without_a_password(stack: Topology) -> None:
    assert prefect(stack, credentials=False).status("POST", "/flows/count", {}) == 401
    assert prefect(stack).status("POST", "/flows/count", {}) == 200
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow(stack, credentials=False).status("GET", experiments) == 401
    assert mlflow(stack).status("GET", experiments) == 200
    redis = ["redis-cli", "-p", stack.ports["redis"], "ping"]
    assert "NOAUTH" in subprocess.run(redis, capture_output=True, text=True, check=False).stdout
    database = f"postgresql://prefect@127.0.0.1:{stack.ports['postgres']}/prefect"
    refused = subprocess.run(["psql", "-w", database, "-c", "SELECT 1"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "no password supplied" in refused.stderr
    ray = stack.environment("ray") | {"RAY_AUTH_TOKEN_PATH": str(stack.secrets / "mlflow_password")}
    assert stack.health_check("ray", ray).returncode != 0


def test_health_checks_pass(stack: Topology) -> None:
    for service in sorted(set(stack.processes) - {"s3"}):  # moto has another check than SeaweedFS
        if "healthcheck" in SERVICES[service]:
            checked = stack.health_check(service)
            assert checked.returncode == 0, f"{service}: {checked.stderr}"


@pytest.mark.parametrize(
    ("service", "secret"), [("prefect", "prefect_auth"), ("mlflow", "mlflow_password"), ("redis", "redis_url")]
)
def test_health_check_fails_where_a_client_would(stack: Topology, tmp_path: Path, service: str, secret: str) -> None:
    """With another password than the server's."""
    wrong = tmp_path / secret
    wrong.write_text(re.sub(r"[0-9a-f]{64}", "0" * 64, (stack.secrets / secret).read_text()))
    right = str(stack.secrets / secret)
    given = {name: str(wrong) if value == right else value for name, value in stack.environment(service).items()}
    assert stack.health_check(service, given).returncode == 1


def test_secrets_are_in_no_argument(stack: Topology) -> None:
    """Of any process on the machine: their arguments are anyone's to read."""
    secrets = [word for file in stack.secrets.iterdir() for word in re.findall(r"[0-9a-f]{64}", file.read_text())]
    assert secrets
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_text(errors="replace")
            assert not any(secret in arguments for secret in secrets)


def test_refresh_is_published_through_the_stack(stack: Topology, source: Path, store_of_another_machine: Store) -> None:
    with WorkOfNodes(stack.store) as work:
        run = finished(
            stack,
            "refresh_corpus/refresh",
            {
                "name": "stories",
                "input": {"source": str(source)},
                "curation": {"recipe": "documentation"},
                "execution": {"workers": 2},
            },
        )
    assert len(work.tasks) == 2, work.tasks  # both nodes had shards to work on

    manifest = json.loads((Store(stack.store).corpus("stories@1") / "manifest.json").read_bytes())
    assert manifest["records_in"] == NUM_FILES * PAGES_A_FILE and manifest["documents_kept"] > 100
    there = store_of_another_machine.corpus("stories@1")
    here = stack.store / "corpora" / "stories" / "1"
    files = {file.relative_to(here): file.read_bytes() for file in here.rglob("*") if file.is_file()}
    assert files == {file.relative_to(there): file.read_bytes() for file in there.rglob("*") if file.is_file()}

    ours = tracked(stack, run)
    assert ours["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in ours["data"]["tags"]}
    assert tags["prefect.flow_run_url"] == f"http://127.0.0.1:{stack.ports['prefect']}/runs/flow-run/{run['id']}"
    (dataset,) = [entry["dataset"] for entry in ours["inputs"]["dataset_inputs"]]
    assert dataset["name"] == "stories@1" and manifest["digest"].startswith(dataset["digest"])
    artifacts = objects(stack, "mlflow/")
    assert any(key.endswith(f"{ours['info']['run_id']}/artifacts/manifest.json") for key in artifacts)

    made = prefect(stack).ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    (link,) = [artifact["data"] for artifact in made if artifact["key"] == "mlflow-run"]
    assert f"http://127.0.0.1:{stack.ports['mlflow']}/#/experiments/" in link  # an address that a browser can open


def test_pretraining_on_two_nodes_is_a_registered_model(stack: Topology) -> None:
    with WorkOfNodes(stack.store) as work:
        run = finished(
            stack,
            "pretrain/pretrain",
            {
                "corpus": "stories",
                "training": {"profile": "smoke", "settings": ["total_tokens=40000", "tokenizer.vocab_size=512"]},
                "workers": 2,
            },
        )
    training = [node for node, tasks in work.tasks.items() if any("Train" in task for task in tasks)]
    assert len(training) >= 2, work.tasks

    ours = tracked(stack, run)
    assert ours["info"]["status"] == "FINISHED"
    metrics = {item["key"]: item["value"] for item in ours["data"]["metrics"]}
    assert metrics["loss"] > 0
    version = mlflow(stack).ask("GET", "/api/2.0/mlflow/registered-models/alias?name=stories-smoke&alias=champion")
    assert version["model_version"]["run_id"] == ours["info"]["run_id"]
    assert any(key.endswith("/manifest.json") for key in objects(stack, "store/tokens/"))


def test_evaluation_finds_the_model_and_its_text(stack: Topology) -> None:
    run = finished(stack, "evaluate/evaluate", {"model": "stories-smoke", "scoring": {"profile": "smoke"}})
    metrics = {item["key"]: item["value"] for item in tracked(stack, run)["data"]["metrics"]}
    assert metrics["bits_per_byte"] > 0


def test_nothing_is_left_when_the_starter_is_killed() -> None:
    """SIGKILL, while the services are coming up: the launchers end what they started."""
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: postgresql redis-server)")
    program = (
        "from tests.integration.topology import running_topology\n"
        "import time\n"
        "with running_topology():\n"
        "    time.sleep(600)\n"
    )
    folder = tempfile.mkdtemp(prefix="tk-")
    Path(folder).chmod(0o711)
    starter = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"TMPDIR": folder}, cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(family(starter.pid)) < 12:  # PostgreSQL, Redis, the S3 endpoint, a migration or Prefect's server
        assert starter.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    members = family(starter.pid)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 30
    while left := {pid for pid, started in members.items() if family(pid).get(pid) == started}:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    shutil.rmtree(folder)
