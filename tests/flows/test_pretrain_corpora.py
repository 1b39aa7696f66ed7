"""A mixture from its plan to what a person finds of it: real corpora, shards, steps, checkpoints on S3, MLflow, gc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import CorpusShare, PretrainParameters, Training
from flows.pretrain import _earlier_tokens, _figures, _tokenize, _version_tags
from flows.pretrain_corpora import copies_warning
from flows.pretrain_plan import PretrainPlan, check_pretrain, dry_run_pretrain
from infra.earlier_run import RUN_DIR_TAG
from infra.garbage import collect_garbage
from infra.lineage import trace
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.registry import find_model, register_model
from infra.tracking_client import client
from tasks.atomic import write_json
from tasks.generation import TextGenerator
from tasks.metrics_file import METRICS_FILE, drawn_tokens, read_metrics
from tasks.pack import SPLITS, TokenShards
from tasks.plan import TrainingPlan
from tasks.ports import InProcessMap
from tasks.store import RUN_RECORD, Store
from tasks.takedown import TakedownQuery, find_documents
from tasks.tokenizer import TOKENIZER_FILE, corpus_cluster_ids, split_documents
from tasks.training import TrainJob, TrainResult, train
from tests.tasks.page_store import add, row, table
from tests.tasks.s3_server import objects, s3_server

SETTINGS = ["total_tokens=12288", "tokenizer.vocab_size=400", "evaluate_max_documents=2", "held_out_fraction=0.2"]


@dataclass(frozen=True)
class Trained:
    store: Store
    parameters: PretrainParameters
    plan: PretrainPlan
    job: TrainJob
    result: TrainResult
    run_id: str
    model: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """docs@1 + news@1, one sequence of news to four of docs, as the flow makes it of its plan; no server but S3's."""
    with pytest.MonkeyPatch.context() as environment, s3_server() as bucket:
        store = Store.open(tmp_path_factory.mktemp("mixture") / "store")
        environment.setenv("TOKENMILL_STORE", str(store.root))
        (store.root / "mlflow" / "artifacts").mkdir(parents=True)
        add(store, "docs", [row(seed, f"https://docs.example/{seed}") for seed in range(60)])
        held_out = _held_out_seed(store)
        news = [row(seed, f"https://news.example/{seed}") for seed in range(100, 140)]
        add(store, "news", [*news, row(held_out, "https://copy.example/")])
        parameters = PretrainParameters(
            corpus="docs",
            more_corpora=[CorpusShare(corpus="news", weight=1 / 4)],
            training=Training(settings=SETTINGS, checkpoints=f"{bucket}/checkpoints"),
        )
        plan = check_pretrain(parameters)
        made = _tokenize(plan, InProcessMap())
        assert made[0].tokenizer == made[1].tokenizer
        job = TrainJob(
            corpora=tuple(
                corpus.facts(store).source(each.folder) for corpus, each in zip(plan.corpora, made, strict=True)
            ),
            corpus_dir=plan.main.folder,
            tokenizer_file=made[0].folder / TOKENIZER_FILE,
            run_dir=plan.run_dir,
            recipe=plan.recipe,
            checkpoints=plan.checkpoints,
            device="cpu",
        )
        plan.run_dir.mkdir(parents=True)
        with tracked_run(store, plan.name, tags=_run_tags(plan)) as tracker:
            main, *more = (str(each.folder) for each in made)
            record = plan.identity | {"mlflow_run_id": tracker.run_id, "tokens": main, "more_tokens": more}
            write_json(plan.run_dir / RUN_RECORD, record)
            result = train(job)
            model = _registered(plan, job, result, tracker)
        yield Trained(store, parameters, plan, job, result, tracker.run_id, model)


def _run_tags(plan: PretrainPlan) -> dict[str, str]:
    return {"tokenmill.flow": "pretrain", RUN_DIR_TAG: str(plan.run_dir)}


def _registered(plan: PretrainPlan, job: TrainJob, result: TrainResult, tracker: MlflowTracker) -> str:
    for corpus in plan.corpora:
        tracker.dataset(corpus.reference, corpus.digest, corpus.folder, context="training", is_main=corpus is plan.main)
    rows = read_metrics(job.run_dir / METRICS_FILE)
    tracker.metric_rows([(row["step"], _figures(row)) for row in rows])
    made: dict[str, Any] = {"checkpoint": result.checkpoint, "spikes": 0, "steps_left_out": 0}
    tracker.settle()
    return register_model(
        plan.store,
        tracker,
        name=plan.model,
        checkpoint=result.checkpoint,
        tokenizer_file=job.tokenizer_file,
        tags=_version_tags(plan, job, made, {}, drawn_tokens(job.run_dir / METRICS_FILE)),
        description="",
    )


def _held_out_seed(store: Store) -> int:
    """Of a page that the recipe holds out of docs."""
    split = split_documents(corpus_cluster_ids(store.corpus("docs")), 0.2)
    url = next(row["url"] for row in table(store, "docs@1", "documents") if split.holds_out(row["cluster_id"]))
    return int(url.rpartition("/")[2])


