"""What an operator does on Prefect's and MLflow's pages, done in a real browser against the real servers.

Every step leaves a picture in .screenshots/, to be looked at.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from flows.automations import PRETRAIN_ON_PUBLISH
from tests.data.prose import write_warc
from tests.integration.browser import CHROMIUM, RUN_TIMEOUT_MS, Browser, browser
from tests.integration.serving import Served, request, served

NUM_PAGES = 60
QUICK = ["total_tokens=16384", "checkpoint_every_steps=8", "evaluate_every_steps=8"]
ENDLESS = ["total_tokens=50000000", "checkpoint_every_steps=1000000"]

pytestmark = [
    pytest.mark.verify,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not CHROMIUM.is_file(), reason="Debian's chromium is not installed"),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which crawls arrive."""
    folder = tmp_path_factory.mktemp("incoming")
    write_warc(folder / "monday.warc.gz", NUM_PAGES)
    return folder


@pytest.fixture
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def open_form(page: Browser, up: Served, deployment: str) -> None:
    page.open(f"{up.prefect}/deployments/deployment/{up.deployment(deployment)['id']}/run")


def fill_refresh(page: Browser, name: str, source: Path) -> None:
    page.fill("Corpus name", name)
    page.fill("Source", str(source))
    page.choose("Recipe", "fineweb")


def test_a_wrong_value_is_refused_in_the_form(page: Browser, up: Served, incoming: Path) -> None:
    open_form(page, up, "refresh_corpus/refresh")
    page.picture("01-refresh-form")
    fill_refresh(page, "../outside", incoming)
    page.press("Submit")
    expect(page.page.get_by_text("Validation failed for field 'parameters.name'").first).to_be_visible()
    page.picture("02-wrong-name-refused")
    assert not up.runs_of("refresh_corpus/refresh")


def test_refresh_and_training_from_the_form_to_mlflow_and_back(page: Browser, up: Served, incoming: Path) -> None:
    open_form(page, up, "refresh_corpus/refresh")
    fill_refresh(page, "crawl", incoming)
    page.picture("03-refresh-filled")
    refresh = page.submit_run()
    up.wait(lambda: "mlflow-run" in up.artifacts(refresh), "no link to MLflow")
    page.tab("Artifacts")
    page.picture("04-refresh-running")
    page.state("Completed")
    page.page.reload()
    page.tab("Artifacts")
    page.picture("05-refresh-artifacts")
    artifacts = up.artifacts(refresh)
    for key in ("funnel", "samples", "corpus-card"):
        page.open(f"{up.prefect}/artifacts/artifact/{artifacts[key]['id']}")
        page.picture(f"06-{key}")

    open_form(page, up, "pretrain/pretrain")
    page.fill("Corpus", "crawl")
    page.add_items("Changed settings", QUICK)
    page.picture("07-pretrain-filled")
    training = page.submit_run()
    up.wait(lambda: "mlflow-run" in up.artifacts(training), "no link to MLflow")
    page.state("Completed")
    page.page.reload()
    page.tab("Artifacts")
    page.picture("08-pretrain-artifacts")
    artifacts = up.artifacts(training)
    page.open(f"{up.prefect}/artifacts/artifact/{artifacts['loss-curve']['id']}")
    page.picture("09-loss-curve")
    curve = page.page.locator("main img, .artifact-data-view img, img").last
    assert curve.evaluate("image => image.naturalWidth") > 100  # it is shown, not only linked

    page.open(f"{up.prefect}/artifacts/artifact/{artifacts['mlflow-run']['id']}")
    with page.page.context.expect_page() as opened:
        page.page.get_by_role("link", name="MLflow run").first.click(modifiers=["Control"])
    tracking = Browser(opened.value)
    tracking.page.set_viewport_size({"width": 1400, "height": 1300})
    expect(tracking.page.get_by_text("crawl@1").first).to_be_visible()
    tracking.picture("10-mlflow-run")
    expect(tracking.page.get_by_text("crawl-smoke").first).to_be_visible()  # the model that came of it
    expect(tracking.page.get_by_text("bits_per_byte").first).to_be_visible()  # a metric
    run = up.tracked(training)
    (dataset,) = [entry["dataset"] for entry in run["inputs"]["dataset_inputs"]]
    assert dataset["name"] == "crawl@1"
    back = tracking.page.locator(f"a[href*='/runs/flow-run/{training}']").first
    with tracking.page.context.expect_page() as returned:
        back.click(modifiers=["Control"])
    expect(Browser(returned.value).page.get_by_text("pretrain crawl smoke").first).to_be_visible()
    Browser(returned.value).tab("Artifacts")
    Browser(returned.value).picture("11-back-in-prefect")

    tracking.open(f"{up.mlflow}/#/models/crawl-smoke/versions/1?workflowType=machine_learning")
    expect(tracking.page.get_by_text("candidate").first).to_be_visible()
    tracking.picture("12-model-version")


