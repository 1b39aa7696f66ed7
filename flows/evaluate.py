"""A model version to its scores, each with its noise, beside other models; and to the place of champion."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.console import console
from flows.evaluate_command import evaluate_command
from flows.evaluate_gate import NOT_WANTED, decide
from flows.evaluate_plan import EvaluatePlan, check_evaluate, dry_run_evaluate
from flows.evaluate_scores import (
    HeldOutTexts,
    ask_tasks,
    held_out_texts,
    is_finite,
    model_scores,
    score_texts_of,
    search_corpora,
    shard_map_of,
)
from flows.parameters import EvaluateParameters
from flows.stages import (
    estimated,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_markdown,
    show_table,
)
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.registered_versions import LOGGED_MODEL_TAG
from infra.registry import ModelVersion
from tasks.decontamination.report import ContaminationReport
from tasks.evaluation.bits_per_byte import Score, summed
from tasks.evaluation.compare import compare_models
from tasks.evaluation.contaminated import contaminated_tasks
from tasks.evaluation.gate import judge_model
from tasks.evaluation.measures import AnyMeasure, ModelScores, examples_sha256
from tasks.evaluation.pictures import scores_picture
from tasks.evaluation.report import (
    ScoreRow,
    examples_csv,
    metric_values,
    score_rows,
    table_lines,
    table_markdown,
    table_records,
)
from tasks.generation import TextGenerator
from tasks.markdown import markdown_cell, markdown_quotes
from tasks.ports import ShardMap

_SHOWN_PX = 600
"""Width of the picture on the flow run's page, which holds it whole."""