def test_a_later_plan_counts_the_tokens_of_the_shards_that_are_there(trained: Trained) -> None:
    def plan_of(*settings: str) -> TrainingPlan:
        training = Training(settings=[*SETTINGS, *settings])
        asked = trained.parameters.model_copy(update={"training": training})
        return check_pretrain(asked).training_plan(probe=False)

    again = plan_of("seed=5")
    shards = [TokenShards(source.tokens_dir, split) for source in trained.job.corpora for split in SPLITS]
    assert again.corpus_is_counted and again.estimated_corpus_tokens == sum(part.num_tokens for part in shards)
    assert not plan_of("tokenizer.max_train_bytes=7000000").corpus_is_counted


def test_every_step_says_what_was_drawn_of_each_and_so_does_mlflow(trained: Trained) -> None:
    rows = read_metrics(trained.job.run_dir / METRICS_FILE)
    assert len(rows) == trained.result.num_steps == 12
    for step in rows:
        docs, news = step["drawn/docs@1"], step["drawn/news@1"]
        assert docs + news == step["tokens"] == 1024 * step["step"] and abs(news - step["tokens"] / 5) < 256
    planned = {share["corpus"]: share["tokens"] for share in trained.plan.estimate()["mixture"]}
    assert planned == drawn_tokens(trained.job.run_dir / METRICS_FILE) == {"docs@1": docs, "news@1": news}
    run = client(trained.store).get_run(trained.run_id)
    assert (run.data.metrics["drawn/docs_1"], run.data.metrics["drawn/news_1"]) == (docs, news)
    assert run.inputs is not None
    assert sorted(each.dataset.name for each in run.inputs.dataset_inputs) == ["docs@1", "news@1"]
    assert run.data.tags["tokenmill.corpus"] == "docs@1"


def test_the_model_names_every_corpus_with_digest_and_tokens(trained: Trained) -> None:
    tags = find_model(trained.store, trained.model).tags
    assert tags["corpus"] == "docs@1" and tags["corpus_digest"] == trained.plan.main.digest
    [news] = json.loads(tags["more_corpora"])
    assert (news["corpus"], news["corpus_digest"], news["weight"]) == ("news@1", trained.plan.corpora[1].digest, 0.25)
    assert json.loads(tags["more_tokens"]) == [str(trained.job.corpora[1].tokens_dir)]
    name, _, version = trained.model.partition("@")
    card = client(trained.store).get_model_version(name, version).description
    assert card is not None and f"mixed with news@1**: {json.loads(tags['drawn_tokens'])['news@1']:,} tokens" in card


def test_the_checkpoints_are_where_they_were_asked_for_and_are_used_from_there(trained: Trained) -> None:
    place = trained.result.checkpoint
    assert place.startswith("s3://") and f"/checkpoints/{trained.plan.run_dir.name}/step-" in place
    assert "state.json" in objects(place) and not (trained.plan.run_dir / "checkpoints").exists()
    found = find_model(trained.store, place)
    by_url = TextGenerator.load(found.folder, found.tokenizer_file).continuation("The", max_new_tokens=4)
    registered = find_model(trained.store, trained.model)
    assert by_url == TextGenerator.load(registered.folder, registered.tokenizer_file).continuation(
        "The", max_new_tokens=4
    )
    told = dry_run_pretrain(trained.plan, trained.parameters)
    assert told["resumes_from_step"] == 12 and told["checkpoints"] == place.rpartition("/")[0]


def test_held_out_text_that_another_corpus_trains_on_is_told(trained: Trained) -> None:
    copies = trained.plan.held_out_copies()
    told = dry_run_pretrain(trained.plan, trained.parameters)
    assert copies == told["held_out_copies"] == {"news@1": 1}
    assert copies_warning(copies).startswith("1 of news@1 documents in training have the text of one that is held out")
    assert copies_warning({"news@1": 0}) == ""


def test_what_was_begun_with_is_gone_on_with(trained: Trained) -> None:
    again = check_pretrain(trained.parameters)
    assert _earlier_tokens(again) == [corpus.tokens_dir for corpus in trained.job.corpora]
    alone = check_pretrain(trained.parameters.model_copy(update={"more_corpora": []}))
    assert alone.run_dir != again.run_dir and _earlier_tokens(alone) is None


def test_garbage_and_takedown_know_both_corpora(trained: Trained) -> None:
    store = trained.store
    for name in ("docs", "news"):  # a later version, so that the one that was trained on is not the newest
        add(store, name, [row(seed, f"https://{name}.example/{seed}") for seed in range(500, 504)])
    kept = collect_garbage(store, dry_run=True, keep_versions=1, min_age_days=0)
    reasons = {str(Path(each["path"]).relative_to(store.root)): each["why"] for each in kept["kept"]}
    for name in ("docs", "news"):
        assert reasons[f"corpora/{name}/1"] == f"model {trained.model} was trained on it"
    for corpus in trained.job.corpora:
        assert reasons[f"tokens/{corpus.tokens_dir.name}"] == f"model {trained.model} was trained on it"
    assert "are left alone" in reasons[f"runs/{trained.plan.run_dir.name}"]
    search = find_documents(store, TakedownQuery(urls=("https://news.example/101",)))
    lineage = trace(store, search, search.targets("document"))
    assert [use.reference for use in lineage.models] == [trained.model]
    [run] = lineage.runs
    assert run.run_id == trained.run_id and run.checkpoints == trained.plan.checkpoints
