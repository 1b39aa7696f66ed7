"""The flow that compares two versions: report, artifact, MLflow run; and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.testing.utilities import prefect_test_harness

from flows.diff_versions import diff_versions
from flows.parameters import DiffParameters
from infra.settings import environment, mlflow_uri
from tasks.store import Store
from tests.tasks.test_diff import BASE, NEXT
from tests.tasks.version_folders import write_version


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store.open(tmp_path / "store")
    for name, value in environment(store).items():
        if not name.startswith("PREFECT_"):  # the harness has a server of its own
            monkeypatch.setenv(name, value)
    write_version(store.corpora, "web", 1, BASE)
    write_version(store.corpora, "web", 2, NEXT)
    return store


def last_run() -> tuple[Any, dict[str, Any]]:
    """State of the latest flow run, and its artifacts by key."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return run.state, {str(each.key): each.data for each in client.read_artifacts(artifact_filter=wanted)}


def test_two_versions_are_compared_and_both_pages_show_it(store: Store) -> None:
    result = diff_versions(DiffParameters(after="web"))
    assert (result["before"], result["after"]) == ("web@1", "web@2")
    report = store.root / "reports/web@1--web@2.html"
    assert result["report"] == str(report) and "Superseded: 1" in report.read_text(encoding="utf-8")
    assert result["counts"]["changed"] == 2
    state, artifacts = last_run()
    assert "web@1 to web@2: 1 added, 1 revived, 2 changed" in state.message
    assert "### Superseded: 1" in artifacts["diff"] and "mlflow-run" in artifacts
    client = MlflowClient(mlflow_uri(store))
    run = client.get_run(result["mlflow_run_id"])
    assert run.info.run_name == "diff web@1 web@2" and run.info.status == "FINISHED"
    assert run.data.metrics["superseded"] == 1 and run.data.metrics["unchanged"] == 1
    assert {each.path for each in client.list_artifacts(run.info.run_id)} >= {report.name, "diff.json"}
    assert len(run.inputs.dataset_inputs) == 2


def test_what_can_not_be_compared_is_refused_in_one_line_and_nothing_is_begun(store: Store) -> None:
    with pytest.raises(ValueError, match="no version before web@1"):
        diff_versions(DiffParameters(after="web@1"))
    state, artifacts = last_run()
    assert state.type.value == "FAILED" and "no version before web@1" in state.message and artifacts == {}
    assert not (store.root / "reports").exists() and not (store.root / "mlflow/mlflow.db").exists()