@flow(name="evaluate", flow_run_name="evaluate {parameters.model}", persist_result=False)
@one_line_failures
def evaluate(parameters: EvaluateParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Bits per byte on the held-out documents of the model's own corpus, tasks, samples, and who is champion.

    Returns model, mlflow_run_id, scores (by measure, with the ends of its interval), rows (one a measure, with chance,
    contamination and comparisons), table (the same as lines), samples, promotion (passed, moved, champion, why,
    figures).
    """
    plan = check_evaluate(parameters)
    if parameters.dry_run:
        return estimated(dry_run_evaluate(plan, parameters), plan.name)
    reference, workers = plan.version.reference, parameters.scoring.workers
    tags = {"tokenmill.flow": "evaluate", "tokenmill.model": reference, **prefect_tags(plan.store)}
    retry = evaluate_command(plan.store, parameters)
    with (
        flow_scope(plan.store, retry=retry),
        tracked_run(plan.store, plan.name, tags=tags) as tracker,
        shard_map_of(workers) as shard_map,
    ):
        link_tracking(plan.store, tracker.experiment_id, tracker.run_id)
        configuration = parameters.model_dump(mode="json")
        tracker.parameters(configuration)
        tracker.json(configuration, "config.json")
        generator = run_as_task("load", TextGenerator.load, plan.version.folder, plan.version.tokenizer_file)
        held_out = held_out_texts(plan, generator)
        found = _scored(plan, parameters, plan.version, generator, held_out, shard_map)
        others = [
            run_as_task("other_model", _scored_other, plan, parameters, other, held_out, shard_map, ask=found.is_finite)
            for other in plan.others
        ]
        reports: list[ContaminationReport] = []
        if parameters.scoring.contamination:
            reports = run_as_task("contamination", search_corpora, plan, shard_map)
        comparisons = {other.reference: compare_models(found.scores, other) for other in others}
        rows = score_rows(found.scores, comparisons, contaminated_tasks(reports))
        samples: list[tuple[str, str]] = []
        if found.is_finite:
            samples = run_as_task("samples", _samples, generator, parameters.scoring.prompts)
        scores = _record(plan, generator, found, rows, others, reports, tracker)
        promotion = _promotion(plan, parameters, found.scores, others, rows, tracker)
        _show(plan, rows, others, samples, promotion, tracker)
        result = {
            "model": reference,
            "mlflow_run_id": tracker.run_id,
            "scores": scores,
            "rows": [row.as_json() for row in rows],
            "table": table_lines(rows),
            "samples": [{"prompt": prompt, "continuation": text} for prompt, text in samples],
            "promotion": promotion,
        }
    if not promotion["why"]:
        return result
    console.say(promotion["why"])
    name = "ChampionMoved" if promotion["moved"] else "ChampionKept"
    return Completed(name=name, message=promotion["why"], data=result)


@dataclass(frozen=True)
class _Scored:
    """A model's measures, with what they were made of."""

    scores: ModelScores
    documents: Sequence[Score]
    is_finite: bool


def _scored(
    plan: EvaluatePlan,
    parameters: EvaluateParameters,
    version: ModelVersion,
    generator: TextGenerator,
    held_out: HeldOutTexts,
    shard_map: ShardMap,
) -> _Scored:
    """The candidate: tasks are asked where its figures are finite at all."""
    documents: list[Score] = run_as_task("bits_per_byte", score_texts_of, generator, held_out)
    finite, tasks = is_finite(held_out, documents), list[AnyMeasure]()
    if finite and plan.asked:
        scoring = parameters.scoring
        tasks = run_as_task("tasks", ask_tasks, plan, version, generator, scoring.limit, shard_map, scoring.workers)
    return _Scored(model_scores(version, generator, held_out, documents, tasks), documents, finite)


def _scored_other(
    plan: EvaluatePlan,
    parameters: EvaluateParameters,
    version: ModelVersion,
    held_out: HeldOutTexts,
    shard_map: ShardMap,
    *,
    ask: bool,
) -> ModelScores:
    """Another model on the same documents and, if `ask` and its figures are finite, the same examples of tasks."""
    generator = TextGenerator.load(version.folder, version.tokenizer_file)
    documents = score_texts_of(generator, held_out)
    tasks: list[AnyMeasure] = []
    if ask and is_finite(held_out, documents):
        tasks = ask_tasks(plan, version, generator, parameters.scoring.limit, shard_map, parameters.scoring.workers)
    return model_scores(version, generator, held_out, documents, tasks)


def _samples(generator: TextGenerator, prompts: list[str]) -> list[tuple[str, str]]:
    return [
        (prompt, generator.continuation(prompt, max_new_tokens=48, seed=index)) for index, prompt in enumerate(prompts)
    ]


def _record(
    plan: EvaluatePlan,
    generator: TextGenerator,
    found: _Scored,
    rows: Sequence[ScoreRow],
    others: Sequence[ModelScores],
    reports: Sequence[ContaminationReport],
    tracker: MlflowTracker,
) -> dict[str, float]:
    """Everything about the scores in MLflow; the finite figures by name."""
    total = summed(found.documents)
    counts = {
        "loss": total.loss_nats_per_token,
        "held_out_documents": total.num_documents,
        "held_out_bytes": total.num_bytes,
    }
    digest = generator.state.corpus_digest
    corpus = plan.version.tags.get("corpus", f"digest {digest[:16]}")
    tracker.dataset(corpus, digest, plan.tokens, context="evaluation")
    packs = {pack.name: pack for pack in plan.asked}
    by_pack = _by_pack(rows, list(packs))
    chosen = {
        name: examples_sha256(packs[name].sha256 if name else digest, [found.scores.measure(row.name) for row in own])
        for name, own in by_pack.items()
    }
    for pack in packs.values():
        known, size = f"{pack.name}@{pack.version}", {"num_tasks": len(pack.tasks)}
        of_choice = chosen.get(pack.name, pack.sha256)  # a model that is not finite was asked nothing
        tracker.dataset(known, of_choice, pack.name, "evaluation", size, is_main=False, source_type="pack")
    model_id = plan.version.tags.get(LOGGED_MODEL_TAG)
    scores: dict[str, float] = {}
    for name, own in by_pack.items():
        values = metric_values(own) | ({} if name else counts)
        scores |= values
        if not model_id:  # a checkpoint's folder
            tracker.metrics(values)
        elif name:
            tracker.scores(model_id, values, f"{name}@{packs[name].version}", chosen[name])
        else:
            tracker.scores(model_id, values, corpus, chosen[name])
    for other in others:
        tracker.metrics({f"{other.reference}: {name}": one.estimate().value for name, one in other.measures.items()})
    tracker.json([row.as_json() for row in rows], "scores.json")
    tracker.text(examples_csv([found.scores, *others]), "examples.csv")
    for report in reports:
        tracker.json(report.model_dump(mode="json"), f"contamination/{report.corpus}.json")
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _by_pack(rows: Sequence[ScoreRow], packs: Sequence[str]) -> Mapping[str, list[ScoreRow]]:
    """The rows of each pack, and under "" those of held-out text."""
    found: dict[str, list[ScoreRow]] = {name: [] for name in ("", *packs)}
    for row in rows:
        pack = row.name.partition("/")[0]
        found[pack if pack in packs else ""].append(row)
    return {name: own for name, own in found.items() if own}


def _promotion(
    plan: EvaluatePlan,
    parameters: EvaluateParameters,
    scores: ModelScores,
    others: Sequence[ModelScores],
    rows: Sequence[ScoreRow],
    tracker: MlflowTracker,
) -> dict[str, Any]:
    """What becomes of the alias `champion`."""
    wanted, reference = parameters.promotion.champion, plan.version.reference
    if wanted == "never":
        return NOT_WANTED
    if plan.champion is not None and plan.champion.reference == reference:
        return {**NOT_WANTED, "champion": reference, "why": f"{reference} is the champion already"}
    holder = next((other for other in others if plan.champion and other.reference == plan.champion.reference), None)
    verdict = run_as_task("gate", judge_model, scores, holder, plan.rules)
    return decide(plan, wanted, scores, verdict, table_markdown(rows), tracker)


def _show(
    plan: EvaluatePlan,
    rows: Sequence[ScoreRow],
    others: Sequence[ModelScores],
    samples: Sequence[tuple[str, str]],
    promotion: Mapping[str, Any],
    tracker: MlflowTracker,
) -> None:
    """Table, picture and samples on both pages."""
    reference = plan.version.reference
    shown, decided = markdown_quotes(samples), f"\n\n{markdown_cell(promotion['why'])}." if promotion["why"] else ""
    tracker.describe(f"Evaluation of **{markdown_cell(reference)}**.{decided}\n\n{table_markdown(rows)}\n\n{shown}")
    show_table("scores", table_records(rows), f"Scores of {markdown_cell(reference)}")
    show_markdown("samples", shown, f"Samples of {markdown_cell(reference)}")
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "scores.png"), Path(folder, "small.png")
        other = others[0] if others else None
        scores_picture(rows, large, title=reference, other=other)
        scores_picture(rows, small, title=reference, other=other, width_px=_SHOWN_PX)
        tracker.artifact(large)
        picture = base64.b64encode(small.read_bytes()).decode()
    # in Markdown: below an image artifact the page spells out its address, which here is the picture itself
    show_markdown("scores-picture", f"![scores](data:image/png;base64,{picture})", "Scores with 95 % intervals")
