"""What a recipe would do to a source, shown on a sample before anything is published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.command_line import preview_command
from flows.console import console
from flows.parameters import PreviewParameters
from flows.pinned_models import pinned_rules, resolved_recipe
from flows.progress import progress
from flows.stages import (
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
    show_markdown,
    show_table,
)
from infra.mlflow_tracker import MlflowTracker, tracked_run
from infra.ray_map import check_cluster, ray_cluster
from infra.recipe_models import models_tag
from infra.settings import current_store
from tasks.model_files import models_in
from tasks.preview.report import (
    DOCUMENTS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    preview_markdown,
    summary,
    table_rows,
    write_preview,
)
from tasks.preview.run import Preview, preview
from tasks.recipes.curation import CurationRecipe
from tasks.store import Store
from tasks.used_models import used_models


def check_preview(parameters: PreviewParameters) -> tuple[CurationRecipe, CurationRecipe | None]:
    """What can be refused before any work, as ValueError in one line; the recipe, and where settings are changed, the
    recipe with them."""
    chosen = parameters.rules
    store = current_store()
    recipe = resolved_recipe(store, chosen, changed=False)
    changed = resolved_recipe(store, chosen) if chosen.settings else None
    check_cluster()
    return recipe, changed


@flow(name="preview_corpus", flow_run_name="preview {parameters.rules.recipe}", persist_result=False)
@one_line_failures
def preview_corpus(parameters: PreviewParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Sample the sources, score the sample by every rule, and write the report into the store.

    Returns report, folder, records, documents, kept, removed (by stage and reason), rules, models (those that the
    recipe names, pinned), mlflow_run_id; with changed settings also comparison.
    """
    recipe, changed = check_preview(parameters)
    store = current_store()
    rules = pinned_rules(parameters.rules, changed or recipe)
    parameters = parameters.model_copy(update={"rules": rules})
    with flow_scope(store, retry=preview_command(store, parameters)), models_in(store.models):
        result = _preview(store, recipe, changed, parameters)
    share = f"{result['kept']:,} of {result['documents']:,} documents of the sample are kept"
    return Completed(message=share, data=result)


def _preview(
    store: Store, recipe: CurationRecipe, changed: CurationRecipe | None, parameters: PreviewParameters
) -> dict[str, Any]:
    tags = {"tokenmill.flow": "preview_corpus", **models_tag(changed or recipe), **prefect_tags(store)}
    with tracked_run(store, f"preview {recipe.name}", tags=tags) as tracker:
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        tracker.parameters(
            {"parameters": parameters.model_dump(mode="json"), "recipe": (changed or recipe).model_dump(mode="json")}
        )
        with ray_cluster(parameters.workers or None) as shard_map:
            previewed = preview(
                store,
                (parameters.source, *parameters.more_sources),
                recipe,
                shard_map,
                changed=changed,
                settings=parameters.rules.settings,
                pages=parameters.pages,
                seed=parameters.seed,
                progress=progress,
                step=run_as_task,
            )
        folder: Path = run_as_task("report", write_preview, store, previewed)
        _record(tracker, previewed, folder)
        console.say(f"report: {folder / REPORT_FILE}")
        return _result(previewed, folder, tracker.run_id)


def _record(tracker: MlflowTracker, previewed: Preview, folder: Path) -> None:
    """The preview on both pages."""
    chain = previewed.chain
    tracker.metrics(
        {
            "records": chain.sampling.records,
            "documents": len(chain.ids),
            "documents_kept": chain.decided.kept,
            **{
                f"removed.{label.replace(' ', '-')}": outcome.removed.in_sequence
                for label, outcome in zip(chain.labels, chain.decided.rules, strict=True)
            },
        }
    )
    for file in (REPORT_FILE, SUMMARY_FILE, DOCUMENTS_FILE):
        tracker.artifact(folder / file)
    text = preview_markdown(previewed, folder / REPORT_FILE)
    tracker.describe(text)
    show_markdown("preview", text, f"What {chain.recipe.name} does to a sample")
    columns = ("rule", "alone", "in sequence", "by nothing else")
    rows = [dict(zip(columns, row, strict=True)) for row in table_rows(previewed)]
    tracker.json({"rows": rows}, "rules.json")
    show_table("rules", rows, "Documents that each rule removes")


def _result(previewed: Preview, folder: Path, run_id: str) -> dict[str, Any]:
    facts = summary(previewed)
    taken_over: Sequence[str] = ("records", "documents", "kept", "removed", "rules", "comparison")
    return {
        "report": str(folder / REPORT_FILE),
        "folder": str(folder),
        **{name: facts[name] for name in taken_over if name in facts},
        "models": list(used_models(previewed.chain.recipe)),
        "mlflow_run_id": run_id,
    }
