"""A model version to its scores on text that trained neither it nor its tokenizer, and to the place of champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.approvals import NotApproved, ask, check_approvable
from flows.command_line import evaluate_command
from flows.console import console
from flows.parameters import EvaluateParameters
from flows.progress import progress
from flows.stages import (
    estimated,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_markdown,
)
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.registered_versions import LOGGED_MODEL_TAG
from infra.registry import ModelVersion, champion, find_model, move_champion
from infra.settings import current_store
from tasks.checkpoints import read_state
from tasks.evaluation.bits_per_byte import (
    BitsPerByte,
    choose_documents,
    document_texts,
    score_documents,
    score_texts,
    summed,
)
from tasks.generation import TextGenerator
from tasks.inputs import Profile
from tasks.markdown import markdown_quotes
from tasks.pack import TokenShards
from tasks.store import Store
from tasks.tokenization import find_tokens

MAX_DOCUMENTS: dict[Profile, int | None] = {"smoke": 50, "small": 200, "full": None}
"""Held-out documents that are scored, chosen by hash of their id; a larger choice contains every smaller one."""


@dataclass(frozen=True)
class EvaluatePlan:
    """What is scored on what, and the champion that it is held against, where it is."""

    store: Store
    version: ModelVersion
    tokens: Path
    numbers: Sequence[int]  # of the held-out documents
    champion: ModelVersion | None

    @property
    def name(self) -> str:
        return f"evaluate {self.version.reference}"


def check_evaluate(parameters: EvaluateParameters) -> EvaluatePlan:
    """What can be refused before any work, as ValueError in one line; else what is to be done."""
    store = current_store()
    version = find_model(store, parameters.model)
    name, at, _ = version.reference.partition("@")
    wanted = parameters.promotion.champion
    if wanted != "never" and not at:
        raise ValueError(f"{parameters.model} is in no registry and can't be champion: name a model version")
    if wanted == "ask" and not parameters.dry_run:
        check_approvable()
    state = read_state(version.folder)
    tokens = find_tokens(store, corpus_digest=state.corpus_digest, tokens_digest=state.tokens_digests[0])
    numbers = choose_documents(TokenShards(tokens, "held_out"), MAX_DOCUMENTS[parameters.scoring.profile])
    return EvaluatePlan(store, version, tokens, numbers, champion(store, name) if wanted != "never" else None)


def dry_run_evaluate(plan: EvaluatePlan, parameters: EvaluateParameters) -> dict[str, Any]:
    """What the run would do, as a plain mapping. Writes nothing."""
    return {
        "dry_run": True,
        "model": plan.version.reference,
        "held_out_documents": len(plan.numbers),
        "token_shards": str(plan.tokens),
        "prompts": len(parameters.scoring.prompts),
        "promotion": parameters.promotion.champion,
        "champion": plan.champion.reference if plan.champion else "",
    }


@flow(name="evaluate", flow_run_name="evaluate {parameters.model}", persist_result=False)
@one_line_failures
def evaluate(parameters: EvaluateParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Bits per byte on the held-out documents of the model's own corpus, samples, and who is champion.

    Returns model, mlflow_run_id, scores, samples, promotion (moved, champion, why).
    """
    plan = check_evaluate(parameters)
    if parameters.dry_run:
        return estimated(dry_run_evaluate(plan, parameters), plan.name)
    reference = plan.version.reference
    tags = {"tokenmill.flow": "evaluate", "tokenmill.model": reference, **prefect_tags(plan.store)}
    retry = evaluate_command(plan.store, parameters)
    with flow_scope(plan.store, retry=retry), tracked_run(plan.store, plan.name, tags=tags) as tracker:
        link_tracking(plan.store, tracker.experiment_id, tracker.run_id)
        configuration = parameters.model_dump(mode="json")
        tracker.parameters(configuration)
        tracker.json(configuration, "config.json")
        generator = run_as_task("load", TextGenerator.load, plan.version.folder, plan.version.tokenizer_file)
        score = run_as_task("bits_per_byte", _score, generator, plan)
        samples = run_as_task("samples", _samples, generator, parameters.scoring.prompts)
        scores = {
            "bits_per_byte": score.bits_per_byte,
            "loss": score.loss_nats_per_token,
            "held_out_documents": score.num_documents,
            "held_out_bytes": score.num_bytes,
        }
        digest = generator.state.corpus_digest
        corpus = plan.version.tags.get("corpus", f"digest {digest[:16]}")
        tracker.dataset(corpus, digest, plan.tokens, context="evaluation")
        if model_id := plan.version.tags.get(LOGGED_MODEL_TAG):
            tracker.scores(model_id, scores, corpus, digest)
        else:  # a checkpoint's folder
            tracker.metrics(scores)
        promotion = _promotion(parameters, plan, generator, score, tracker)
        shown = markdown_quotes(samples)
        decided = f"\n\n{promotion['why']}." if promotion["why"] else ""
        tracker.describe(f"Evaluation of **{reference}** on held-out documents of {corpus}.{decided}\n\n{shown}")
        show_markdown("samples", shown, f"Samples of {reference}")
        result = {
            "model": reference,
            "mlflow_run_id": tracker.run_id,
            "scores": scores,
            "samples": [{"prompt": prompt, "continuation": text} for prompt, text in samples],
            "promotion": promotion,
        }
    if not promotion["why"]:
        return result
    console.say(promotion["why"])
    name = "ChampionMoved" if promotion["moved"] else "ChampionKept"
    return Completed(name=name, message=promotion["why"], data=result)


