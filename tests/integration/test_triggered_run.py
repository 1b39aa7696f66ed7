"""A refresh triggered over Prefect's API on `tokenmill up`, as an operator's click does it; looked up in MLflow."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tasks.store import Store

READY_TIMEOUT_S = 180
RUN_TIMEOUT_S = 300
TOPICS = ("river", "garden", "bridge", "market", "winter", "harbour", "forest", "library", "mountain", "kitchen")


def request(address: str, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status < 300, f"{method} {path}: {response.status} {content[:500]!r}"
        return json.loads(content)
    finally:
        connection.close()


SENTENCES = (
    "Nobody who had seen the {0} at night would go back to it without a lamp.",
    "In {1} a teacher wrote down what her grandmother had told her about the place.",
    "The road that leads there from the coast is {2} miles long and mostly dry.",
    "Children were sent to fetch water before breakfast, and they hated it.",
    "For a while the mayor thought of selling the whole thing to a railway company.",
    "That plan failed because two brothers could not agree on the price of a single field.",
    "Visitors often ask why the doors are painted green, and there is no good answer.",
    "A storm took the roof in {1}, and with it the only copy of the map.",
    "Since then the {0} has been drawn from memory, each time a little larger.",
    "You can still buy bread from the family that fed the first workers.",
    "Some of the stones carry letters, which scholars have read in {2} different ways.",
    "My own view is that a mason was practising on a slow afternoon.",
    "When snow lies on the hills, the sound of the bells travels much further.",
    "It was the doctor, of all people, who brought the first bicycle to this valley.",
    "She rode it for {2} years and then gave it to the museum, where it hangs today.",
    "Old letters mention music on Thursdays, although no instrument was ever found.",
)


def page(topic: str, seed: int) -> str:
    """A page of plain English, another choice and order of sentences for each seed."""
    chance = random.Random(seed)
    sentences = chance.sample(SENTENCES, 10)
    return "\n".join(text.format(topic, chance.randint(1700, 2000), chance.randint(2, 90)) for text in sentences)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "stories.jsonl"
    rows = [{"url": f"https://example.org/{topic}", "text": page(topic, seed)} for seed, topic in enumerate(TOPICS)]
    rows += [{"url": "https://example.org/copy", "text": rows[0]["text"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both addresses of a served store, and the store's path."""
    tmp_path = tmp_path_factory.mktemp("up")
    store = tmp_path / "store"
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    decoys = tmp_path / "decoys"
    for name in ("tasks", "flows", "infra", "model"):
        (decoys / name).mkdir(parents=True)
        (decoys / name / "__init__.py").write_text("raise SystemExit('a decoy was imported')")
    command = [str(Path(sys.executable).parent / "tokenmill"), "up", "--store", str(store)]
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "MLFLOW_", "RAY_", "TOKENMILL_"))
    }
    errors = tmp_path / "up.err"
    with errors.open("w") as error_file:
        process = subprocess.Popen(
            [*command, "--prefect-port", ports[0], "--mlflow-port", ports[1]],
            cwd=decoys,
            stdout=subprocess.DEVNULL,
            stderr=error_file,
            env=clean,
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not (store / "up.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
        time.sleep(0.2)
    yield {**json.loads((store / "up.json").read_bytes()), "store": store}
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def finished_run(prefect: str, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while True:
        run: dict[str, Any] = request(prefect, "GET", f"/api/flow_runs/{run_id}")
        if run["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            return run
        assert time.monotonic() < deadline, run["state"]
        time.sleep(1)


@pytest.mark.verify
@pytest.mark.timeout(900)
def test_refresh_triggered_over_the_api_is_a_corpus_version_with_its_run_in_mlflow(
    up: dict[str, Any], source: Path
) -> None:
    prefect, mlflow = up["prefect"], up["mlflow"]
    deployment = request(prefect, "GET", "/api/deployments/name/refresh_corpus/refresh")
    parameters = {"name": "stories", "input": {"source": str(source)}, "execution": {"workers": 1}}
    parameters["curation"] = {"recipe": "fineweb"}
    created = request(
        prefect,
        "POST",
        f"/api/deployments/{deployment['id']}/create_flow_run",
        {"parameters": {"parameters": parameters}},
    )
    run = finished_run(prefect, created["id"])
    log = request(prefect, "POST", "/api/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert run["state"]["type"] == "COMPLETED", "\n".join(line["message"] for line in log)

    manifest = json.loads((Store(up["store"]).corpus("stories@1") / "manifest.json").read_bytes())
    assert manifest["records_in"] == len(TOPICS) + 1
    assert 1 <= manifest["documents_kept"] < manifest["records_in"]  # the copy is gone

    experiment = request(mlflow, "GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tokenmill")
    search = {
        "experiment_ids": [experiment["experiment"]["experiment_id"]],
        "filter": f"tags.`prefect.flow_run_id` = '{run['id']}'",
    }
    (tracked,) = request(mlflow, "POST", "/api/2.0/mlflow/runs/search", search)["runs"]
    assert tracked["info"]["status"] == "FINISHED"
    tags = {tag["key"]: tag["value"] for tag in tracked["data"]["tags"]}
    assert tags["prefect.flow_run_url"] == f"{prefect}/runs/flow-run/{run['id']}"
    logged = {item["key"]: item["value"] for item in tracked["data"]["params"]}
    assert str(source) in logged["sources"] and logged["recipe.name"] == "fineweb"
    metrics = {item["key"]: item["value"] for item in tracked["data"]["metrics"]}
    assert metrics["records_in"] == manifest["records_in"] and metrics["documents_kept"] == manifest["documents_kept"]
    (dataset,) = [entry["dataset"] for entry in tracked["inputs"]["dataset_inputs"]]
    assert dataset["name"] == "stories@1" and manifest["digest"].startswith(dataset["digest"])

    path = f"/ajax-api/2.0/mlflow/artifacts/list?run_id={tracked['info']['run_id']}"
    assert "manifest.json" in {file["path"] for file in request(mlflow, "GET", path)["files"]}

    artifacts = request(prefect, "POST", "/api/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    by_key = {artifact["key"]: artifact for artifact in artifacts}
    assert (
        f"{mlflow}/#/experiments/{tracked['info']['experiment_id']}/runs/{tracked['info']['run_id']}"
        in (by_key["mlflow-run"]["data"])
    )
    assert sum(row["records"] for row in json.loads(by_key["funnel"]["data"])[:-1]) == manifest["documents_kept"]


@pytest.mark.verify
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "wrong",
    [
        {"curation": {"recipe": "no-such-recipe"}},
        {"name": "../outside"},
        {"execution": {"workers": -1}},
        {"no_such_field": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_values_are_refused_when_submitted(up: dict[str, Any], wrong: dict[str, Any]) -> None:
    deployment = request(up["prefect"], "GET", "/api/deployments/name/refresh_corpus/refresh")
    connection = http.client.HTTPConnection(urlsplit(up["prefect"]).netloc, timeout=60)
    try:
        body = json.dumps({"parameters": {"parameters": wrong}})
        path = f"/api/deployments/{deployment['id']}/create_flow_run"
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == http.HTTPStatus.CONFLICT
    finally:
        connection.close()
