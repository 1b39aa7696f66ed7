"""How each entry of a run's journal becomes calls to MLflow. All of them can be made twice with the effect of once.

Metrics carry their time: MLflow's databases hold a row of the same key, time, step and value once. Parameters that the
run has are left out; tags, names, descriptions and states replace what they say; a dataset input of the same name and
digest is held once; a file replaces that of the same path.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from infra.journal import Journal, Line
from infra.run_links import NOTE_TAG, refresh_links, with_links
from infra.tracking_client import is_away
from tasks.address import explained

METRICS_PER_CALL = 1000
"""MLflow's limit, as are the two below."""
_PARAMS_PER_CALL = 100
_TAGS_PER_CALL = 100
_LINES_AHEAD = 1000  # that are looked through for metrics to be sent together

_DESCRIBING = threading.Lock()
"""A child brings its parent's links up to date, which reads a description and writes it."""


def deliver_next(journal: Journal, mlflow_client: MlflowClient, run_id: str) -> None:
    """Send the first of what is pending and confirm it. What MLflow refuses is put aside, and counts as confirmed.

    Raises what `is_away` says True of; the same is pending then as before.
    """
    _deliver_or_reject(journal, mlflow_client, run_id, _first_batch(journal.pending(_LINES_AHEAD)))


def _first_batch(lines: Sequence[Line]) -> Sequence[Line]:
    """The first entry; where it is of metrics, with those of metrics that follow it and fit into the same call."""
    count = 0
    for index, line in enumerate(lines):
        if line.entry["kind"] != "metrics":
            return lines[: max(1, index)]
        count += sum(len(values) for _, values in line.entry["rows"])
        if count > METRICS_PER_CALL:
            return lines[: max(1, index)]
    return lines


def _deliver_or_reject(journal: Journal, mlflow_client: MlflowClient, run_id: str, batch: Sequence[Line]) -> None:
    try:
        _deliver(mlflow_client, run_id, journal.folder, [line.entry for line in batch])
    except Exception as error:
        if is_away(error):
            raise
        if len(batch) > 1:  # not all of them may be to blame
            for line in batch:
                _deliver_or_reject(journal, mlflow_client, run_id, [line])
            return
        journal.reject(batch[0], explained(error))
    journal.confirm(batch[-1])


def _deliver(mlflow_client: MlflowClient, run_id: str, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    entry = entries[0]
    kind = entry["kind"]
    if kind == "metrics":
        _metrics(mlflow_client, run_id, entries)
    elif kind == "scores":
        _scores(mlflow_client, run_id, entry)
    elif kind == "params":
        _params(mlflow_client, run_id, entry["values"])
    elif kind == "tags":
        tags = [RunTag(key, value) for key, value in entry["values"].items()]
        for start in range(0, len(tags), _TAGS_PER_CALL):
            mlflow_client.log_batch(run_id, tags=tags[start : start + _TAGS_PER_CALL])
    elif kind == "artifact":
        path = folder / entry["staged"]
        log = mlflow_client.log_artifacts if path.is_dir() else mlflow_client.log_artifact
        log(run_id, str(path), entry["folder"] or None)
    elif kind == "dataset":
        dataset = Dataset(**entry["dataset"])
        context = InputTag("mlflow.data.context", entry["context"])
        mlflow_client.log_inputs(run_id, datasets=[DatasetInput(dataset, [context])])
    elif kind == "name":
        mlflow_client.update_run(run_id, name=entry["name"])
    elif kind == "note":
        with _DESCRIBING:
            mlflow_client.set_tag(run_id, NOTE_TAG, with_links(mlflow_client, run_id, entry["markdown"]))
    elif kind == "links":
        with _DESCRIBING:
            refresh_links(mlflow_client, entry["run"])
    elif kind == "status":
        if entry["status"] == "RUNNING":
            mlflow_client.update_run(run_id, status="RUNNING")
        else:
            mlflow_client.set_terminated(run_id, entry["status"], entry["at"])
    else:
        raise ValueError(f"an entry of the kind {kind!r}, which this version does not know")


def _metrics(mlflow_client: MlflowClient, run_id: str, entries: Sequence[Mapping[str, Any]]) -> None:
    metrics = [
        Metric(key, value, entry["at"], step)
        for entry in entries
        for step, values in entry["rows"]
        for key, value in values.items()
    ]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        mlflow_client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])


def _scores(mlflow_client: MlflowClient, run_id: str, entry: Mapping[str, Any]) -> None:
    inputs = mlflow_client.get_run(run_id).inputs
    if not any(known.model_id == entry["model"] for known in (inputs.model_inputs if inputs else [])):  # once only
        mlflow_client.log_inputs(run_id, models=[LoggedModelInput(entry["model"])])
    on = {"model_id": entry["model"], "dataset_name": entry["corpus"], "dataset_digest": entry["digest"]}
    metrics = [Metric(key, value, entry["at"], 0, run_id=run_id, **on) for key, value in entry["values"].items()]
    mlflow_client.log_batch(run_id, metrics=metrics)


def _params(mlflow_client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Those that the run has not: a parameter is said once."""
    known = mlflow_client.get_run(run_id).data.params
    params = [Param(key, value) for key, value in values.items() if key not in known]
    for start in range(0, len(params), _PARAMS_PER_CALL):
        mlflow_client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
