"""Registering, finding and promoting models: a real database, a real server with proxied artifacts and a password."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from infra.mlflow_tracker import tracked_run
from infra.registry import ModelReference, champion, find_model, model_references, move_champion, register_model
from infra.tracking_client import client
from tasks.generation import TextGenerator
from tasks.store import Store
from tests.infra.small_model import CORPUS_DIGEST, small_model

TAGS = {"corpus": "web@3", "corpus_digest": CORPUS_DIGEST, "tokens": "/elsewhere/tokens", "run_dir": "/elsewhere/run"}
USER, PASSWORD = "someone", "not-a-default-password"


def new_store(folder: Path) -> Store:
    store = Store.open(folder)
    (store.root / "mlflow" / "artifacts").mkdir(parents=True)
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with MLflow's database, which takes seconds to make."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = new_store(tmp_path_factory.mktemp("store"))
        client(store).search_registered_models()
        return store


@pytest.fixture
def store(made: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def registered(store: Store, name: str, *, step: int = 2, seed: int = 0, tags: dict[str, str] | None = None) -> str:
    """A new version, of a run that has its data set; the run's id is in its tags."""
    checkpoint, tokenizer = small_model(store.root / "trained" / name / str(seed), step=step, seed=seed)
    with tracked_run(store, f"pretrain {name}", tags={}) as tracker:
        tracker.dataset("web@3", CORPUS_DIGEST, store.root, context="training")
        return register_model(
            store,
            tracker,
            name=name,
            checkpoint=checkpoint,
            tokenizer_file=tokenizer,
            tags=TAGS if tags is None else tags,
            description=f"A model *called* {name}.",
            step=step,
        )


def test_run_model_version_and_data_lead_to_each_other(store: Store) -> None:
    assert registered(store, "linked", step=7) == "linked@1"
    registry = client(store)
    version = registry.get_model_version("linked", "1")
    run = registry.get_run(version.run_id)
    (output,) = run.outputs.model_outputs
    model = registry.get_logged_model(output.model_id)

    assert (output.step, str(model.status)) == (7, "READY")
    assert (model.name, model.source_run_id) == ("linked", run.info.run_id)
    assert version.tags["mlflow_model_id"] == model.model_id and version.source == model.artifact_location
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "linked", "version": "1"}]
    scores = {metric.key: (metric.value, metric.step, metric.dataset_digest) for metric in model.metrics}
    digest = run.inputs.dataset_inputs[0].dataset.digest
    assert scores == {
        "model.loss": (2.5, 7, digest),
        "model.tokens": (7168.0, 7, digest),
        "model.bits_per_byte": (1.5, 7, digest),
    }
    assert run.data.metrics["model.bits_per_byte"] == 1.5
    assert version.tags.items() >= TAGS.items()
    assert version.tags["checkpoint"].endswith("step-00000007") and version.tags["mlflow_run_id"] == run.info.run_id
    assert len(version.tags["code_version"]) == len(version.tags["tokenizer_sha256"]) == 64
    assert "linked@1" in version.description and "A model *called* linked." in version.description


def test_a_model_is_found_and_loaded_by_each_of_its_names_and_nothing_is_copied(store: Store) -> None:
    registered(store, "named")
    registered(store, "named", seed=1)
    for reference, number in {
        "named": 1,
        "named@champion": 1,
        "named@candidate": 2,
        "named@1": 1,
        "models:/named/2": 2,
        "models:/named@champion": 1,
    }.items():
        version = find_model(store, reference)
        assert version.reference == f"named@{number}"
        assert Path(version.folder).is_relative_to(store.root / "mlflow" / "artifacts")
    generator = TextGenerator.load(version.folder, version.tokenizer_file)
    expected = generator.continuation("The", max_new_tokens=8, seed=3)
    mlflow.set_tracking_uri(f"sqlite:///{store.root / 'mlflow' / 'mlflow.db'}")
    try:
        loaded = mlflow.pyfunc.load_model("models:/named@champion")
    finally:
        mlflow.set_tracking_uri(None)  # what it was before is a default, which set would stay for every test after
    assert loaded.predict(["The"], params={"max_new_tokens": 8, "seed": 3}) == [expected]


def test_a_checkpoint_is_found_by_its_path(store: Store) -> None:
    checkpoint, tokenizer = small_model(store.tokens / "some")
    version = find_model(store, str(checkpoint))
    assert (version.folder, version.tokenizer_file, version.tags) == (str(checkpoint), tokenizer, {})


