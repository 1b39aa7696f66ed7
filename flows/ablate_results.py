"""What an ablation has found, where people look: in Prefect, in MLflow, and in a folder of reports."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.stages import show_markdown, show_table
from infra.mlflow_tracker import MlflowTracker
from tasks.ablation.pages import EvaluationPages
from tasks.ablation.picture import ablation_picture
from tasks.ablation.report import GroupComparison, RecipeFacts, TwinFacts, report_markdown
from tasks.atomic import write_json
from tasks.classifiers.proportion import Estimate

ABLATION_FILE = "ablation.json"
_WIDTH_PX, _SHOWN_WIDTH_PX = 1200, 640


def earlier_run(report_dir: Path) -> str:
    """The run in MLflow that this ablation has begun before; empty where it has not."""
    return str(_earlier(report_dir).get("mlflow_run_id", ""))


def begin(report_dir: Path, run_id: str) -> None:
    """Keep the run to go on with; an earlier result stays until there is another one."""
    report_dir.mkdir(parents=True, exist_ok=True)
    write_json(report_dir / ABLATION_FILE, _earlier(report_dir) | {"mlflow_run_id": run_id})


def _earlier(report_dir: Path) -> dict[str, Any]:
    file = report_dir / ABLATION_FILE
    known: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    return known


def record(
    tracker: MlflowTracker,
    report_dir: Path,
    title: str,
    verdict: str,
    groups: Sequence[GroupComparison],
    not_compared: Mapping[str, str],
    recipes: Sequence[RecipeFacts],
    twins: Sequence[TwinFacts],
    pages: EvaluationPages,
) -> dict[str, Any]:
    """The result, in both histories and in the run's folder: table, report, picture, figures."""
    report, picture = report_dir / "report.md", report_dir / "ablation.png"
    text = report_markdown(verdict, groups, recipes, twins, pages.counts, len(pages.seen), not_compared)
    report.write_text(text, encoding="utf-8")
    show_markdown("ablation", text, title)
    if groups:
        ablation_picture(groups, picture, title=title, width_px=_WIDTH_PX)
        _show_picture(groups, report_dir, title)
        tracker.artifact(picture)
        show_table("ablation-figures", [_row(each) for each in groups], verdict[:1000])
    result = {
        "outcome": groups[0].comparison.outcome if groups else "no verdict",
        "verdict": verdict,
        "difference": asdict(groups[0].comparison.difference) if groups else None,
        "groups": [{"group": each.group, "metric": each.metric, **asdict(each.comparison)} for each in groups],
        "not_compared": dict(not_compared),
        "recipes": [asdict(recipe) for recipe in recipes],
        "twins": [asdict(twin) for twin in twins],
        "pages": {**asdict(pages.counts), "left_out_as_seen": len(pages.seen)},
        "trained_tokens": sum(twin.tokens for twin in twins),
        "training_seconds": round(sum(twin.seconds for twin in twins), 1),
        "report": str(report),
        "picture": str(picture) if groups else "",
        "mlflow_run_id": tracker.run_id,
    }
    write_json(report_dir / ABLATION_FILE, result)
    tracker.artifact(report)
    tracker.artifact(report_dir / ABLATION_FILE)
    tracker.metrics({name: value for each in groups for name, value in _figures(each).items()})
    for recipe in recipes:
        facts = {"documents_kept": recipe.documents_kept, "train_tokens": recipe.train_tokens, "passes": recipe.passes}
        tracker.metrics({f"{recipe.letter}.{name}": value for name, value in facts.items()})
    tracker.tags({"tokenmill.ablation": str(result["outcome"])})
    tracker.describe(text)
    return result


def _figures(row: GroupComparison) -> dict[str, float]:
    found = row.comparison
    of = {"a": found.a, "b": found.b, "difference": found.difference}
    ends = {f"{name}{end}": value for name, each in of.items() for end, value in _ends(each).items()}
    return {f"{row.group}/{name}": value for name, value in (ends | {"p": found.p_value}).items()}


def _ends(estimate: Estimate) -> dict[str, float]:
    return {"": estimate.value, "_low": estimate.low, "_high": estimate.high}


def _row(row: GroupComparison) -> dict[str, object]:
    found = row.comparison
    return {
        "measured on": row.group,
        "in": row.metric,
        "documents": found.num_documents,
        "a": round(found.a.value, 4),
        "b": round(found.b.value, 4),
        "b minus a": round(found.difference.value, 4),
        "from": round(found.difference.low, 4),
        "to": round(found.difference.high, 4),
        "p": float(f"{found.p_value:.2g}"),
        "": found.outcome,
    }


def _show_picture(groups: Sequence[GroupComparison], report_dir: Path, title: str) -> None:
    """In Markdown: below an image artifact the page spells out its address, which here is the picture itself."""
    shown = report_dir / "ablation_small.png"
    ablation_picture(groups, shown, title=title, width_px=_SHOWN_WIDTH_PX)
    picture = base64.b64encode(shown.read_bytes()).decode()
    show_markdown("ablation-picture", f"![ablation](data:image/png;base64,{picture})", f"Picture of the {title}")
    shown.unlink()
