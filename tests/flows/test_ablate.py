"""Whole ablations: a planted bad recipe is found, equal recipes are not told apart, and no failed model is hidden."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.ablate import FailedTwinsError, ablate
from flows.ablate_parameters import AblateParameters
from flows.ablate_results import ABLATION_FILE
from infra.ray_map import ray_cluster
from infra.tracking_client import client
from tasks.store import RUN_RECORD, Store
from tests.data.prose import prose

pytestmark = pytest.mark.verify

NUM_PAGES = 240  # of each kind
WORDS = "login share offer price basket shipping cookie newsletter sitemap account voucher footer"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("store"))
    (store.root / "mlflow").mkdir()
    with (
        pytest.MonkeyPatch.context() as patched,
        prefect_test_harness(server_startup_timeout=90),
        ray_cluster(),
    ):
        patched.setenv("TOKENMILL_STORE", str(store.root))
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield store


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prose, and as many pages of nothing but menus, which Gopher's rules drop for want of stop words."""
    rows = []
    for number in range(NUM_PAGES):
        chance = random.Random(number)
        menu = "\n".join(
            " | ".join(f"{chance.choice(WORDS.split()).title()} ${chance.randrange(999)}" for _ in range(8))
            for _ in range(24)
        )
        for site, text in (("prose", prose(number)), ("shop", menu)):
            rows.append({"text": text, "url": f"https://{site}.example/{number}", "date": "2024-01-02T00:00:00Z"})
    file = tmp_path_factory.mktemp("source") / "pages.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parameters(source: Path, *settings_b: str, **twins: Any) -> AblateParameters:
    return AblateParameters.model_validate(
        {
            "pages": {"source": str(source)},
            "recipe_a": {"recipe": "smoke"},
            "recipe_b": {"recipe": "smoke", "settings": list(settings_b)},
            "twins": {"budget_tokens": 61_440, "seeds": 2, **twins},
            "measure": {"held_out_fraction": 0.2},
        }
    )


NO_RULES = ("quality_rules=[]", "language.min_score=0")


@pytest.fixture(scope="module")
def found(store: Store, source: Path) -> dict[str, Any]:
    """The ablation of a recipe against the same one with its rules switched off."""
    return ablate(parameters(source, *NO_RULES))


def test_a_recipe_that_keeps_junk_is_found(found: dict[str, Any]) -> None:
    assert found["outcome"] == "a is better"
    assert found["difference"]["low"] > 0
    assert found["verdict"].startswith("a is better (smoke): ")
    good, bad = found["recipes"]
    assert (good["documents_kept"], good["removed"]) == (NUM_PAGES, {"quality": NUM_PAGES})
    assert (bad["documents_kept"], bad["removed"]) == (2 * NUM_PAGES, {})
    assert found["pages"]["held_out_b"] > found["pages"]["kept_by_both"] == found["pages"]["held_out_a"] > 20


def test_models_have_equal_tokens_and_seeds_of_their_own(found: dict[str, Any]) -> None:
    assert [(twin["letter"], twin["seed"]) for twin in found["twins"]] == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
    assert {twin["tokens"] for twin in found["twins"]} == {61_440}
    assert found["trained_tokens"] == 4 * 61_440
    assert all(twin["seconds"] > 0 for twin in found["twins"])


def test_the_history_has_the_models_below_the_ablation(found: dict[str, Any], store: Store) -> None:
    mlflow_client = client(store)
    run = mlflow_client.get_run(found["mlflow_run_id"])
    assert run.data.tags["tokenmill.ablation"] == "a is better"
    assert run.data.metrics["held-out pages/difference_low"] == pytest.approx(found["difference"]["low"])
    children = mlflow_client.search_runs(
        [run.info.experiment_id], filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    assert {child.info.run_name for child in children} == {
        "twin a seed 0",
        "twin b seed 1",
        "twin a seed 2",
        "twin b seed 3",
    }
    assert all("loss" in child.data.metrics for child in children)
    names = {artifact.path for artifact in mlflow_client.list_artifacts(run.info.run_id)}
    assert {"report.md", "ablation.png", ABLATION_FILE, "config.json"} <= names
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    assert all(child.info.run_id in Path(found["report"]).read_text() for child in children)


def test_no_model_is_registered_and_no_corpus_announced(found: dict[str, Any], store: Store) -> None:
    assert not client(store).search_registered_models()
    assert not list(store.corpora.glob("*/announced.json"))


def test_a_stopped_ablation_goes_on_with_what_is_finished(found: dict[str, Any], store: Store, source: Path) -> None:
    """As a kill in the third training would leave it."""
    runs = [Path(twin["checkpoint"]).parent.parent for twin in found["twins"]]
    shutil.rmtree(runs[3])
    (runs[2] / RUN_RECORD).write_text(
        json.dumps(
            {key: value for key, value in json.loads((runs[2] / RUN_RECORD).read_bytes()).items() if key != "outcome"}
        )
    )
    before = [(run / RUN_RECORD).stat().st_mtime_ns for run in runs[:2]]
    again = ablate(parameters(source, *NO_RULES))
    assert [(run / RUN_RECORD).stat().st_mtime_ns for run in runs[:2]] == before
    assert again["mlflow_run_id"] == found["mlflow_run_id"]
    assert again["groups"] == found["groups"]
    assert [twin["checkpoint"] for twin in again["twins"]] == [twin["checkpoint"] for twin in found["twins"]]


def test_equal_recipes_are_not_told_apart(store: Store, source: Path) -> None:
    result = ablate(parameters(source, seeds=2))
    assert result["outcome"] == "not told apart"
    assert result["verdict"].startswith("not told apart: ")
    assert result["recipes"][0]["corpus"] == result["recipes"][1]["corpus"]
    low, high = result["difference"]["low"], result["difference"]["high"]
    assert low < 0 < high
    assert len(set(result["groups"][0]["runs_a"] + result["groups"][0]["runs_b"])) == 4


def test_a_failed_model_ends_the_ablation_without_a_verdict_and_is_shown(store: Store, source: Path) -> None:
    """Any step that is worse than the one before is a spike, and there are soon more than may be gone back from."""
    tiny = ("loss_z", "grad_norm_z", "min_loss_scale", "min_log_grad_norm_scale")
    hopeless = ["spikes.policy=rollback", "spikes.min_history_steps=4", "spikes.window_steps=8"]
    hopeless += [*(f"spikes.{name}=1e-9" for name in tiny), "checkpoint_every_steps=4", "evaluate_every_steps=4"]
    with pytest.raises(FailedTwinsError, match=r"^no verdict, 4 of 4 models could not be trained: a seed 0: "):
        ablate(parameters(source, *NO_RULES, settings=hopeless))
    reports = [file.read_text() for file in (store.root / "reports").glob("*/report.md")]
    assert sum("failed: " in report for report in reports) == 1