def _score(generator: TextGenerator, plan: EvaluatePlan) -> BitsPerByte:
    progress("evaluate", 0, len(plan.numbers))
    score = score_documents(generator.model, TokenShards(plan.tokens, "held_out"), plan.numbers)
    progress("evaluate", len(plan.numbers), len(plan.numbers))
    return summed([score])


def _samples(generator: TextGenerator, prompts: list[str]) -> list[tuple[str, str]]:
    return [
        (prompt, generator.continuation(prompt, max_new_tokens=48, seed=index)) for index, prompt in enumerate(prompts)
    ]


def _score_champion(generator: TextGenerator, plan: EvaluatePlan, version: ModelVersion) -> BitsPerByte:
    """The champion on the candidate's held-out texts, with the champion's own tokenizer.

    Where it was trained on some of them, that is to its advantage: it is only ever displaced by what is better.
    """
    texts = document_texts(TokenShards(plan.tokens, "held_out"), plan.numbers, generator.tokenizer)
    holder = TextGenerator.load(version.folder, version.tokenizer_file)
    return summed([score_texts(holder.model, holder.tokenizer, texts)])


def _promotion(
    parameters: EvaluateParameters,
    plan: EvaluatePlan,
    generator: TextGenerator,
    score: BitsPerByte,
    tracker: MlflowTracker,
) -> dict[str, Any]:
    """Move the alias `champion`, or say why it stays; in MLflow's run and registry as well."""
    reference = plan.version.reference
    if parameters.promotion.champion == "never":
        return {"moved": False, "champion": "", "why": ""}
    if plan.champion is not None and plan.champion.reference == reference:
        return {"moved": False, "champion": reference, "why": f"{reference} is the champion already"}
    ours, why, is_better = f"{score.bits_per_byte:.4f} bits per byte", "", True
    if plan.champion is None:
        why = f"{reference} ({ours}) has no champion before it"
    else:
        theirs = run_as_task("score_champion", _score_champion, generator, plan, plan.champion)
        tracker.metrics({"champion.bits_per_byte": theirs.bits_per_byte})
        is_better = score.bits_per_byte < theirs.bits_per_byte
        why = (
            f"{reference} has {ours} on {score.num_documents} held-out documents, the champion"
            f" {plan.champion.reference} {theirs.bits_per_byte:.4f}"
        )
    moved = is_better if parameters.promotion.champion == "if_better" else True
    if parameters.promotion.champion == "ask":
        try:
            note = ask(f"Make {reference} the champion?", f"{why}. Lower is better.")
            why += f"; approved{': ' + note if note else ''}"
        except NotApproved as refusal:
            moved, why = False, f"{why}; {refusal}"
    name, _, number = reference.partition("@")
    before = plan.champion.reference if plan.champion else ""
    now = champion(plan.store, name)
    if moved and (now.reference if now else "") != before:
        moved, why = False, f"{why}; the champion has changed meanwhile: evaluate again"
    if moved:
        move_champion(plan.store, name, number, why)
    why = f"{why}: {reference if moved else before or 'nobody'} is champion"
    tracker.tags({"tokenmill.promotion": "moved" if moved else "kept", "tokenmill.promotion.why": why})
    return {"moved": moved, "champion": reference if moved else before, "why": why}
