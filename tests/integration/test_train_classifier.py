"""A classifier trained as an operator does it: triggered over Prefect's API on real servers, then looked at in pages.

The form, the flow run and MLflow's pages each leave a picture in .screenshots/, to be looked at.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from tests.infra.small_classifier import background_file, labelled_file
from tests.integration.browser import CHROMIUM, browser
from tests.integration.serving import Served, answer, request, served

DEPLOYMENT = "train_classifier/train-classifier"
PICTURES = ("precision_recall.png", "confusion.png", "calibration.png")

pytestmark = [pytest.mark.verify, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("up")) as found:
        yield found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the form would send."""
    folder = tmp_path_factory.mktemp("data")
    table = {"text": "comment", "label": "verdict", "source": "site", "positive": ["1"], "licence": "CC0-1.0"}
    labelled = labelled_file(folder / "comments.csv", range(1600), wrong_fraction=0.1)
    calm = background_file(folder / "calm.jsonl", range(100_000, 101_000))
    return {
        "name": "tone",
        "data": [{"file": str(labelled), **table}],
        "background": {"sources": [str(calm)], "licence": "CC0-1.0"},
        "purpose": {"task": "Tells angry texts from calm ones.", "positive": "angry", "negative": "calm"},
        "effort": {"trials": 2},
        "gate": {"false_alarms": 0.05},
    }


@pytest.fixture(scope="module")
def run(up: Served, asked: dict[str, Any]) -> dict[str, Any]:
    """The finished flow run."""
    return up.ended(up.trigger(DEPLOYMENT, asked), timeout_s=600)


def test_the_run_over_the_api_registers_a_version_that_the_gate_lets_through(up: Served, run: dict[str, Any]) -> None:
    assert run["state"]["name"] == "ChampionMoved" and "tone@1 is champion" in run["state"]["message"]
    tracked = up.tracked(run["id"])
    assert tracked["info"]["status"] == "FINISHED"
    model = request(up.mlflow, "GET", "/api/2.0/mlflow/registered-models/get?name=tone")["registered_model"]
    assert {alias["alias"]: alias["version"] for alias in model["aliases"]} == {"candidate": "1", "champion": "1"}
    path = f"/ajax-api/2.0/mlflow/artifacts/list?run_id={tracked['info']['run_id']}"
    names = {file["path"] for file in request(up.mlflow, "GET", path)["files"]}
    assert {*PICTURES, "trials.csv", "slices.csv", "errors.md", "card.md", "gate.json"} <= names
    artifacts = up.artifacts(run["id"])
    assert {"classifier-card", "slices", "errors", "gate", "mlflow-run", "progress-trials"} <= set(artifacts)
    assert "2 of 2 trials" in artifacts["progress-trials"]["description"]


@pytest.mark.parametrize(
    "wrong", [{"name": "No Name"}, {"effort": {"trials": 0}}, {"data": [{"positive": ["1"]}]}], ids=str
)
def test_wrong_values_are_refused_when_submitted(up: Served, wrong: dict[str, Any]) -> None:
    path = f"/api/deployments/{up.deployment(DEPLOYMENT)['id']}/create_flow_run"
    status, _ = answer(up.prefect, "POST", path, {"parameters": {"parameters": wrong}})
    assert status == 409


def test_a_killed_run_is_closed_and_the_next_one_goes_on(up: Served, asked: dict[str, Any]) -> None:
    wanted = {**asked, "name": "killed", "effort": {"trials": 40}}
    others = _trials(up)
    killed = up.trigger(DEPLOYMENT, wanted)
    (trials,) = up.wait(lambda: _trials(up) - others, "no trial")
    up.wait(lambda: _rows(trials) >= 2, "no second trial")
    process = int((up.store / "locks" / f"flow-{killed}.lock").read_text())
    os.kill(process, signal.SIGKILL)
    up.wait(lambda: not psutil.pid_exists(process), "it lives")
    before = _rows(trials)
    up.ended(up.trigger("reconcile/reconcile", {"min_age_minutes": 0}))
    assert up.run(killed)["state"]["type"] == "CRASHED"
    assert up.tracked(killed)["info"]["status"] == "KILLED"
    again = up.ended(up.trigger(DEPLOYMENT, {**wanted, "effort": {"trials": before}}))
    assert "killed@1" in again["state"]["message"]
    assert _rows(trials) == before  # not one was tried again


def _trials(up: Served) -> set[Path]:
    return set(up.store.glob("work/train_classifier/*/trials.csv"))


def _rows(trials: Path) -> int:
    return len(trials.read_text().splitlines()) - 1


@pytest.mark.skipif(not CHROMIUM.is_file(), reason="Debian's chromium is not installed")
def test_form_run_pictures_and_version_in_the_browser(up: Served, run: dict[str, Any]) -> None:
    tracked = up.tracked(run["id"])["info"]
    pages = f"{up.mlflow}/#/experiments/{tracked['experiment_id']}/runs/{tracked['run_id']}"
    view = "?workflowType=machine_learning"
    with browser(height=1800) as page:
        page.open(f"{up.prefect}/deployments/deployment/{up.deployment(DEPLOYMENT)['id']}/run")
        expect(page.page.get_by_text("Labelled data").first).to_be_visible()
        page.picture("70-classifier-form")
        page.open(f"{up.prefect}/runs/flow-run/{run['id']}")
        page.tab("Artifacts")
        page.picture("71-classifier-flow-run")
        page.open(f"{pages}{view}")
        expect(page.page.get_by_text("tone@1").first).to_be_visible()
        page.picture("72-classifier-run")
        for number, name in enumerate([*PICTURES, "errors.md", "slices.csv", "card.md"], 73):
            page.open(f"{pages}/artifacts/{name}{view}")
            expect(page.page.get_by_text(name).first).to_be_visible()
            page.picture(f"{number}-classifier-{Path(name).stem.replace('_', '-')}")
        page.open(f"{up.mlflow}/#/models/tone/versions/1{view}")
        expect(page.page.get_by_text("Tells angry texts from calm ones").first).to_be_visible()
        page.picture("79-classifier-version")
