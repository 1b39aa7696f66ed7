"""A model version to its scores on text that trained neither it nor its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows.console import console
from flows.parameters import EvaluateParameters
from flows.stages import link_tracking, markdown_cell, prefect_tags, run_as_task, show_markdown
from infra.mlflow_tracker import tracked_run
from infra.registry import ModelVersion, find_model
from infra.settings import current_store
from tasks.evaluation.bits_per_byte import bits_per_byte
from tasks.generation import TextGenerator
from tasks.pack import TokenShards


def check_evaluate(parameters: EvaluateParameters) -> ModelVersion:
    """What can be refused before any work, as ValueError in one line; the model."""
    return find_model(current_store(), parameters.model)


@flow(name="evaluate", flow_run_name="evaluate {parameters.model}", persist_result=False)
def evaluate(parameters: EvaluateParameters) -> dict[str, Any]:
    """Bits per byte on the held-out documents of the model's own corpus, and samples.

    Returns model, run_id, scores, samples.
    """
    store = current_store()
    version = check_evaluate(parameters)
    with tracked_run(
        store,
        f"evaluate {version.reference}",
        tags={"tokenmill.flow": "evaluate", "tokenmill.model": version.reference, **prefect_tags(store)},
    ) as tracker:
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        tracker.parameters(parameters.model_dump(mode="json"))
        generator = run_as_task("load", TextGenerator.load, version.folder, version.tokenizer_file)
        tokens = _token_shards(version, generator)
        scores = run_as_task("bits_per_byte", _score, generator, tokens, parameters.max_documents)
        samples = run_as_task("samples", _samples, generator, parameters.prompts)
        tracker.metrics(scores)
        digest = generator.state.corpus_digest
        corpus = version.tags.get("corpus", f"digest {digest[:16]}")
        tracker.dataset(corpus, digest, tokens, context="evaluation")
        rows = [f"| {markdown_cell(prompt)} | {markdown_cell(text)} |" for prompt, text in samples]
        table = "\n".join(["| prompt | continuation |", "| --- | --- |", *rows])
        tracker.describe(f"Evaluation of **{version.reference}** on held-out documents of {corpus}.\n\n{table}")
        show_markdown("samples", table, f"Samples of {version.reference}")
        return {
            "model": version.reference,
            "run_id": tracker.run_id,
            "scores": scores,
            "samples": [{"prompt": prompt, "continuation": text} for prompt, text in samples],
        }


def _token_shards(version: ModelVersion, generator: TextGenerator) -> Path:
    recorded = version.tags.get("tokens")
    tokens = current_store().tokens
    candidates = [Path(recorded)] if recorded else []
    candidates += sorted(tokens.glob(f"{generator.state.corpus_digest[:16]}-*"))  # the store may have been moved
    for folder in candidates:
        if folder.is_dir() and TokenShards(folder, "held_out").digest == generator.state.tokens_digest:
            return folder
    raise ValueError(
        f"the token shards that {version.reference} was trained with are not in {tokens}; "
        "run `tokenmill pretrain` on its corpus again to make them"
    )


def _score(generator: TextGenerator, tokens: Path, max_documents: int) -> dict[str, float]:
    shards = TokenShards(tokens, "held_out")
    console.progress("evaluate", 0, 1)
    score = bits_per_byte(generator.model, shards, max_documents=max_documents)
    console.progress("evaluate", 1, 1)
    return {
        "bits_per_byte": score.bits_per_byte,
        "loss": score.loss_nats_per_token,
        "held_out_documents": score.num_documents,
        "held_out_bytes": score.num_bytes,
    }


def _samples(generator: TextGenerator, prompts: list[str]) -> list[tuple[str, str]]:
    return [
        (prompt, generator.continuation(prompt, max_new_tokens=48, seed=index)) for index, prompt in enumerate(prompts)
    ]