def test_a_schedule_starts_a_refresh_on_a_file_that_arrived_and_then_says_no_change(
    page: Browser, up: Served, incoming: Path
) -> None:
    deployment = up.deployment("refresh_corpus/nightly-refresh")
    parameters = {"name": "crawl", "input": {"source": str(incoming)}, "curation": {"recipe": "fineweb"}}
    path = f"/api/deployments/{deployment['id']}"
    up.set_parameters("refresh_corpus/nightly-refresh", {"parameters": parameters})
    (nightly,) = deployment["schedules"]
    assert not nightly["active"]
    every_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}}
    request(up.prefect, "PATCH", f"{path}/schedules/{nightly['id']}", every_minute)
    arrived = incoming / "tuesday.warc.gz"
    shutil.copyfile(write_warc(incoming.parent / "tuesday-part", 90), arrived)

    page.open(f"{up.prefect}/deployments/deployment/{deployment['id']}")
    page.picture("13-schedule-paused")
    page.page.locator("label[role=switch]").first.click()
    expect(page.page.locator("label[role=switch]").first).to_have_attribute("aria-checked", "true")

    def ended() -> list[dict[str, Any]]:
        return [run for run in up.runs_of("refresh_corpus/nightly-refresh") if run["state"]["type"] == "COMPLETED"]

    first = up.wait(ended, "the schedule started nothing")[0]
    assert first["auto_scheduled"]
    up.wait(lambda: len(ended()) >= 2, "the schedule started no second run")
    page.page.locator("label[role=switch]").first.click()
    expect(page.page.locator("label[role=switch]").first).to_have_attribute("aria-checked", "false")
    second = ended()[1]
    assert "no change: crawl@2" in second["state"]["message"]
    page.open(f"{up.prefect}/runs/flow-run/{second['id']}")
    page.tab("Details")
    expect(page.page.get_by_text("no change: crawl@2").first).to_be_visible()
    page.picture("14-no-change")
    manifest = json.loads((up.store / "corpora/crawl/2/manifest.json").read_bytes())
    assert [Path(path).name for path in manifest["new_inputs"]] == ["tuesday.warc.gz"]


def test_a_published_corpus_starts_pretraining_which_waits_for_an_approval(
    page: Browser, up: Served, incoming: Path
) -> None:
    name = "pretrain_on_publish/pretrain-on-publish"
    known = {run["id"] for run in up.runs_of(name)}
    changed = {"training": {"settings": QUICK}, "consent": {"min_new_tokens": 1000, "approval": True}}
    up.set_parameters(name, up.deployment(name)["parameters"] | changed)
    page.open(f"{up.prefect}/automations")
    page.picture("15-automations")
    automation = page.page.locator(".p-list-item, .automation-card, li").filter(has_text=PRETRAIN_ON_PUBLISH).first
    automation.locator("[role=switch]").first.click()
    expect(automation.locator("[role=switch]").first).to_have_attribute("aria-checked", "true")

    write_warc(incoming / "wednesday.warc.gz", 130)
    refresh = up.trigger(
        "refresh_corpus/refresh",
        {"name": "crawl", "input": {"source": str(incoming)}, "curation": {"recipe": "fineweb"}},
    )
    up.ended(refresh)
    started = up.wait(
        lambda: [run for run in up.runs_of(name) if run["id"] not in known], "the event started no pretraining"
    )[0]
    page.open(f"{up.prefect}/runs/flow-run/{started['id']}")
    page.state("Paused")
    page.press("Resume")
    page.picture("16-approval")
    page.page.get_by_role("dialog").locator("[role=switch]").first.click()
    page.page.get_by_role("dialog").get_by_role("button", name="Submit").click()
    page.state("Completed")
    page.picture("17-approved")
    run = up.tracked(started["id"])
    assert run["info"]["status"] == "FINISHED"
    assert run["inputs"]["dataset_inputs"][0]["dataset"]["name"] == "crawl@3"


def test_a_training_is_cancelled_and_leaves_a_checkpoint(page: Browser, up: Served) -> None:
    open_form(page, up, "pretrain/pretrain")
    page.fill("Corpus", "crawl@1")
    page.add_items("Changed settings", ENDLESS)
    page.fill("Model name", "endless")
    training = page.submit_run()
    up.wait(lambda: "progress-train" in up.artifacts(training), "training shows no progress")
    page.tab("Artifacts")
    page.picture("18-training-progress")
    page.press("Cancel")
    page.page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    page.state("Cancelled")
    page.picture("19-cancelled")
    run = up.tracked(training)
    assert run["info"]["status"] == "KILLED"
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert list((Path(tags["tokenmill.run_dir"]) / "checkpoints").glob("step-*"))
    page.open(f"{up.mlflow}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}")
    expect(page.page.get_by_text(re.compile("Killed", re.IGNORECASE)).first).to_be_visible(timeout=RUN_TIMEOUT_MS)
    page.picture("20-mlflow-killed")
