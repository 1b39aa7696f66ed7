"""From a document to the token shards, runs and models that were made of it: a real corpus, a real database."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.earlier_run import RUN_DIR_TAG
from infra.lineage import CONTAINS_TAG, Lineage, SplitShare, TokenFolder, _Holding, _Judge, tag_models, trace
from infra.mlflow_tracker import tracked_run
from infra.registry import model_references, register_model
from tasks.atomic import write_json
from tasks.pack import Split, TokenShards
from tasks.ports import InProcessMap
from tasks.purge import purge_tokens, purge_versions
from tasks.recipes.pretraining import smoke
from tasks.store import RUN_RECORD, Store
from tasks.takedown import TakedownQuery, find_documents
from tasks.tokenization import tokenize
from tasks.trained_corpora import TrainedCorpus, mixture_tags
from tests.infra.small_model import small_model
from tests.tasks.page_store import add, row


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """web@1 with 60 pages became token shards and the model web-smoke@1; other@1, with none of them, other-smoke@1."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store.open(tmp_path_factory.mktemp("lineage") / "store")
        (store.root / "mlflow" / "artifacts").mkdir(parents=True)
        add(store, "web", [row(seed, f"https://site{seed}.example/") for seed in range(60)])
        add(store, "other", [row(seed, f"https://else.example/{seed}") for seed in range(100, 104)])
        for name in ("web", "other"):
            train(store, name)
        return store


def train(store: Store, name: str, mixed_with: str = "") -> None:
    """What `pretrain` leaves behind, with weights that were never trained."""
    digest = store.corpus_manifest(name)["digest"]
    made = tokenize(store, store.corpus(name), smoke(), InProcessMap())
    title = f"{name}-{mixed_with}" if mixed_with else name
    run_dir = store.runs / title
    checkpoint, tokenizer = small_model(run_dir)
    record: dict[str, Any] = {"corpus": f"{name}@1", "corpus_digest": digest, "tokens": str(made.folder)}
    tags = {**record, "run_dir": str(run_dir)}
    if mixed_with:
        more = [{"corpus": f"{mixed_with}@1", "corpus_digest": store.corpus_manifest(mixed_with)["digest"]}]
        tokens = tokenize(store, store.corpus(mixed_with), smoke(), InProcessMap(), tokenizer=made.tokenizer).folder
        record |= {"more_corpora": more, "more_tokens": [str(tokens)]}
        tags |= mixture_tags(more, [tokens], {})
    write_json(run_dir / RUN_RECORD, record)
    run_tags = {"tokenmill.flow": "pretrain", RUN_DIR_TAG: str(run_dir)}
    with tracked_run(store, f"pretrain {title}", tags=run_tags) as tracker:
        tracker.dataset(f"{name}@1", digest, store.corpus(name), context="training")
        for each in record.get("more_corpora", ()):
            tracker.dataset(each["corpus"], each["corpus_digest"], run_dir, context="training", is_main=False)
        register_model(
            store,
            tracker,
            name=f"{title}-smoke",
            checkpoint=checkpoint,
            tokenizer_file=tokenizer,
            tags=tags,
            description="",
        )
    if mixed_with:
        return
    for flow in ("refresh_corpus", "evaluate", "reconcile"):
        with tracked_run(store, f"{flow} {name}", tags={"tokenmill.flow": flow}) as tracker:
            tracker.dataset(f"{name}@1", digest, store.corpus(name), context="")


def tokens_of(store: Store, name: str) -> Path:
    digest = store.corpus_manifest(name)["digest"]
    return next(store.tokens.glob(f"{digest[:16]}-*"))


def lineage_of(store: Store, *documents: str) -> Lineage:
    search = find_documents(store, TakedownQuery(documents=documents))
    return trace(store, search, search.targets("document"))


def test_a_document_that_was_trained_on_leads_to_the_model(store: Store) -> None:
    shards = TokenShards(tokens_of(store, "web"), "train")
    document = shards.document(0)
    found = lineage_of(store, document.document_id)
    assert found.held_by == ("web@1",)
    [folder] = found.tokens
    assert folder.name == tokens_of(store, "web").name and folder.corpora == ("web@1",)
    assert list(folder.splits) == ["train"]
    share = folder.splits["train"]
    assert (share.num_documents, share.num_tokens) == (1, document.num_tokens)
    index = pq.read_table(tokens_of(store, "web") / f"{share.buckets[0]}.train.parquet")
    assert document.document_id in index["document_id"].to_pylist()
    assert [(model.reference, model.relation) for model in found.models] == [("web-smoke@1", "trained on")]
    assert {run.flow: run.relation for run in found.runs} == {
        "pretrain": "trained on",
        "evaluate": "evaluated on",
        "refresh_corpus": "published",
    }
    pretrain = next(run for run in found.runs if run.flow == "pretrain")
    assert pretrain.run_id in pretrain.page and (Path(pretrain.checkpoints)).is_dir()


