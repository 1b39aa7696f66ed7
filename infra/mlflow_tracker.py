"""Runs in MLflow, by explicit run ids: no ambient active run, nothing to leak between threads."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infra.settings import mlflow_artifacts, mlflow_uri
from tasks.store import Store

EXPERIMENT = "tokenmill"
_METRICS_PER_BATCH = 1000  # MLflow's limit for one call
_PARAM_CHARS = 6000  # MLflow's limit for one value
_LOCK_TAG = "tokenmill.lock"
_ENCLOSING: ContextVar[str] = ContextVar("enclosing MLflow run", default="")


def client(store: Store) -> MlflowClient:
    """A client of the store's history; the databases' own talk stays off the terminal."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised as well
    return MlflowClient(tracking_uri=mlflow_uri(store))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                yield from _flat(item, f"{name}.{item.get('kind', index)}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _artifact_location(store: Store) -> str | None:
    """Where artifacts of a database of our own are kept; a server decides for itself, and hands them on."""
    return None if mlflow_uri(store).startswith("http") else mlflow_artifacts(store).as_uri()


class MlflowTracker:
    """One MLflow run."""

    def __init__(self, mlflow_client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = mlflow_client, run_id

    @property
    def experiment_id(self) -> str:
        return str(self._client.get_run(self.run_id).info.experiment_id)

    @property
    def artifact_uri(self) -> str:
        return str(self._client.get_run(self.run_id).info.artifact_uri)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Nested values as dotted names; rules of a recipe by their kind."""
        known = self._client.get_run(self.run_id).data.params
        params = [Param(key, value[:_PARAM_CHARS]) for key, value in _flat(values) if key not in known]
        for start in range(0, len(params), 100):
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.metric_rows([(step, values)])

    def metric_rows(self, rows: list[tuple[int, Mapping[str, float]]]) -> None:
        """Metrics of many steps in as few calls as there can be."""
        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for step, values in rows for key, value in values.items()]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def last_step(self, metric: str) -> int:
        """The last step that this run has of `metric`; -1 where it has none."""
        history = self._client.get_metric_history(self.run_id, metric)
        return max((int(entry.step) for entry in history), default=-1)

    def tags(self, values: Mapping[str, str]) -> None:
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def describe(self, markdown: str) -> None:
        self._client.set_tag(self.run_id, "mlflow.note.content", markdown)

    def artifact(self, path: Path, folder: str = "") -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder or None)
        else:
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def text(self, content: str, file: str) -> None:
        """`content` as the artifact `file`, a path in the run's artifacts."""
        self._client.log_text(self.run_id, content, file)

    def json(self, value: Any, file: str) -> None:
        """`value` as a JSON artifact that people can read."""
        self.text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", file)

    def rename(self, name: str) -> None:
        self._client.update_run(self.run_id, name=name)

    def dataset(self, name: str, digest: str, path: Path, context: str) -> None:
        """The corpus version as a dataset input. MLflow holds 36 characters of a digest; the whole one is a tag."""
        source = json.dumps({"path": str(path)})
        dataset = Dataset(name, digest[:36], source_type="tokenmill_corpus", source=source)
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])
        self.tags({"tokenmill.corpus": name, "tokenmill.corpus_digest": digest})

    def finish(self, status: str = "FINISHED") -> None:
        self._client.set_terminated(self.run_id, status)


def end_orphans(store: Store, lock: str) -> None:
    """Call while holding `lock`: runs of its name that are still RUNNING were killed; say so in the history."""
    mlflow_client = client(store)
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    query = f"attributes.status = 'RUNNING' and tags.`{_LOCK_TAG}` = '{lock}'"
    for run in mlflow_client.search_runs([experiment.experiment_id], filter_string=query):
        mlflow_client.set_terminated(run.info.run_id, "KILLED")


@contextmanager
def tracked_run(
    store: Store,
    name: str,
    *,
    tags: Mapping[str, str],
    resume: str = "",
    lock: str = "",
) -> Iterator[MlflowTracker]:
    """One MLflow run that ends as FINISHED, FAILED, or KILLED where the block was interrupted.

    `lock` is the name of the lock that the caller holds for it: earlier runs under the same one have ended.
    A run opened inside another's block is its child.
    `resume` continues an earlier run by its id, where the history still has it.
    """
    mlflow_client = client(store)
    if lock:
        end_orphans(store, lock)
        tags = {**tags, _LOCK_TAG: lock}
    run_id = None
    if resume:
        try:
            mlflow_client.get_run(resume)
            mlflow_client.update_run(resume, status="RUNNING")
            run_id = resume
        except MlflowException:  # the history was moved or cleared: a new run, of the same name
            run_id = None
    if run_id is None:
        experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else mlflow_client.create_experiment(
                EXPERIMENT,
                artifact_location=_artifact_location(store),
                tags={"mlflow.experimentKind": "custom_model_development"},  # the page for training, not for agents
            )
        )
        parent = _ENCLOSING.get()
        parent_tag = {"mlflow.parentRunId": parent} if parent else {}
        run_id = mlflow_client.create_run(experiment_id, run_name=name, tags={**tags, **parent_tag}).info.run_id
    else:
        for key, value in tags.items():
            mlflow_client.set_tag(run_id, key, value)
    tracker = MlflowTracker(mlflow_client, run_id)
    enclosing = _ENCLOSING.set(run_id)
    try:
        yield tracker
    except Exception as error:
        tracker.tags({"tokenmill.error": f"{type(error).__name__}: {error}"[:5000]})
        tracker.finish("FAILED")
        raise
    except BaseException:
        tracker.finish("KILLED")
        raise
    else:
        tracker.finish()
    finally:
        _ENCLOSING.reset(enclosing)
