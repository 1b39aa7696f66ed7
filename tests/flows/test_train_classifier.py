"""Trainings of small classifiers through the whole flow: registered, judged, and named by a refresh."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.testing.utilities import prefect_test_harness

from flows.classifier_parameters import (
    Background,
    Effort,
    Gate,
    LabelledData,
    Purpose,
    TrainClassifierParameters,
)
from flows.classifier_plan import check_train_classifier, dry_run_train_classifier
from flows.parameters import Curation, Execution, Input, RefreshParameters
from flows.refresh_corpus import refresh_corpus
from flows.train_classifier import train_classifier
from infra.classifier_registry import champion_reference, fetch_classifier
from infra.settings import environment
from infra.tracking_client import client
from tasks.manifest import read_manifest
from tasks.store import Store
from tests.data.prose import write_jsonl, write_warc
from tests.infra.small_classifier import ANGRY, background_file, labelled_file

NUM_TEXTS = 1600


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment(store).items():
            if not name.startswith("PREFECT_"):  # the harness has a server of its own
                patched.setenv(name, value)
        yield store


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good.csv, narrow.csv (its anger has half of the words), calm.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    labelled_file(folder / "good.csv", range(NUM_TEXTS))
    labelled_file(folder / "narrow.csv", range(NUM_TEXTS), anger=ANGRY[:4])
    background_file(folder / "calm.jsonl", range(100_000, 101_000))
    return folder


def asked(data: Path, labelled: str, *, trials: int = 1, **changes: Any) -> TrainClassifierParameters:
    table = LabelledData(
        file=str(data / labelled), text="comment", label="verdict", source="site", positive=["1"], licence="CC0-1.0"
    )
    whole = TrainClassifierParameters(
        name="tone",
        data=[table],
        background=Background(sources=[str(data / "calm.jsonl")]),
        purpose=Purpose(task="Tells angry texts from calm ones.", positive="angry", negative="calm"),
        effort=Effort(trials=trials),
        gate=Gate(false_alarms=0.05),
    )
    return whole.model_copy(update=changes)


def last_run() -> tuple[FlowRun, dict[str, Any]]:
    """The latest flow run, and its artifacts by key."""
    with get_client(sync_client=True) as prefect:
        run = prefect.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return run, {str(each.key): each.data for each in prefect.read_artifacts(artifact_filter=wanted)}


def test_what_takes_a_look_is_refused_in_one_line_and_nothing_is_written(store: Store, data: Path) -> None:
    good = asked(data, "good.csv")
    table = good.data[0]
    refused = {
        "name labelled data": good.model_copy(update={"data": []}),
        "name a background": good.model_copy(update={"background": Background()}),
        "no-such.csv": asked(data, "no-such.csv"),
        "remark": good.model_copy(update={"data": [table.model_copy(update={"text": "remark"})]}),
        "there is no corpus 'docs'": good.model_copy(update={"background": Background(sources=["docs@3"])}),
        "no-such-folder": good.model_copy(update={"background": Background(sources=[str(data / "no-such-folder")])}),
        "no aggregation 'sum'": good.model_copy(update={"purpose": Purpose(unit="piece", aggregation="sum")}),
        "two sources are called 'tweets'": good.model_copy(
            update={"data": [table.model_copy(update={"name": "tweets"})] * 2}
        ),
        "two sources are called 'background-1'": good.model_copy(
            update={"data": [table.model_copy(update={"name": "background-1"})]}
        ),
        r"https://example.org/a.csv was given with": good.model_copy(
            update={"data": [table.model_copy(update={"file": "https://me:SECRET@example.org/a.csv"})]}
        ),
        r"https://example.org/b.csv was given with": good.model_copy(
            update={"background": Background(sources=["https://example.org/b.csv?sig=SECRET"])}
        ),
        "goes with an aggregation": good.model_copy(update={"purpose": Purpose(unit="piece")}),
    }
    for line, parameters in refused.items():
        with pytest.raises(ValueError, match=line) as error:
            check_train_classifier(parameters)
        assert "\n" not in str(error.value) and "SECRET" not in str(error.value)
    assert not store.work.exists() and not store.models.exists()


def test_a_dry_run_says_what_it_would_read_and_try(store: Store, data: Path) -> None:
    parameters = asked(data, "good.csv", trials=3)
    estimate = dry_run_train_classifier(check_train_classifier(parameters), parameters)
    assert estimate["labelled"] == {"good": [str(data / "good.csv")]}
    assert estimate["background"] == [str(data / "calm.jsonl")]
    assert (estimate["trials"], estimate["champion"], estimate["goes_on_with_earlier_trials"]) == (3, "none yet", False)
    assert estimate["label_rows"] == {"good: 0": "800 negative", "good: 1": "800 positive"}
    assert estimate["background_rows"] == {"background-1": 1000}
    sizes = estimate["distinct_texts"]
    assert sum(sizes.values()) == NUM_TEXTS and sizes["train"] > sizes["test"] > 0
    assert json.loads(json.dumps(estimate)) == estimate
    assert not store.work.exists() and not store.models.exists()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a,1"] * 6, "none of 1 distinct labelled texts is negative"),
        (["some words,1", "other ones,0"], "side has 0 positive of"),
        (["some words,1", "other ones,"], "row 2: the label in 'verdict' is empty"),
    ],
    ids=["one class", "few rows", "no label"],
)
def test_a_dry_run_refuses_labels_that_make_no_classifier(
    store: Store, data: Path, tmp_path: Path, rows: list[str], told: str
) -> None:
    (tmp_path / "bad.csv").write_text("\n".join(["comment,verdict,site", *(f"{row},x" for row in rows)]) + "\n")
    parameters = asked(tmp_path, "bad.csv", background=Background(sources=[str(data / "calm.jsonl")]))
    plan = check_train_classifier(parameters)
    with pytest.raises(ValueError, match=told):
        dry_run_train_classifier(plan, parameters)


def test_any_name_of_a_file_makes_a_name(store: Store, data: Path, tmp_path: Path) -> None:
    """Letters and digits of ASCII; a number makes two of one, and what stands for a background is taken."""
    names = ["data (1).csv", "_labels.csv", "données.csv", "данные.csv", "background-1.csv"]
    paths = [tmp_path / each for each in names] + [tmp_path / each / "texts.csv" for each in ("one", "two")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(data / "good.csv", path)
    good = asked(data, "good.csv")
    tables = [good.data[0].model_copy(update={"file": str(path)}) for path in paths]
    tables.append(tables[-1].model_copy(update={"name": "texts"}))
    plan = check_train_classifier(good.model_copy(update={"data": tables}))
    assert [source.name for source in plan.training.labelled] == [
        *("data-1", "labels", "donnees", "data", "background-1-2", "texts-2", "texts-3", "texts")
    ]


def test_the_seed_is_that_of_the_training_too(store: Store, data: Path) -> None:
    training = check_train_classifier(asked(data, "good.csv", effort=Effort(seed=7))).training
    assert (training.seed, training.first.training.seed) == (7, 7)


def test_the_origin_of_a_background_is_where_it_is_from(store: Store, data: Path, tmp_path: Path) -> None:
    write_warc(tmp_path / "pages.warc.gz", 3)
    calm, pages = str(data / "calm.jsonl"), str(tmp_path / "pages.warc.gz")
    asked_for = asked(data, "good.csv", background=Background(sources=[calm, pages, calm], pages=50))
    origins = {source.name: source.origin for source in check_train_classifier(asked_for).training.background}
    assert origins == {
        "background-1": calm,
        "pages": f"main content of a sample of at most 50 pages of {pages}",
    }
    stated = asked_for.background.model_copy(update={"origin": "this test"})
    plan = check_train_classifier(asked_for.model_copy(update={"background": stated}))
    assert {source.origin for source in plan.training.background} == {"this test"}


@pytest.fixture(scope="module")
def trained(store: Store, data: Path, server: None) -> list[tuple[dict[str, Any], FlowRun, dict[str, Any]]]:
    """Result, flow run and artifacts of trainings: on half of the words, on all, on half and on all again."""
    runs = []
    for labelled in ("narrow.csv", "good.csv", "narrow.csv", "good.csv"):
        result = train_classifier(asked(data, labelled))
        runs.append((result, *last_run()))
    return runs


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_the_better_one_is_let_through_and_the_worse_one_is_not(store: Store, trained: list[Any]) -> None:
    first, better, worse, same = (result for result, _, _ in trained)
    assert [result["model"] for result in (first, better, worse, same)] == ["tone@1", "tone@2", "tone@1", "tone@2"]
    assert first["gate"]["moved"] and "no champion yet" in first["gate"]["why"]
    assert better["gate"]["moved"] and "tone@2 is better" in better["gate"]["why"]
    assert not worse["gate"]["passed"] and not worse["gate"]["moved"]
    assert worse["gate"]["why"].endswith(": tone@2 is champion")
    assert not same["gate"]["passed"] and "tone@2 is the champion tone@2 itself, file for file" in same["gate"]["why"]
    states = ["ChampionMoved", "ChampionMoved", "ChampionKept", "ChampionKept"]
    assert [run.state.name for _, run, _ in trained] == states
    assert [run.state.message for _, run, _ in trained] == [result["gate"]["why"] for result, _, _ in trained]
    assert champion_reference(store, "tone") == "tone@2"
    assert fetch_classifier(store, "tone@candidate").reference == "tone@2"
    assert fetch_classifier(store, "tone@champion").tags["champion.why"] in better["gate"]["why"]
    tags = fetch_classifier(store, "tone@1").tags
    assert tags["gate.passed"] == "false" and tags["gate.why"] == worse["gate"]["why"]
    assert fetch_classifier(store, "tone@2").tags["gate.passed"] == "true"  # by which it became champion


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_the_run_holds_data_search_figures_pictures_and_errors(store: Store, trained: list[Any], data: Path) -> None:
    result, flow_run, artifacts = trained[1]
    mlflow = client(store)
    run = mlflow.get_run(result["mlflow_run_id"])
    assert run.info.status == "FINISHED" and run.info.run_name == "tone@2"
    assert run.data.tags["prefect.flow_run_id"] == str(flow_run.id)
    assert run.data.tags["tokenmill.model"] == "tone@2" and run.data.tags["tokenmill.promotion"] == "moved"
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"good", "background-1"}
    assert all(entry.dataset.source_type == "labelled_texts" for entry in run.inputs.dataset_inputs)
    sources = {entry.dataset.name: json.loads(entry.dataset.source)["path"] for entry in run.inputs.dataset_inputs}
    assert sources == {"good": str(data / "good.csv"), "background-1": str(data / "calm.jsonl")}
    metrics = run.data.metrics
    assert metrics["average_precision"] == pytest.approx(result["scores"]["average_precision"])
    assert metrics["gate.average_precision"] > metrics["gate.champion_average_precision"]
    assert metrics["trial.average_precision"] > 0.9 and any(name.startswith("slices/source_") for name in metrics)
    names = {file.path for file in mlflow.list_artifacts(run.info.run_id)}
    pictures = {"precision_recall.png", "confusion.png", "calibration.png"}
    tables = {"trials.csv", "slices.csv", "errors.md", "errors.csv", "card.md", "gate.json", "config.json"}
    assert pictures | tables <= names
    logged = json.loads(Path(mlflow.download_artifacts(run.info.run_id, "gate.json")).read_text())
    assert logged["passed"] and logged["champion_before"].startswith("tone@1#sha256=")
    assert {"classifier-card", "slices", "errors", "gate", "mlflow-run", "progress-trials"} <= set(artifacts)
    assert run.data.params["gate.false_alarms"] == "0.05"


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_the_same_command_goes_on_with_the_trials_that_are_there(store: Store, trained: list[Any], data: Path) -> None:
    def rows() -> list[dict[str, str]]:
        (file,) = store.work.glob("train_classifier/*/trials.csv")
        with file.open(newline="") as opened:
            return list(csv.DictReader(opened))

    before = rows()
    result = train_classifier(asked(data, "good.csv", trials=2, gate=Gate(false_alarms=0.05, champion="never")))
    after = rows()
    assert len(after) == len(before) + 1 and after[: len(before)] == before  # with their seconds
    assert not result["gate"]["moved"] and champion_reference(store, "tone") == "tone@2"


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_a_refresh_that_names_the_champion_records_its_version_and_hash(
    store: Store, trained: list[Any], tmp_path: Path
) -> None:
    better = trained[1][0]
    setting = 'quality_rules=[{"kind":"quality","model":"tone@champion","min_score":0.000001}]'
    wanted = RefreshParameters(
        name="web",
        input=Input(source=str(write_jsonl(tmp_path / "rows.jsonl", 30))),
        curation=Curation(recipe="smoke", settings=[setting], allow_wipe_out=True),
        execution=Execution(workers=1),
    )
    result = refresh_corpus(wanted)
    _, artifacts = last_run()
    assert better["pinned"] in result["models"]
    manifest = read_manifest(Path(result["path"]))
    assert manifest is not None and manifest["recipe"]["quality_rules"][0]["model"] == better["pinned"]
    assert better["pinned"].split("=")[1] in artifacts["corpus-card"]
    run = client(store).get_run(result["mlflow_run_id"])
    assert better["pinned"] in run.data.tags["tokenmill.models"].split(", ")
    estimate = refresh_corpus(wanted.model_copy(update={"execution": Execution(dry_run=True)}))
    assert better["pinned"] in estimate["models"] and not estimate["changed"]
    with pytest.raises(ValueError, match=r"no classifier 'tone@staging'.*tone@2"):
        refresh_corpus(
            wanted.model_copy(
                update={"curation": Curation(recipe="smoke", settings=[setting.replace("champion", "staging")])}
            )
        )


@pytest.mark.verify
@pytest.mark.timeout(600)
def test_a_background_of_pages_is_their_main_content(store: Store, server: None, data: Path, tmp_path: Path) -> None:
    """Ordinary pages as they come: read, extracted, in the classifier's languages, and found again by a second run."""
    write_warc(tmp_path / "pages.warc.gz", 600)
    background = Background(sources=[str(tmp_path / "pages.warc.gz")], pages=500, licence="CC0-1.0", origin="this test")
    parameters = asked(data, "good.csv", name="toned", background=background)
    estimate = dry_run_train_classifier(check_train_classifier(parameters), parameters)
    assert estimate["background"] == [f"{tmp_path}/pages.warc.gz, a sample of 500 pages"]
    result = train_classifier(parameters)
    bundle = fetch_classifier(store, result["model"]).bundle
    facts = {each.name: each for each in bundle.classifier.data}
    assert 400 < facts["pages"].num_texts <= 500 and facts["pages"].licence == "CC0-1.0"
    inputs = client(store).get_run(result["mlflow_run_id"]).inputs.dataset_inputs
    (source,) = (json.loads(each.dataset.source)["path"] for each in inputs if each.dataset.name == "pages")
    assert source == f"main content of a sample of at most 500 pages of {tmp_path}/pages.warc.gz"  # no work folder
    plan = check_train_classifier(parameters)
    texts = [json.loads(line)["text"] for line in (plan.work / "pages.jsonl").read_text().splitlines()]
    assert len(texts) == facts["pages"].num_texts and not any("<" in text for text in texts)
