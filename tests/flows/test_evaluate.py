"""Small models are asked the same documents and tasks, and the gate lets the better one through and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from prefect.testing.utilities import prefect_test_harness
from safetensors.torch import load_file

from flows import evaluate_gate, evaluate_plan
from flows.evaluate import evaluate
from flows.evaluate_plan import check_evaluate, dry_run_evaluate
from flows.parameters import EvaluateParameters
from infra.mlflow_tracker import tracked_run
from infra.registry import ModelVersion, champion, find_model, move_champion, register_model
from infra.tracking_client import client
from tasks.checkpoints import load_decoder
from tasks.checkpoints.pieces import write_pieces
from tasks.checkpoints.state import state_json
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
    """web-smoke@1 took 5 steps, @2 took 60 with another tokenizer, @3 took 5 again, and is the same as @1."""
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
        split = HeldOutSplit(fraction=0.3)
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


def parameters(model: str, wanted: str = "never", dry_run: bool = False, **scoring: Any) -> EvaluateParameters:
    promotion = {"champion": wanted, "guarded": scoring.pop("guarded", [])}
    compare_with = scoring.pop("compare_with", "")
    scoring = {"profile": "smoke", "prompts": ["In <b>this</b>"], "tasks": ["basics:agreement"], "limit": 30} | scoring
    return EvaluateParameters.model_validate(
        {
            "model": model,
            "compare_with": compare_with,
            "scoring": scoring,
            "promotion": promotion,
            "dry_run": dry_run,
        }
    )


def reigning(store: Store) -> str:
    holder = champion(store, "web-smoke")
    assert holder is not None
    return holder.reference


def reign(store: Store, version: str) -> None:
    client(store).set_registered_model_alias("web-smoke", "champion", version)


def artifacts(store: Store, run_id: str) -> set[str]:
    return {file.path for file in client(store).list_artifacts(run_id)}


def test_the_better_one_takes_the_place_and_keeps_it(store: Store) -> None:
    assert reigning(store) == "web-smoke@1"
    plain = evaluate(parameters("web-smoke@2", compare_with="web-smoke@1"))
    assert plain["promotion"]["why"] == "" and not plain["promotion"]["moved"]
    assert reigning(store) == "web-smoke@1"
    (bits, *_) = plain["rows"]
    assert bits["measure"] == "bits_per_byte" and bits["low"] < bits["score"] < bits["high"] < bits["chance"]
    assert bits["compared"]["web-smoke@1"]["told"] == "better"
    by_name = {row["measure"]: row for row in plain["rows"]}
    agreement = by_name["basics/agreement/acc"]
    assert agreement["examples"] == 30 and agreement["chance"] == 0.5
    assert (
        agreement["centred"] == pytest.approx(2 * agreement["score"] - 1) == pytest.approx(by_name["basics"]["score"])
    )

    better = evaluate(parameters("web-smoke@2", "if_better", guarded=["basics/agreement=0.3"]))
    assert better["scores"] == plain["scores"]
    assert better["promotion"]["moved"] and better["promotion"]["champion"] == "web-smoke@2" == reigning(store)
    run = client(store).get_run(better["mlflow_run_id"])
    metrics = run.data.metrics
    assert metrics["gate.bits_per_byte"] < metrics["gate.bits_per_byte_champion"]
    assert metrics["gate.bits_per_byte_difference_high"] < 0
    assert metrics["bits_per_byte_low"] < metrics["bits_per_byte"] < metrics["bits_per_byte_high"]
    assert run.data.tags["tokenmill.promotion"] == "moved"
    assert {"gate.json", "scores.json", "examples.csv", "scores.png"} <= artifacts(store, run.info.run_id)
    assert run.inputs is not None
    (scored,) = run.inputs.model_inputs
    on_its_page = {metric.key: metric for metric in client(store).get_logged_model(scored.model_id).metrics or ()}
    assert on_its_page["bits_per_byte"].value == metrics["bits_per_byte"]
    assert on_its_page["basics/agreement/acc"].value == agreement["score"]
    assert str(on_its_page["basics/agreement/acc"].dataset_name).startswith("basics@")
    assert "basics/agreement/acc_low" in on_its_page
    tags = find_model(store, "web-smoke@2").tags
    assert tags["gate.passed"] == "true" and tags["champion.why"] in tags["gate.why"]

    same = evaluate(parameters("web-smoke@2", "if_better"))["promotion"]
    assert not same["moved"] and same["why"] == "web-smoke@2 is the champion already"

    worse = evaluate(parameters("web-smoke@3", "if_better"))
    assert not worse["promotion"]["moved"] and reigning(store) == "web-smoke@2"
    assert "web-smoke@3 is worse than the champion web-smoke@2" in worse["promotion"]["why"]
    assert worse["promotion"]["why"].endswith("web-smoke@2 is champion")
    tags = dict(client(store).get_run(worse["mlflow_run_id"]).data.tags)
    assert tags["tokenmill.promotion"] == "kept"


def test_the_same_weights_are_no_better_than_themselves(store: Store) -> None:
    reign(store, "1")
    kept = evaluate(parameters("web-smoke@3", "if_better", tasks=[]))["promotion"]
    assert not kept["moved"] and reigning(store) == "web-smoke@1"
    assert "has the weights of the champion web-smoke@1 itself" in kept["why"]


def test_a_guarded_slice_has_to_be_there(store: Store) -> None:
    reign(store, "1")
    moved = evaluate(parameters("web-smoke@2", "if_better", tasks=[], guarded=["held_out/language/unknown"]))
    assert "not surely worse by more than allowed in held_out/language/unknown (" in moved["promotion"]["why"]
    assert moved["promotion"]["why"].endswith("allowed 0): web-smoke@2 is champion")
    with pytest.raises(ValueError, match="have no slice 'held_out/language/xx'; there is held_out/source"):
        evaluate(parameters("web-smoke@1", "if_better", tasks=[], guarded=["held_out/language/xx"]))


@contextmanager
def not_finite(store: Store, reference: str) -> Iterator[None]:
    """The registered version's own files, with a NaN in them; what a checkpoint that was damaged later would be."""
    model = find_model(store, reference)
    kept_files = {file: file.read_bytes() for file in Path(model.folder).iterdir()}
    weights = Path(model.folder, "model.safetensors")
    tensors = load_file(weights)
    tensors["final_norm.weight"][0] = float("nan")
    try:
        network, state = load_decoder(model.folder)
        network.load_state_dict(tensors)
        written = write_pieces(weights, network.state_dict(), {})
        Path(model.folder, "state.json").write_bytes(state_json(state, {"model.safetensors": written}))
        yield
    finally:
        for file, content in kept_files.items():
            file.write_bytes(content)