@pytest.mark.parametrize("reference", ["absent", "absent@1", "known@9", "known@staging"])
def test_what_there_is_none_of_is_refused_with_what_there_is(store: Store, reference: str) -> None:
    if champion(store, "known") is None:
        registered(store, "known")
    with pytest.raises(ValueError, match=f"no model '{reference}'.*known@candidate, known@champion"):
        find_model(store, reference)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("../nothing", "there is no folder ../nothing"),
        ("./named", "there is no folder ./named"),
        ("/absent/x", "there is no folder /absent/x"),
        ("a/b", "there is no folder a/b"),
        ("models:/", "'' is no valid model name"),
        ("models:/..", "'..' is no valid model name"),
        ("", "'' is no valid model name"),
        ("known@", "'known@' names no version: write known, or known@ and a number or an alias"),
    ],
)
def test_what_can_be_no_model_is_one_line(store: Store, reference: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        find_model(store, reference)


def test_a_folder_here_does_not_hide_the_registered_model(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if champion(store, "known") is None:
        registered(store, "known")
    (tmp_path / "known").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model(store, "known").reference == "known@1"
    with pytest.raises(ValueError, match="no complete checkpoint"):
        find_model(store, "./known")


def test_the_first_is_champion_until_another_is_made_it_and_it_says_why(store: Store) -> None:
    assert champion(store, "ruled") is None
    registered(store, "ruled")
    registered(store, "ruled", seed=1)
    first = champion(store, "ruled")
    assert first is not None and first.reference == "ruled@1" and "champion.why" not in first.tags
    move_champion(store, "ruled", "2", "it has fewer bits per byte")
    second = champion(store, "ruled")
    assert second is not None and second.reference == "ruled@2"
    assert second.tags["champion.why"] == "it has fewer bits per byte"
    assert second.tags["champion.since"].endswith("+00:00")
    with pytest.raises(ValueError, match="no model 'ruled@3'"):
        move_champion(store, "ruled", "3", "it is not there")
    registered(store, "ruled", seed=2)
    assert champion(store, "ruled") == second


def test_every_version_is_listed_with_what_it_was_made_of(store: Store) -> None:
    registered(store, "listed")
    registered(store, "listed", seed=1, tags={"corpus": "web@4"})
    found = [reference for reference in model_references(store) if reference.name == "listed"]
    assert sorted(reference.version for reference in found) == ["1", "2"]
    corpora = {reference.version: reference.tags["corpus"] for reference in found}
    assert corpora == {"1": "web@3", "2": "web@4"}
    assert all(Path(reference.tags["checkpoint"]).is_dir() for reference in found)
    assert isinstance(found[0], ModelReference)


def test_a_second_try_finds_the_version_of_the_first(store: Store) -> None:
    checkpoint, tokenizer = small_model(store.root / "trained" / "again")
    with tracked_run(store, "again", tags={}) as tracker:
        arguments: dict[str, Any] = {"name": "again", "checkpoint": checkpoint, "tokenizer_file": tokenizer}
        first = register_model(store, tracker, **arguments, tags=TAGS, description="")
        client(store).delete_registered_model_alias("again", "candidate")  # as a kill between the two leaves it
        assert register_model(store, tracker, **arguments, tags=TAGS, description="") == first == "again@1"
    assert find_model(store, "again@candidate").reference == "again@1"
    assert len(client(store).get_run(tracker.run_id).outputs.model_outputs) == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server that hands artifacts on itself and asks for a password."""
    folder = tmp_path_factory.mktemp("server")
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = MANAGE\nauthorization_function = "
        f"mlflow.server.auth:authenticate_request_basic_auth\ndatabase_uri = sqlite:///{folder / 'users.db'}\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
    )
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    arguments = ["--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    arguments += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            end = time.monotonic() + 120
            while not answers(address):
                assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


@pytest.mark.verify
def test_a_server_with_proxied_artifacts_and_a_password(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    store = new_store(tmp_path / "store")
    assert model_references(store) == [] and champion(store, "far") is None
    assert registered(store, "far") == "far@1"
    version = client(store).get_model_version("far", "1")
    assert str(version.source).startswith("mlflow-artifacts:/")
    model = client(store).get_logged_model(version.tags["mlflow_model_id"])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "far", "version": "1"}]

    found = find_model(store, "far")
    generator = TextGenerator.load(found.folder, found.tokenizer_file)
    expected = generator.continuation("The", max_new_tokens=8, seed=3)
    written = found.tokenizer_file.stat().st_mtime_ns
    assert find_model(store, "far@1").tokenizer_file.stat().st_mtime_ns == written  # fetched once
    code = (
        "import mlflow; model = mlflow.pyfunc.load_model('models:/far@champion');"
        " print(ascii(model.predict(['The'], params={'max_new_tokens': 8, 'seed': 3})))"
    )
    root = Path(__file__).parents[2]
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, cwd=tmp_path, stdout=subprocess.PIPE
    )
    assert loaded.stdout.decode().splitlines()[-1] == ascii([expected])
    login = base64.b64encode(f"{USER}:wrong".encode()).decode()
    refused = urllib.request.Request(f"{served}/api/2.0/mlflow/experiments/get?experiment_id=0")
    refused.add_header("Authorization", f"Basic {login}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(refused, timeout=10)
