"""Labelled texts to a registered classifier, and through the gate to what recipes name `toxicity@champion`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.classifier_background import PAGES, extract_pages
from flows.classifier_command import train_classifier_command
from flows.classifier_gate import judged
from flows.classifier_parameters import TrainClassifierParameters
from flows.classifier_plan import ClassifierPlan, check_train_classifier, dry_run_train_classifier
from flows.console import console
from flows.progress import progress
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
from infra.classifier_registry import (
    ClassifierVersion,
    champion_reference,
    classifier_champion,
    move_classifier_champion,
    register_classifier,
    tag_classifier,
)
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.tracking_client import answered
from tasks.address import redacted
from tasks.atomic import locked
from tasks.classifiers.bundle import CARD_FILE
from tasks.classifiers.gate import GateRules, Verdict
from tasks.classifiers.parts import check_labelled
from tasks.classifiers.search import STAGE as TRIALS
from tasks.classifiers.slices import slice_figures
from tasks.classifiers.train import TrainedClassifier
from tasks.classifiers.train import train_classifier as train
from tasks.filters.piece_classifier import AGGREGATIONS


@flow(name="train_classifier", flow_run_name="train classifier {parameters.name}", persist_result=False)
@one_line_failures
def train_classifier(parameters: TrainClassifierParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Split, search, train, measure, register as `candidate`; the gate makes it `champion`, or says why not.

    Returns model (name@version), pinned (with its hash), threshold, scores, mlflow_run_id, gate (passed, moved,
    champion, why, figures). A dry run returns its estimate.
    """
    plan = check_train_classifier(parameters)
    if parameters.dry_run:
        return estimated(dry_run_train_classifier(plan, parameters), plan.name)
    store, lock = plan.store, f"classifier-{parameters.name}"
    tags = {"tokenmill.flow": "train_classifier", **prefect_tags(store)}
    retry = train_classifier_command(store, parameters)
    with (
        store.lock(lock),
        flow_scope(store, retry=retry),
        locked(plan.work.with_name(f".{plan.work.name}.lock")),  # by which reconcile knows that somebody is at it
        tracked_run(store, plan.name, tags=tags, lock=lock) as tracker,
    ):
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        plan.work.mkdir(parents=True, exist_ok=True)
        configuration = parameters.model_dump(mode="json")
        tracker.parameters(configuration)
        tracker.json(configuration, "config.json")
        if plan.background.pages:  # which take long to extract: what is wrong with the labels is to be known before
            run_as_task("labels", check_labelled, plan.training.labelled, plan.training.normaliser)
            run_as_task("background", extract_pages, store, plan.background, plan.work)
        trained = run_as_task(
            "train",
            train,
            plan.training,
            plan.work,
            _progress,
            score_document=AGGREGATIONS.get(plan.training.aggregation),
            created=datetime.now(UTC).date().isoformat(),
        )
        _record(tracker, plan, trained)
        candidate = run_as_task("register", register_classifier, store, tracker, folder=trained.bundle.folder)
        if candidate.run_id != tracker.run_id:
            console.say(f"the same classifier as {candidate.reference}: nothing new was registered")
        tracker.tags({"tokenmill.model": candidate.reference})
        tracker.rename(candidate.reference)
        gate = _gate(plan, parameters, tracker, candidate, trained)
        tracker.describe(f"Classifier **{candidate.reference}**: {trained.bundle.classifier.task}\n\n{gate['why']}.")
    console.say(gate["why"])
    result = {
        "model": candidate.reference,
        "pinned": candidate.pinned,
        "threshold": trained.bundle.classifier.threshold,
        "scores": trained.bundle.classifier.scores,
        "mlflow_run_id": tracker.run_id,
        "gate": gate,
    }
    return Completed(name="ChampionMoved" if gate["moved"] else "ChampionKept", message=gate["why"], data=result)


def _progress(stage: str, done: int, total: int, *, records: int = 0, note: str = "") -> None:
    """The search is what takes long; of the other steps, which are each done at once, what they say."""
    if stage == TRIALS:
        progress(stage, done, total, records=records, note=note)
    elif note:
        console.say(f"{stage}: {note}")