def test_weights_that_are_not_finite_are_refused(store: Store) -> None:
    reign(store, "1")
    with not_finite(store, "web-smoke@2"):
        refused = evaluate(parameters("web-smoke@2", "if_better"))
    assert not refused["promotion"]["moved"] and reigning(store) == "web-smoke@1"
    assert "web-smoke@2 is not finite: bits_per_byte" in refused["promotion"]["why"]
    assert refused["samples"] == [] and refused["rows"][0]["score"] is None
    assert "bits_per_byte" not in refused["scores"]


def test_a_champion_that_is_not_finite_is_replaced_by_what_is_better_than_chance(store: Store) -> None:
    reign(store, "1")
    with not_finite(store, "web-smoke@1"):
        moved = evaluate(parameters("web-smoke@2", "if_better"))
    assert moved["promotion"]["moved"] and reigning(store) == "web-smoke@2"
    assert "(the champion web-smoke@1 is not finite)" in moved["promotion"]["why"]
    told = {row["measure"]: row["compared"]["web-smoke@1"]["told"] for row in moved["rows"]}
    assert told["bits_per_byte"] == told["basics/agreement/acc"] == told["basics"] == "not finite"


def test_a_person_is_asked_only_where_the_gate_passes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def agree(title: str, markdown: str) -> str:
        asked.append(title)
        return "looks well"

    monkeypatch.setattr(evaluate_gate, "ask", agree)
    monkeypatch.setattr(evaluate_plan, "check_approvable", lambda: None)
    reign(store, "2")
    worse = evaluate(parameters("web-smoke@1", "ask", tasks=[]))["promotion"]
    assert not worse["moved"] and reigning(store) == "web-smoke@2" and not asked
    reign(store, "1")
    better = evaluate(parameters("web-smoke@2", "ask", limit=12))
    assert better["promotion"]["moved"] and "approved: looks well" in better["promotion"]["why"]
    assert asked == ["Make web-smoke@2 the champion?"]
    again = evaluate(parameters("web-smoke@2", limit=11))
    digests = [dataset_digest(store, run["mlflow_run_id"], "basics/agreement/acc") for run in (better, again)]
    assert digests[0] != digests[1]  # of another choice of examples


