"""Who is champion after an evaluation: the gate's verdict, a person's where one is asked, and the record of both."""

from __future__ import annotations

from typing import Any

from flows.approvals import NotApproved, ask
from flows.evaluate_plan import EvaluatePlan
from flows.stages import show_table
from infra.mlflow_tracker import MlflowTracker
from infra.registry import champion, move_champion, tag_model
from infra.tracking_client import answered
from tasks.evaluation.gate import ModelGateRules, Verdict
from tasks.evaluation.measures import ModelScores
from tasks.markdown import markdown_cell

NOT_WANTED: dict[str, Any] = {"passed": None, "moved": False, "champion": "", "why": "", "figures": {}}
"""The decision where nobody was to become champion."""


def decide(
    plan: EvaluatePlan,
    wanted: str,
    scores: ModelScores,
    verdict: Verdict,
    table: str,
    tracker: MlflowTracker,
) -> dict[str, Any]:
    """Move the alias `champion`, or say why it stays; on both pages, in the run and on the version.

    A person is asked only where the gate passes, and shown `table`, the comparison as Markdown.
    """
    reference, store = plan.version.reference, plan.store
    name, _, number = reference.partition("@")
    before = plan.champion.reference if plan.champion else ""
    moved, why = verdict.passed, verdict.why
    if wanted == "ask" and verdict.passed:
        try:
            note = ask(f"Make {reference} the champion?", f"{markdown_cell(why)}.\n\n{table}")
            moved, why = True, f"{why}; approved{': ' + note if note else ''}"
        except NotApproved as refusal:
            moved, why = False, f"{why}; {refusal}"
    if moved:
        now = answered(lambda: champion(store, name), "looking for the champion")
        if (now.reference if now else "") != before:
            moved, why = False, f"{why}; the champion has changed meanwhile: evaluate again"
    if moved:
        answered(lambda: move_champion(store, name, number, why), "moving the champion")
    why = f"{why}: {reference if moved else before or 'nobody'} is champion"
    decision = {
        "passed": verdict.passed,
        "moved": moved,
        "champion": reference if moved else before,
        "why": why,
        "figures": verdict.json_figures,
    }
    _record(plan, scores, verdict, decision, tracker)
    return decision


def _record(
    plan: EvaluatePlan, scores: ModelScores, verdict: Verdict, decision: dict[str, Any], tracker: MlflowTracker
) -> None:
    rules: ModelGateRules = plan.rules
    before = plan.champion.reference if plan.champion else ""
    facts = {"candidate": scores.reference, "candidate_sha256": scores.sha256, "champion_before": before, **decision}
    tracker.json({**facts, "rules": rules.model_dump(mode="json")}, "gate.json")
    tracker.metrics({f"gate.{name}": value for name, value in decision["figures"].items() if value is not None})
    said = {"moved" if decision["moved"] else "kept": decision["why"]}
    ((outcome, why),) = said.items()
    tracker.tags({"tokenmill.promotion": outcome, "tokenmill.promotion.why": why})
    if scores.reference != before:  # the champion's tags say by what it became that
        tags = {"gate.passed": str(verdict.passed).lower(), "gate.why": why, "gate.run_id": tracker.run_id}
        answered(lambda: tag_model(plan.store, scores.reference, tags), "tagging the version")
    rows = [{"figure": name, "value": f"{value}"} for name, value in decision["figures"].items()]
    show_table("gate", rows, markdown_cell(why))
