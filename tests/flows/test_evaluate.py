"""Two small models of different tokenizers are scored on the same documents, and the better one becomes champion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from prefect.testing.utilities import prefect_test_harness

from flows.evaluate import check_evaluate, dry_run_evaluate, evaluate
from flows.parameters import EvaluateParameters
from infra.mlflow_tracker import tracked_run
from infra.registry import champion, register_model
from infra.tracking_client import client
from tasks.mixture import MixtureSource
from tasks.pack import tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.store import Store
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, tokenizer_hash, train_tokenizer
from tasks.training import TrainJob, train
from tests.data.prose import prose

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """web-smoke@1 took 5 steps, @2 took 60 with another tokenizer, @3 took 5 again."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    (store.root / "mlflow").mkdir()
    with pytest.MonkeyPatch.context() as patched, prefect_test_harness(server_startup_timeout=90):
        patched.setenv("TOKENMILL_STORE", str(store.root))
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        for vocab_size, num_steps in ((300, 5), (400, 60), (300, 5)):
            register(store, vocab_size, num_steps)
        yield store


def register(store: Store, vocab_size: int, num_steps: int) -> None:
    tokens = store.tokens / f"{'c0ffee' * 3:.16}-{vocab_size}"
    if not tokens.is_dir():
        ids = [f"{number:03d}" for number in range(60)]
        texts = [prose(number) for number in range(60)]
        corpus = store.root / f"corpus-{vocab_size}"
        corpus.mkdir()
        columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids) | {"text": texts}
        pq.write_table(pa.table(columns), corpus / "bucket-000.parquet")
        tokenizer = corpus / "tokenizer.json"
        save_tokenizer(train_tokenizer(texts, TokenizerConfig(vocab_size=vocab_size)), tokenizer)
        split = HeldOutSplit(fraction=0.1)
        report = tokenize_bucket(corpus / "bucket-000.parquet", tokenizer, tokens, split=split)
        tokenizer.rename(tokens / "tokenizer.json")
        write_token_manifest(
            tokens, [report], tokenizer_file=tokens / "tokenizer.json", corpus_digest="c0ffee" * 3, split=split
        )
    recipe = PretrainRecipe(
        model="smoke",
        tokenizer=TokenizerConfig(vocab_size=vocab_size),
        seq_len=64,
        total_tokens=num_steps * 512,
        global_batch_tokens=512,
        min_warmup_steps=1,
        precision="fp32",
    )
    with tracked_run(store, "pretrain", tags={}) as tracker:
        run_dir = store.runs / tracker.run_id
        job = TrainJob(
            corpora=(MixtureSource(corpus="web@1", tokens_dir=tokens),),
            tokenizer_file=tokens / "tokenizer.json",
            run_dir=run_dir,
            recipe=recipe,
            device="cpu",
        )
        torch.set_num_threads(1)
        result = train(job)
        register_model(
            store,
            tracker,
            name="web-smoke",
            checkpoint=Path(result.checkpoint),
            tokenizer_file=tokens / "tokenizer.json",
            tags={"tokens": str(tokens), "tokenizer_sha256": tokenizer_hash(tokens / "tokenizer.json")},
            description="",
            step=result.step,
        )


def parameters(model: str, wanted: str = "never", dry_run: bool = False) -> EvaluateParameters:
    scoring = {"profile": "smoke", "prompts": ["In this"]}
    return EvaluateParameters.model_validate(
        {"model": model, "scoring": scoring, "promotion": {"champion": wanted}, "dry_run": dry_run}
    )


def reigning(store: Store) -> str:
    holder = champion(store, "web-smoke")
    assert holder is not None
    return holder.reference


def test_the_better_one_takes_the_place_and_keeps_it(store: Store) -> None:
    assert reigning(store) == "web-smoke@1"
    plain = evaluate(parameters("web-smoke@2"))
    assert plain["promotion"] == {"moved": False, "champion": "", "why": ""}
    assert reigning(store) == "web-smoke@1"

    better = evaluate(parameters("web-smoke@2", "if_better"))
    assert better["scores"] == plain["scores"]
    assert better["promotion"]["moved"] and better["promotion"]["champion"] == "web-smoke@2" == reigning(store)
    run = client(store).get_run(better["mlflow_run_id"])
    metrics = run.data.metrics
    assert metrics["bits_per_byte"] < metrics["champion.bits_per_byte"]
    assert run.data.tags["tokenmill.promotion"] == "moved"
    (scored,) = run.inputs.model_inputs
    on_its_page = {metric.key: metric.value for metric in client(store).get_logged_model(scored.model_id).metrics}
    assert on_its_page["bits_per_byte"] == metrics["bits_per_byte"]

    same = evaluate(parameters("web-smoke@2", "if_better"))["promotion"]
    assert not same["moved"] and same["why"] == "web-smoke@2 is the champion already"

    worse = evaluate(parameters("web-smoke@3", "if_better"))
    assert not worse["promotion"]["moved"] and reigning(store) == "web-smoke@2"
    assert worse["promotion"]["why"].endswith("web-smoke@2 is champion")
    tags = client(store).get_run(worse["mlflow_run_id"]).data.tags
    assert tags["tokenmill.promotion"] == "kept"


def test_a_champion_scores_the_same_on_its_own_and_on_a_candidates_documents(store: Store) -> None:
    """@1 and @3 have the same tokenizer and held-out documents: as champion and as candidate alike, to the last bit."""
    client(store).set_registered_model_alias("web-smoke", "champion", "1")
    own = evaluate(parameters("web-smoke@1"))["scores"]["bits_per_byte"]
    held = evaluate(parameters("web-smoke@3", "if_better"))
    assert client(store).get_run(held["mlflow_run_id"]).data.metrics["champion.bits_per_byte"] == own


def test_refused_before_any_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(store.runs.glob("*/checkpoints/step-*"))
    with pytest.raises(ValueError, match="is in no registry and can't be champion"):
        check_evaluate(parameters(str(folder), "if_better"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(ValueError, match="no server shows it"):
        check_evaluate(parameters("web-smoke@2", "ask"))


def test_a_dry_run_does_nothing(store: Store) -> None:
    before = sorted(path for path in store.root.rglob("*") if "mlflow" not in path.parts)
    asked = parameters("web-smoke@3", "if_better", dry_run=True)
    result = dry_run_evaluate(check_evaluate(asked), asked)
    assert result["model"] == "web-smoke@3" and result["held_out_documents"] > 0
    assert sorted(path for path in store.root.rglob("*") if "mlflow" not in path.parts) == before
    assert Path(result["token_shards"]).is_dir()
