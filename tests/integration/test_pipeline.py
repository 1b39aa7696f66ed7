"""The whole job on real servers and processes: what it prints, what its histories hold, what works on its store."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tasks.store import Store
from tests.data.prose import write_warc
from tests.integration.running import (
    alive,
    assert_adds_up,
    refused,
    started,
    succeeded,
    tokenmill,
    wait_until,
)

NUM_PAGES = 150
STAGES = {
    "refresh docs": [
        "collect",
        "inventory",
        "read",
        "extract",
        "language",
        "quality",
        "toxicity",
        "guard",
        "deduplicate",
        "publish",
        "card",
    ],
    "pretrain docs@1 smoke": ["tokenize", "train", "register"],
    "evaluate docs-smoke@1": ["load", "bits_per_byte", "tasks", "samples"],
}
MLFLOW_NAMES = {"docs@1", "pretrain docs@1 smoke", "evaluate docs-smoke@1"}


@dataclass(frozen=True)
class Job:
    store: Path
    cwd: Path
    result: dict[str, Any]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return tokenmill(*arguments, store=self.store, cwd=self.cwd)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=f"sqlite:///{self.store / 'mlflow' / 'mlflow.db'}")

    def mlflow_runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name("tokenmill")
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id]))

    def prefect(self, query: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.store / "prefect" / "prefect.db")
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    cwd = tmp_path_factory.mktemp("pipeline")
    arguments = ["pipeline", "--pages", str(NUM_PAGES), "--set", "training.total_tokens=8192", "--json"]
    result = succeeded(tokenmill(*arguments, store=cwd / "store", cwd=cwd))
    return Job(cwd / "store", cwd, result)


def test_its_json_has_the_agreed_keys(job: Job) -> None:
    refreshed, trained, evaluated = (job.result[name] for name in ("refresh", "pretrain", "evaluate"))
    assert {"corpus", "path", "digest", "records_in", "documents_kept", "removed"} <= set(refreshed)
    assert {"model", "mlflow_run_id", "checkpoint", "steps", "tokens", "loss", "bits_per_byte"} <= set(trained)
    assert {"model", "mlflow_run_id", "scores"} <= set(evaluated)
    assert refreshed["corpus"] == "docs@1" and trained["model"] == evaluated["model"] == "docs-smoke@1"
    assert (trained["steps"], trained["tokens"]) == (8, 8192)
    assert (Path(trained["checkpoint"]) / "model.safetensors").is_file()
    assert evaluated["scores"]["bits_per_byte"] == pytest.approx(trained["bits_per_byte"], rel=1e-6)
    assert_adds_up(refreshed, NUM_PAGES)


def test_nothing_of_it_is_left_running(job: Job) -> None:
    assert alive(job.store) == {}


def test_mlflow_holds_a_parent_with_three_children(job: Job) -> None:
    runs = {run.info.run_id: run for run in job.mlflow_runs()}
    parent = runs[job.result["mlflow_run_id"]]
    assert re.fullmatch(r"docs@1 smoke \d{4}-\d{2}-\d{2}", parent.info.run_name)
    children = [run for run in job.mlflow_runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in children} == MLFLOW_NAMES
    assert all(run.info.status == "FINISHED" for run in [parent, *children])
    assert all("/runs/flow-run/" in run.data.tags["prefect.flow_run_url"] for run in [parent, *children])
    assert parent.data.metrics["bits_per_byte"] == job.result["evaluate"]["scores"]["bits_per_byte"]

    refreshed, trained = (runs[job.result[name]["mlflow_run_id"]] for name in ("refresh", "pretrain"))
    digest = job.result["refresh"]["digest"]
    for run in children:
        inputs = job.client.get_run(run.info.run_id).inputs
        assert inputs is not None
        datasets = {entry.dataset.name: entry.dataset.digest for entry in inputs.dataset_inputs}
        assert digest.startswith(datasets.pop("docs@1"))
        assert set(datasets) == ({"basics@1"} if run.info.run_name.startswith("evaluate") else set())
        assert run.data.tags["tokenmill.corpus_digest"] == digest
    assert refreshed.data.params["recipe.quality_rules.gopher_quality.min_words"] == "50"
    assert refreshed.data.metrics["documents_kept"] == job.result["refresh"]["documents_kept"]
    files = {file.path for file in job.client.list_artifacts(refreshed.info.run_id)}
    assert {"manifest.json", "config.json", "funnel.json", "ledger_summary.json", "corpus_card.md"} <= files
    assert trained.data.params["recipe.total_tokens"] == "8192"
    losses = job.client.get_metric_history(trained.info.run_id, "loss")
    assert [entry.step for entry in losses] == list(range(1, 9))
    assert losses[-1].value == job.result["pretrain"]["loss"]
    artifacts = {file.path for file in job.client.list_artifacts(trained.info.run_id)}
    assert {"loss_curve.png", "tokenizer", "metrics.jsonl"} <= artifacts
    outputs = job.client.get_run(trained.info.run_id).outputs
    assert outputs is not None
    (logged,) = outputs.model_outputs
    assert job.client.get_logged_model(logged.model_id).source_run_id == trained.info.run_id
    assert job.client.get_model_version("docs-smoke", "1").run_id == trained.info.run_id
    tokenizer = job.client.list_artifacts(trained.info.run_id, "tokenizer")
    assert [file.path for file in tokenizer] == ["tokenizer/tokenizer.json"]


def test_the_registered_model_loads_and_answers(job: Job) -> None:
    version = job.client.get_model_version_by_alias("docs-smoke", "candidate")
    assert version.version == job.client.get_model_version_by_alias("docs-smoke", "champion").version
    assert version.run_id == job.result["pretrain"]["mlflow_run_id"]
    assert version.tags["corpus_digest"] == job.result["refresh"]["digest"]
    mlflow.set_tracking_uri(f"sqlite:///{job.store / 'mlflow' / 'mlflow.db'}")
    try:
        model = mlflow.pyfunc.load_model("models:/docs-smoke@champion")
        options = {"max_new_tokens": 8, "seed": 3}
        answers = model.predict(["The function returns", "In this case,"], params=options)
    finally:
        mlflow.set_tracking_uri(None)  # what it was before is a default, which set would stay for every test after
    assert len(answers) == 2 and all(isinstance(answer, str) and answer for answer in answers)


def test_prefect_holds_the_flow_runs_and_their_stages(job: Job) -> None:
    runs = job.prefect(
        "select name, state_name from flow_run where name not in ('refresh web', 'refresh other') order by start_time"
    )
    assert runs[:4] == [(name, "Completed") for name in ("pipeline docs", *STAGES)]
    query = (
        "select task.state_name, task.name from task_run task join flow_run flow on flow.id = task.flow_run_id"
        " where flow.name = '{}' order by task.start_time"
    )
    for flow, stages in STAGES.items():
        tasks = job.prefect(query.format(flow))[: len(stages)]
        assert tasks == [("Completed", stage) for stage in stages], flow


def test_what_it_made_can_be_used(job: Job) -> None:
    generated = job.run("generate", "--model", "docs-smoke", "--prompt", "The function", "--max-tokens", "8")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("The function") and len(generated.stdout.strip()) > len("The function")
    corpora = job.run("corpora", "--json")
    assert corpora.returncode == 0 and "docs@1" in corpora.stdout and job.result["refresh"]["digest"] in corpora.stdout
    shown = succeeded(job.run("show", "docs", "--json"))
    assert {key: shown[key] for key in ("path", "digest", "removed")} == {
        key: job.result["refresh"][key] for key in ("path", "digest", "removed")
    }


def test_the_model_is_evaluated_again_alike(job: Job) -> None:
    evaluated = succeeded(job.run("evaluate", "--model", "docs-smoke", "--json"))
    assert evaluated["scores"] == job.result["evaluate"]["scores"]
    assert evaluated["mlflow_run_id"] != job.result["evaluate"]["mlflow_run_id"]


def test_a_second_refresh_of_the_same_inputs_changes_nothing(job: Job) -> None:
    before = {path: path.stat().st_mtime_ns for path in (job.store / "work").rglob("*")}
    source = f"environment-docs:{NUM_PAGES}"
    done = job.run("refresh", "--source", source, "--name", "docs", "--recipe", "documentation", "--json")
    result = succeeded(done)
    assert result == {
        **job.result["refresh"],
        "changed": False,
        "new_files": 0,
        "new_estimated_tokens": 0,
        "mlflow_run_id": result["mlflow_run_id"],
        "known_files": job.result["refresh"]["new_files"],
    }
    assert "no change" in done.stdout
    assert job.client.get_run(result["mlflow_run_id"]).info.run_name == "docs@1 (no change)"
    query = "select state.message from flow_run run join flow_run_state state on state.id = run.state_id"
    assert job.prefect(f"{query} order by run.start_time desc limit 1") == [("no change: docs@1",)]
    assert {path: path.stat().st_mtime_ns for path in (job.store / "work").rglob("*")} == before
    assert Store(job.store).versions("docs") == [1]


def test_stages_that_a_change_does_not_reach_are_cached(job: Job) -> None:
    source = f"environment-docs:{NUM_PAGES}"
    arguments = ["refresh", "--source", source, "--name", "other", "--recipe", "documentation"]
    changed = succeeded(job.run(*arguments, "--set", "toxicity.max_toxicity=0.9", "--json"))
    assert changed["corpus"] == "other@1" and changed["changed"]
    query = (
        "select task.name, task.state_name from task_run task join flow_run flow on flow.id = task.flow_run_id"
        " where flow.name = 'refresh other' order by task.start_time"
    )
    cached = dict.fromkeys(("inventory", "read", "extract", "language", "quality"), "Cached")
    computed = dict.fromkeys(("collect", "toxicity", "guard", "deduplicate", "publish", "card"), "Completed")
    assert dict(job.prefect(query)) == cached | computed


def test_a_name_that_another_run_is_writing_is_refused(job: Job) -> None:
    source = write_warc(job.cwd / "pages.warc.gz", 4)
    with Store(job.store).lock("corpus-web"):
        line = refused(job.run("refresh", "--source", str(source), "--name", "web"))
    assert "'corpus-web' is being written by another run" in line
    assert Store(job.store).versions("web") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                continue
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


@pytest.mark.verify
def test_a_disk_that_is_full_from_the_start(small_disk: Path, tmp_path: Path) -> None:
    source, store = write_warc(tmp_path / "pages.warc.gz", 20), small_disk / "store"
    filler = fill(small_disk)
    os.truncate(filler, filler.stat().st_size - (3 << 20))  # what is free then does not hold the two databases
    line = refused(tokenmill("refresh", "--source", str(source), "--name", "web", store=store, cwd=tmp_path))
    assert "disk is full" in line
    assert not list(store.glob("corpora/*/*"))


@pytest.mark.verify
def test_a_disk_that_fills_while_the_refresh_runs(small_disk: Path, tmp_path: Path) -> None:
    source, store = write_warc(tmp_path / "pages.warc.gz", 100), small_disk / "store"
    arguments = ["refresh", "--source", str(source), "--name", "web", "--set", "shard_records=4", "--json"]
    with started(*arguments, store=store, cwd=tmp_path) as process:
        wait_until(
            lambda: list(store.glob("work/extract/shards/[0-9a-f]*")), 120, "extraction has not begun", poll_s=0.01
        )
        filler = fill(small_disk)
        output, errors = process.communicate(timeout=120)
    line = refused(subprocess.CompletedProcess(arguments, process.returncode, output, errors))
    assert "disk is full" in line
    assert not list(store.glob("corpora/*/*"))
    filler.unlink()
    assert_adds_up(succeeded(tokenmill(*arguments, store=store, cwd=tmp_path)), 100)