def _record(tracker: MlflowTracker, plan: ClassifierPlan, trained: TrainedClassifier) -> None:
    """Everything about the training that both pages show: data, search, figures, pictures, errors, card."""
    sources = {source.name: redacted(source.paths[0]) for source in (*plan.training.labelled, *plan.background.tables)}
    if plan.background.pages:
        sources[PAGES] = plan.background.sample
    ordinary = {source.name for source in plan.training.background}
    for facts in trained.bundle.classifier.data:
        context = "background" if facts.name in ordinary else "training"
        size = {"num_texts": facts.num_texts}
        tracker.dataset(
            facts.name,
            facts.sha256,
            sources[facts.name],
            context,
            size,
            is_main=False,
            source_type="labelled_texts",
        )
    tracker.metric_rows(
        [(trial.number, {"trial.average_precision": trial.score.average_precision}) for trial in trained.trials]
    )
    tracker.metrics(slice_figures(trained.measured.slices))
    ordinary_slices = slice_figures(trained.measured.background_slices)
    tracker.metrics({f"background_{name}": value for name, value in ordinary_slices.items()})
    tracker.artifact(trained.reports)
    tracker.artifact(trained.bundle.folder / CARD_FILE)
    for key, file, title in (
        ("classifier-card", trained.bundle.folder / CARD_FILE, f"Classifier {trained.bundle.classifier.name}"),
        ("slices", trained.reports / "slices.md", "Figures by length, source and groups of people"),
        ("errors", trained.reports / "errors.md", "The worst errors on texts that were held out"),
    ):
        show_markdown(key, file.read_text(encoding="utf-8"), title)


def _gate(
    plan: ClassifierPlan,
    parameters: TrainClassifierParameters,
    tracker: MlflowTracker,
    candidate: ClassifierVersion,
    trained: TrainedClassifier,
) -> dict[str, Any]:
    """Move the alias `champion`, or say why it stays; on both pages, in the run and on the version."""
    asked, store = parameters.gate, plan.store
    rules = GateRules(
        metric=asked.metric,
        max_false_alarm_fraction=asked.false_alarms,
        max_slice_fall=asked.max_fall,
        seed=parameters.effort.seed,
    )
    champion = answered(lambda: classifier_champion(store, parameters.name), "looking for the champion")
    verdict: Verdict = run_as_task("gate", judged, candidate, champion, trained.held_out, rules)
    before = champion.reference if champion else ""
    why, moved = verdict.why.rstrip("."), verdict.passed
    if moved and asked.champion == "never":
        why, moved = f"{why}; it was not to move", False
    if moved and answered(lambda: champion_reference(store, parameters.name), "looking for the champion") != before:
        why, moved = f"{why}; the champion has changed meanwhile: train again", False
    if moved:
        answered(lambda: move_classifier_champion(store, candidate, why), "moving the champion")
    why = f"{why}: {candidate.reference if moved else before or 'nobody'} is champion"
    decision = {
        "passed": verdict.passed,
        "moved": moved,
        "champion": candidate.reference if moved else before,
        "why": why,
        "figures": verdict.figures,
    }
    facts = {"candidate": candidate.pinned, "champion_before": champion.pinned if champion else "", **decision}
    tracker.metrics({f"gate.{name}": value for name, value in verdict.figures.items()})
    tracker.json({**facts, "rules": rules.model_dump(mode="json")}, "gate.json")
    said = {"passed": str(verdict.passed).lower(), "why": why}
    tracker.tags({"tokenmill.promotion": "moved" if moved else "kept", "tokenmill.promotion.why": why})
    if candidate.reference != before:  # the champion's tags say by what it became that
        answered(
            lambda: tag_classifier(store, candidate, {f"gate.{key}": value for key, value in said.items()}), "tagging"
        )
    rows = [{"figure": name, "value": f"{value:.4g}"} for name, value in sorted(verdict.figures.items())]
    show_table("gate", rows, why)
    return decision
