"""The whole job: raw pages to a trained, evaluated model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from prefect import State, flow
from prefect.states import Cancelled, Completed

from flows.approvals import NOT_APPROVED, check_approvable
from flows.command_line import pipeline_command
from flows.evaluate import evaluate
from flows.evaluate_plan import check_tasks
from flows.parameters import EvaluateParameters, PipelineParameters, PretrainParameters, RefreshParameters
from flows.pinned_models import pinned_parameters
from flows.pretrain import pretrain
from flows.refresh_corpus import check_refresh, dry_run_refresh, refresh_corpus
from flows.stages import estimated, flow_scope, link_tracking, one_line_failures, prefect_tags
from infra.mlflow_tracker import tracked_run
from infra.ray_map import ray_cluster
from infra.recipe_models import models_tag
from infra.settings import current_store
from tasks.plan import training_plan
from tasks.planned_mixture import CorpusFacts
from tasks.recipes.curation import CurationRecipe
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe

TOKENS_PER_RECORD = 400
"""Of a corpus that has no version yet, kept ones and removed ones together: 435 on 200 pages of documentation."""


def _refresh_parameters(parameters: PipelineParameters) -> RefreshParameters:
    return RefreshParameters(
        name=parameters.name, input=parameters.input, curation=parameters.curation, execution=parameters.execution
    )


def check_pipeline(parameters: PipelineParameters) -> tuple[CurationRecipe, PretrainRecipe]:
    """What can be refused before any work, as ValueError in one line; the two resolved recipes."""
    curation = check_refresh(_refresh_parameters(parameters))
    check_tasks(parameters.scoring, parameters.promotion)
    if parameters.consent.approval or parameters.promotion.champion == "ask":
        check_approvable()
    return curation, resolve_pretrain_recipe(parameters.training.profile, parameters.training.overrides)


def dry_run_pipeline(
    parameters: PipelineParameters, curation: CurationRecipe, recipe: PretrainRecipe
) -> dict[str, Any]:
    """The estimates of its parts; the training's is of the corpus as the refresh is estimated to leave it."""
    estimate = dry_run_refresh(_refresh_parameters(parameters), curation)
    plan = training_plan(recipe, _expected_corpus(estimate), folder=current_store().root, probe=False)
    return {"refresh": estimate, "pretrain": plan.as_json()}


def _expected_corpus(estimate: Mapping[str, Any]) -> CorpusFacts:
    """The estimated version's size: as many tokens and documents a record as the last one had."""
    store = current_store()
    name = estimate["corpus"].partition("@")[0]
    versions = store.versions(name)
    last = store.corpus_manifest(f"{name}@{versions[-1]}") if versions else {"records_in": 0}
    known_records = last["records_in"]
    num_records = known_records + estimate["estimated_new_records"]
    tokens = last["estimated_tokens"] / known_records if known_records else TOKENS_PER_RECORD
    documents = last["documents_kept"] / known_records if known_records else 1.0
    return CorpusFacts(
        reference=estimate["corpus"],
        estimated_tokens=round(num_records * tokens),
        documents=round(num_records * documents),
    )


@flow(name="pipeline", flow_run_name="pipeline {parameters.name}", persist_result=False)
@one_line_failures
def pipeline(parameters: PipelineParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Refresh, pretrain, evaluate, as one run with three children.

    Returns the three results by name, and mlflow_run_id; "evaluate" is None where nothing was trained. A dry run
    returns its estimates.
    """
    curation, recipe = check_pipeline(parameters)
    store = current_store()
    if parameters.execution.dry_run:
        return estimated(dry_run_pipeline(parameters, curation, recipe), f"a pipeline of {parameters.name}")
    parameters = pinned_parameters(parameters, curation)
    tags = {"tokenmill.flow": "pipeline", **models_tag(curation), **prefect_tags(store)}
    one_cluster = nullcontext() if parameters.consent.approval else ray_cluster(parameters.execution.workers or None)
    with (
        flow_scope(store, retry=pipeline_command(store, parameters)),
        tracked_run(store, f"pipeline {parameters.name}", tags=tags) as tracker,
        one_cluster,  # for the whole job, unless it would stand idle while a person is asked
    ):
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        configuration = parameters.model_dump(mode="json")
        tracker.parameters(configuration)
        tracker.json(configuration, "config.json")
        refreshed = refresh_corpus(_refresh_parameters(parameters))
        tracker.rename(f"{refreshed['corpus']} {recipe.model} {datetime.now(UTC):%Y-%m-%d}")
        training = PretrainParameters(
            corpus=refreshed["corpus"], training=parameters.training, consent=parameters.consent
        )
        ended = pretrain(training, return_state=True)
        if ended.name == NOT_APPROVED:
            tracker.describe(f"Corpus **{refreshed['corpus']}**; its training was not approved.")
            return Cancelled(name=NOT_APPROVED, message=f"{refreshed['corpus']} is published; {ended.message}")
        trained = ended.result()
        result = {"refresh": refreshed, "pretrain": trained, "evaluate": None, "mlflow_run_id": tracker.run_id}
        tracker.metrics({"documents_kept": refreshed["documents_kept"]})
        if not trained["trained"]:
            tracker.describe(f"Corpus **{refreshed['corpus']}**; nothing was trained.")
            return Completed(message=f"{refreshed['corpus']}; nothing was trained", data=result)
        evaluated = evaluate(
            EvaluateParameters(model=trained["model"], scoring=parameters.scoring, promotion=parameters.promotion)
        )
        tracker.metrics(evaluated["scores"])
        tracker.describe(f"Corpus **{refreshed['corpus']}**, model **{trained['model']}**.")
        return Completed(
            message=f"{refreshed['corpus']}, model {trained['model']}", data={**result, "evaluate": evaluated}
        )
