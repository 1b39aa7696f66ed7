"""The whole job: raw pages to a trained, evaluated model."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.evaluate import evaluate
from flows.parameters import EvaluateParameters, PipelineParameters, PretrainParameters, RefreshParameters
from flows.pretrain import pretrain
from flows.refresh_corpus import check_refresh, refresh_corpus
from flows.stages import link_tracking, prefect_tags
from infra.mlflow_tracker import tracked_run
from infra.ray_map import ray_cluster
from infra.settings import current_store
from tasks.recipes.pretraining import resolve_pretrain_recipe


def stage_parameters(parameters: PipelineParameters) -> tuple[RefreshParameters, dict[str, str]]:
    """The refresh's parameters and the pretraining's overrides; ValueError for what can be refused before any work."""
    overrides: dict[str, dict[str, str]] = {"curation": {}, "pretraining": {}}
    for key, value in parameters.overrides.items():
        part, _, rest = key.partition(".")
        if part not in overrides or not rest:
            raise ValueError(f"unknown setting {key!r}: begin with curation. or pretraining.")
        overrides[part][rest] = value
    refresh = RefreshParameters(
        name=parameters.name,
        source=parameters.source,
        recipe=parameters.curation,
        overrides=overrides["curation"],
        workers=parameters.workers,
    )
    check_refresh(refresh)
    resolve_pretrain_recipe(parameters.pretraining, overrides["pretraining"])
    return refresh, overrides["pretraining"]


@flow(name="pipeline", flow_run_name="pipeline {parameters.name}", persist_result=False)
def pipeline(parameters: PipelineParameters) -> dict[str, Any]:
    """Refresh, pretrain, evaluate, as one run with three children. Returns the three results by name."""
    refresh_parameters, overrides = stage_parameters(parameters)
    store = current_store()
    tags = {"tokenmill.flow": "pipeline", **prefect_tags(store)}
    with (
        tracked_run(store, f"pipeline {parameters.name}", tags=tags) as tracker,
        ray_cluster(parameters.workers),  # one cluster for the whole job
    ):
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        tracker.parameters(parameters.model_dump(mode="json"))
        refreshed = refresh_corpus(refresh_parameters)
        trained = pretrain(
            PretrainParameters(corpus=refreshed["corpus"], recipe=parameters.pretraining, overrides=overrides),
        )
        evaluated = evaluate(EvaluateParameters(model=trained["model"]))
        tracker.metrics({**evaluated["scores"], "documents_kept": refreshed["documents_kept"]})
        tracker.describe(f"Corpus **{refreshed['corpus']}**, model **{trained['model']}**.")
        return {"refresh": refreshed, "pretrain": trained, "evaluate": evaluated}
