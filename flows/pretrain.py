"""A corpus version to a registered model version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow

from flows.console import console
from flows.parameters import PretrainParameters
from flows.stages import link_tracking, prefect_tags, run_as_task, show_markdown
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_map import check_cluster, ray_cluster
from infra.ray_train import RESULT_FILE, MetricRow, run_training
from infra.registry import register_model
from infra.settings import current_store
from tasks.atomic import write_json
from tasks.loss_curve import loss_curve_picture
from tasks.manifest import code_version, fingerprint, library_versions, read_manifest
from tasks.pack import SPLITS, TokenShards
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tasks.store import Store, checked_name
from tasks.tokenization import TOKENIZER_FILE, tokenize
from tasks.train_loop import TrainJob

_RUN_FILE = "mlflow-run.json"
_METRICS = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "held_out_loss", "held_out_bits_per_byte", "tokens")


def check_pretrain(parameters: PretrainParameters) -> Path:
    """What can be refused before any work, as ValueError in one line; the corpus version's folder."""
    resolve_pretrain_recipe(parameters.recipe, parameters.overrides)
    check_cluster()
    corpus = current_store().corpus(parameters.corpus)
    manifest = read_manifest(corpus)
    assert manifest is not None
    if manifest["documents_kept"] < 2:
        raise ValueError(
            f"corpus {manifest['name']}@{manifest['version']} holds {manifest['documents_kept']} documents; it takes"
            " one to train on and one to hold out: name another version, or refresh with other rules"
        )
    return corpus


@flow(name="pretrain", flow_run_name="pretrain {parameters.corpus} {parameters.recipe}", persist_result=False)
def pretrain(parameters: PretrainParameters) -> dict[str, Any]:
    """Train tokenizer and network on a corpus version, evaluate, and register the model as `candidate`.

    The same corpus, recipe and code find the same run folder: a killed run goes on from its last checkpoint, a complete
    one is returned. Returns model, run_id, checkpoint, steps, tokens, loss, bits_per_byte, and where the curve lies.
    """
    corpus = check_pretrain(parameters)
    store = current_store()
    recipe = resolve_pretrain_recipe(parameters.recipe, parameters.overrides)
    manifest = read_manifest(corpus)
    assert manifest is not None
    reference = f"{manifest['name']}@{manifest['version']}"
    model_name = checked_name(parameters.model or f"{manifest['name']}-{recipe.name}"[:64], "model name")
    identity = {
        "corpus": manifest["digest"],
        "recipe": recipe,
        "workers": parameters.workers,
        "code": code_version("tasks", "model"),
        "libraries": library_versions(("torch", "tokenizers", "numpy")),
        # a run is one model of one corpus version under one name
        "corpus_name": reference,
        "model": model_name,
    }
    run_dir = store.runs / fingerprint(identity)[:20]
    lock = f"run-{run_dir.name}"
    with store.lock(lock):
        run_dir.mkdir(parents=True, exist_ok=True)
        earlier = _earlier_run(run_dir)
        tags = {"tokenmill.flow": "pretrain", "tokenmill.run_dir": str(run_dir), **prefect_tags(store)}
        with tracked_run(
            store, f"pretrain {reference} {recipe.name}", tags=tags, resume=earlier.get("run_id", ""), lock=lock
        ) as tracker:
            link_tracking(store, tracker.experiment_id, tracker.run_id)
            if earlier.get("model"):
                console.say(f"{reference} was already trained with this recipe: {earlier['model']}; nothing to do")
                return {**earlier, "changed": False}
            write_json(run_dir / _RUN_FILE, {"run_id": tracker.run_id})
            tracker.parameters({"recipe": recipe.model_dump(mode="json"), "workers": parameters.workers})
            tracker.dataset(reference, manifest["digest"], corpus, context="training")
            with ray_cluster() as shard_map:
                tokens = run_as_task("tokenize", tokenize, store, corpus, recipe, shard_map, console.progress)
                job = TrainJob(
                    tokens_dir=tokens,
                    tokenizer_file=tokens / TOKENIZER_FILE,
                    run_dir=run_dir,
                    recipe=recipe,
                    resume=True,
                )
                result = run_as_task("train", _train, job, parameters.workers, tracker)
            outcome = run_as_task(
                "register", _register, store, tracker, model_name, reference, manifest["digest"], recipe, job, result
            )
            write_json(run_dir / _RUN_FILE, outcome)
            return {**outcome, "changed": True}


def _earlier_run(run_dir: Path) -> dict[str, Any]:
    try:
        earlier: dict[str, Any] = json.loads((run_dir / _RUN_FILE).read_bytes())
    except FileNotFoundError:  # a first run
        return {}
    return earlier


def _train(job: TrainJob, num_workers: int, tracker: MlflowTracker) -> dict[str, Any]:
    recorded = tracker.last_step("loss")

    def on_rows(rows: list[MetricRow], num_steps: int) -> None:
        new = [row for row in rows if row["step"] > recorded]
        tracker.metric_rows(
            [(row["step"], {key: row[key] for key in _METRICS if row.get(key) is not None}) for row in new]
        )
        last = rows[-1]
        if last["loss"] is not None:
            note = f"loss {last['loss']:.3f}, {last['tokens_per_s']:,.0f} tokens/s"
            console.progress("train", last["step"], num_steps, note)

    return run_training(job, num_workers=num_workers, on_rows=on_rows)


def _register(
    store: Store,
    tracker: MlflowTracker,
    model_name: str,
    corpus: str,
    digest: str,
    recipe: PretrainRecipe,
    job: TrainJob,
    result: dict[str, Any],
) -> dict[str, Any]:
    curve = job.run_dir / "loss_curve.png"
    loss_curve_picture(job.run_dir / "metrics.jsonl", curve, title=f"{model_name} on {corpus}")
    for file in (curve, job.run_dir / "metrics.jsonl", job.run_dir / RESULT_FILE):
        tracker.artifact(file)
    tracker.artifact(job.tokenizer_file, "tokenizer")
    tracker.metrics(
        {
            "final.loss": result["loss"],
            "final.bits_per_byte": result["bits_per_byte"],
            "final.tokens": result["tokens"],
        },
        step=result["step"],
    )
    summary = (
        f"{result['num_parameters']:,} parameters trained on {result['tokens']:,} tokens of corpus **{corpus}** "
        f"(digest `{digest[:16]}`), recipe `{recipe.name}`: "
        f"{result['bits_per_byte']:.4f} bits per byte on held-out text."
    )
    model = register_model(
        store,
        tracker,
        name=model_name,
        checkpoint=Path(result["checkpoint"]),
        tokenizer_file=job.tokenizer_file,
        tags={
            "corpus": corpus,
            "corpus_digest": digest,
            "tokens": str(job.tokens_dir),
            "checkpoint": result["checkpoint"],
            **prefect_tags(store),
        },
        description=summary,
    )
    tracker.tags({"tokenmill.model": model})
    tracker.describe(f"{summary}\n\nModel version **{model}**.")
    show_markdown("model", f"**{model}**\n\n{summary}", f"Model {model}")
    return {
        "model": model,
        "run_id": tracker.run_id,
        "checkpoint": result["checkpoint"],
        "steps": result["step"],
        "tokens": result["tokens"],
        "loss": result["loss"],
        "bits_per_byte": result["bits_per_byte"],
        "num_parameters": result["num_parameters"],
        "tokens_in_corpus": sum(TokenShards(job.tokens_dir, split).num_tokens for split in SPLITS),
        "loss_curve": str(curve),
    }