def dataset_digest(store: Store, run_id: str, metric: str) -> str:
    inputs = client(store).get_run(run_id).inputs
    assert inputs is not None
    (scored,) = inputs.model_inputs
    metrics = client(store).get_logged_model(scored.model_id).metrics or ()
    (own,) = (each for each in metrics if each.key == metric and each.run_id == run_id)
    return str(own.dataset_digest)


def test_a_champion_that_changed_meanwhile_is_not_displaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reign(store, "1")
    looked = champion

    def changed(store: Store, name: str) -> ModelVersion | None:
        move_champion(store, name, "3", "somebody was faster")
        return looked(store, name)

    monkeypatch.setattr(evaluate_gate, "champion", changed)
    late = evaluate(parameters("web-smoke@2", "if_better", tasks=[]))["promotion"]
    assert late["passed"] and not late["moved"] and reigning(store) == "web-smoke@3"
    assert "the champion has changed meanwhile: evaluate again" in late["why"]


def test_workers_find_the_same_scores(store: Store) -> None:
    alone, two = (evaluate(parameters("web-smoke@2", workers=workers)) for workers in (1, 2))
    assert two["scores"] == pytest.approx(alone["scores"])


def test_a_champion_scores_the_same_on_its_own_and_on_a_candidates_documents(store: Store) -> None:
    """@1 and @3 have the same tokenizer and held-out documents: as champion and as candidate alike, to the last bit."""
    own = evaluate(parameters("web-smoke@1", tasks=[]))["scores"]["bits_per_byte"]
    other = evaluate(parameters("web-smoke@3", tasks=[], compare_with="web-smoke@1"))
    assert other["rows"][0]["compared"]["web-smoke@1"]["score"] == own
    assert other["rows"][0]["compared"]["web-smoke@1"]["difference"] == 0


def test_refused_before_any_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(store.runs.glob("*/checkpoints/step-*"))
    with pytest.raises(ValueError, match="is in no registry and can't be champion"):
        check_evaluate(parameters(str(folder), "if_better"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(ValueError, match="no server shows it"):
        check_evaluate(parameters("web-smoke@2", "ask"))
    with pytest.raises(ValueError, match="has no task 'nothing'; it has agreement"):
        check_evaluate(parameters("web-smoke@2", tasks=["basics:nothing"]))
    with pytest.raises(ValueError, match="nothing is measured as 'basics/python'; with these tasks there is bits_per"):
        check_evaluate(parameters("web-smoke@2", guarded=["basics/python"]))
    with pytest.raises(ValueError, match="is to be compared with itself"):
        check_evaluate(parameters("web-smoke@2", compare_with="web-smoke@2"))
    with pytest.raises(ValueError, match="is not in the store any more: leave the search for contamination out"):
        check_evaluate(parameters("web-smoke@2", contamination=True))
    with pytest.raises(ValueError, match="none are asked"):
        check_evaluate(parameters("web-smoke@2", tasks=[], contamination=True))


def test_a_dry_run_does_nothing(store: Store) -> None:
    before = sorted(path for path in store.root.rglob("*") if "mlflow" not in path.parts)
    asked = parameters("web-smoke@3", "if_better", dry_run=True)
    result = dry_run_evaluate(check_evaluate(asked), asked)
    assert result["model"] == "web-smoke@3" and result["held_out_documents"] > 0
    assert result["examples"] == {"basics/agreement": 30}
    assert sorted(path for path in store.root.rglob("*") if "mlflow" not in path.parts) == before
    assert Path(result["token_shards"]).is_dir()