def test_a_document_that_was_held_out_measured_the_model_alone(store: Store) -> None:
    [document, *_] = TokenShards(tokens_of(store, "web"), "held_out").document_ids()
    found = lineage_of(store, document)
    assert [list(folder.splits) for folder in found.tokens] == [["held_out"]]
    assert [(model.reference, model.relation) for model in found.models] == [("web-smoke@1", "evaluated on")]
    assert found.tokenizers == ()  # they never see what is held out
    assert {run.flow: run.relation for run in found.runs}["pretrain"] == "evaluated on"


def test_a_tokenizer_that_saw_the_version_is_named(store: Store) -> None:
    [document, *_] = TokenShards(tokens_of(store, "web"), "train").document_ids()
    [tokenizer] = lineage_of(store, document).tokenizers
    recorded = json.loads((store.tokenizers / tokenizer.name / "manifest.json").read_bytes())
    assert recorded["corpus"] == "web@1" and tokenizer.sha256 == recorded["sha256"]


def test_the_heaviest_use_is_what_a_model_is_said_to_have_made(store: Store) -> None:
    share = SplitShare(1, 5, ("bucket-000",))
    both = TokenFolder("both", ("web@1",), "d1", "t1", {"train": share, "held_out": share})
    held = TokenFolder("held", ("web@2",), "d2", "t1", {"held_out": share})
    holding = _Holding({"d1": frozenset("a"), "d2": frozenset("a")}, {})
    judge = _Judge(store, holding, {"both": both, "held": held}, {"t1"})

    def used(digest: str, tokens: str) -> TrainedCorpus:
        return TrainedCorpus(corpus=digest, digest=digest, tokens=tokens)

    assert judge.relation(used("d1", "/tokens/both"), "t1") == "trained on"
    assert judge.relation(used("d2", "/tokens/held"), "t2") == "evaluated on"
    assert judge.relation(used("d2", "/tokens/held"), "t1") == "tokenizer trained on"
    assert judge.relation(used("elsewhere", ""), "t1") == "tokenizer trained on"
    assert judge.relation(used("elsewhere", "/tokens/both"), "t2") is None
    for gone in ("", "/tokens/gone", "/tokens/held"):  # none of this digest
        assert judge.relation(used("d1", gone), "t2") == "trained on, as far as can be told"
    # of a mixture: what is held out of another corpus than the main one is not looked at
    beside = replace(used("d2", "/tokens/held"), is_main=False)
    assert judge.relation(beside, "t2") is None
    mixture = (used("d2", "/tokens/held"), replace(used("d1", "/tokens/both"), is_main=False))
    use = judge.heaviest(mixture, "t2")
    assert use is not None and (use[0], use[1].corpus) == ("trained on", "d1")
    assert judge.heaviest((used("elsewhere", ""),), "t2") is None


def test_a_document_of_any_corpus_of_a_mixture_leads_to_the_run_and_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store.open(tmp_path / "store")
    (store.root / "mlflow" / "artifacts").mkdir(parents=True)
    add(store, "docs", [row(seed, f"https://docs.example/{seed}") for seed in range(20)])
    add(store, "news", [row(seed, f"https://news.example/{seed}") for seed in range(100, 120)])
    train(store, "docs", mixed_with="news")

    def uses(corpus: str, split: Split) -> list[tuple[str, str, str]]:
        document = TokenShards(tokens_of(store, corpus), split).document(0).document_id
        found = lineage_of(store, document)
        runs = [(use.name, use.relation, use.corpus) for use in found.runs]
        return [*runs, *((use.reference, use.relation, use.corpus) for use in found.models)]

    run, model = "pretrain docs-news", "docs-news-smoke@1"
    for corpus in ("docs", "news"):
        by = f"{corpus}@1"
        assert uses(corpus, "train") == [(run, "trained on", by), (model, "trained on", by)]
    assert uses("docs", "held_out") == [(run, "evaluated on", "docs@1"), (model, "evaluated on", "docs@1")]
    assert uses("news", "held_out") == []  # neither trained on nor scored


def test_what_is_in_no_version_leads_nowhere(store: Store) -> None:
    search = find_documents(store, TakedownQuery(domains=("nowhere.example",)))
    assert trace(store, search, {}) == Lineage(())


def test_the_audit_is_noted_on_models_once_and_beside_others(store: Store) -> None:
    for audit in ("first", "second", "first"):
        tag_models(store, ["web-smoke@1"], audit)
    tags = {model.name: model.tags.get(CONTAINS_TAG) for model in model_references(store)}
    assert tags == {"web-smoke": "first,second", "other-smoke": None}


def test_a_purged_document_still_leads_to_its_model(store: Store, tmp_path: Path) -> None:
    """By the digest that the version had before; the shards are gone, so no one can say that it was only held out."""
    [document, *_] = TokenShards(tokens_of(store, "other"), "train").document_ids()
    search = find_documents(store, TakedownQuery(documents=(document,)))
    versions = [version for version in search.versions if version.name == "other"]
    purge_versions(store, versions, [document], "audit")
    purge_tokens(store, {versions[0].manifest["digest"]}, [document])
    found = lineage_of(store, document)
    assert found.held_by == ("other@1",) and found.tokens == ()
    assert [(model.reference, model.relation) for model in found.models] == [
        ("other-smoke@1", "trained on, as far as can be told")
    ]
    assert "pretrain" in {run.flow for run in found.runs}
