"""Runs in MLflow, by explicit run ids: no ambient active run, nothing to leak between threads.

What a run writes goes through its spool: it is on disk when the call returns, and reaches MLflow in order, whether the
server is there now or is back in an hour. Only the beginning of a run needs an answer.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infra.run_environment import SYSTEM_PREFIX, environment_lock, system_metrics
from infra.settings import mlflow_artifacts, mlflow_uri
from infra.tracking_client import RESTART_S, answered, client
from infra.tracking_delivery import METRICS_PER_CALL
from infra.tracking_spool import Spool, deliver_spools
from tasks.store import Store

EXPERIMENT = "tokenmill"
_METRIC_OTHERS = re.compile(r"[^\w\-. :/]")  # than what MLflow takes in the name of a metric
_PARAM_CHARS = 6000  # MLflow's limit for one value
_NOTE_CHARS = 6000  # of MLflow's 8,000 for a description; its links come after them
_ERROR_CHARS = 5000
_LOCK_TAG = "tokenmill.lock"
_ENCLOSING: ContextVar[str] = ContextVar("enclosing MLflow run", default="")

BEGIN_S = 60.0
"""How long the first run of a process waits for a server that is away, in seconds: nothing is lost if it gives up."""
END_S = 60.0
"""How long the end of a run waits for a server that is away; then the rest stays in the spool."""
KILLED_S = 5.0
"""The same where somebody waits for the run to be gone."""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            kinds = [str(item.get("kind", index)) for index, item in enumerate(value)]
            times = Counter(kinds)
            for index, (kind, item) in enumerate(zip(kinds, value, strict=True)):
                yield from _flat(item, f"{name}.{kind if times[kind] == 1 else f'{kind}-{index}'}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _now_ms() -> int:
    return int(time.time() * 1000)


class MlflowTracker:
    """One MLflow run. All that is written returns at once and raises nothing of the server's; what MLflow refuses
    makes the run fail at its end."""

    def __init__(self, spool: Spool, mlflow_client: MlflowClient, run: Run) -> None:
        self._spool, self._client = spool, mlflow_client
        self.run_id, self.experiment_id = str(run.info.run_id), str(run.info.experiment_id)
        self.artifact_uri = str(run.info.artifact_uri)
        self._parent = str(run.data.tags.get("mlflow.parentRunId", ""))
        self._last_steps: dict[str, int] = {}
        for metric in run.data.to_proto().metrics:  # of each the latest
            self._note_step(metric.key, metric.step)
        for entry in spool.pending():
            for step, values in entry.get("rows", ()):
                for key in values:
                    self._note_step(key, step)

    def _note_step(self, metric: str, step: int) -> None:
        self._last_steps[metric] = max(step, self._last_steps.get(metric, -1))

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Nested values as dotted names; rules of a recipe by their kind. What the run has said before stays."""
        self._spool.append({"kind": "params", "values": {key: text[:_PARAM_CHARS] for key, text in _flat(values)}})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.metric_rows([(step, values)])

    def metric_rows(self, rows: list[tuple[int, Mapping[str, float]]]) -> None:
        """Metrics of many steps. Of a name, what MLflow has no character for becomes `_`."""
        plain = [
            (int(step), {_METRIC_OTHERS.sub("_", key): float(value) for key, value in values.items()})
            for step, values in rows
            if values
        ]
        few = max(1, METRICS_PER_CALL // max((len(values) for _, values in plain), default=1))
        for start in range(0, len(plain), few):
            self._spool.append({"kind": "metrics", "at": _now_ms(), "rows": plain[start : start + few]})
        for step, values in plain:
            for key in values:
                self._note_step(key, step)

    def scores(self, model_id: str, values: Mapping[str, float], corpus: str, digest: str) -> None:
        """Metrics of a registered model on a corpus or task pack: of this run, whose input the model becomes, and of
        the model. Of a name, what MLflow has no character for becomes `_`."""
        plain = [(_METRIC_OTHERS.sub("_", key), float(value)) for key, value in values.items()]
        for start in range(0, len(plain), METRICS_PER_CALL):
            part = dict(plain[start : start + METRICS_PER_CALL])
            entry = {"kind": "scores", "model": model_id, "at": _now_ms(), "values": part}
            self._spool.append({**entry, "corpus": corpus, "digest": digest[:36]})

    def last_step(self, metric: str) -> int:
        """The last step that this run has of `metric`, here or at the server; -1 where it has none."""
        return self._last_steps.get(metric, -1)

    def points(self, metric: str) -> set[tuple[int, float]]:
        """Every step and value that this run has of `metric`, here or at the server.

        UnavailableError (a ValueError) where the server is away for ten minutes.
        """
        if self.last_step(metric) < 0:
            return set()
        written = {
            (step, values[metric])
            for entry in self._spool.pending()
            for step, values in entry.get("rows", ())
            if metric in values
        }
        history = answered(lambda: self._client.get_metric_history(self.run_id, metric), f"reading {metric}")
        return written | {(point.step, point.value) for point in history}

    def tags(self, values: Mapping[str, str]) -> None:
        self._spool.append({"kind": "tags", "values": dict(values)})

    def rename(self, name: str) -> None:
        self._spool.append({"kind": "name", "name": name})
        self._refresh_parent()

    def describe(self, markdown: str) -> None:
        """The run's description; links to what belongs to it are added below."""
        self._spool.append({"kind": "note", "markdown": markdown[:_NOTE_CHARS]})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, or what is in a folder, as it is now, in `folder` of the run's artifacts."""
        self._spool.append_artifact(path, folder)

    def text(self, content: str, file: str) -> None:
        """`content` as the artifact `file`, a path in the run's artifacts."""
        path = PurePosixPath(file)
        self._spool.append_text(content, path.name, "" if path.parent == PurePosixPath() else str(path.parent))

    def json(self, value: Any, file: str) -> None:
        """`value` as a JSON artifact that people can read."""
        self.text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", file)

    def dataset(
        self,
        name: str,
        digest: str,
        path: Path | str,
        context: str,
        profile: Mapping[str, int | float] | None = None,
        *,
        is_main: bool = True,
        source_type: str = "tokenmill_corpus",
    ) -> None:
        """A corpus version, or what else `source_type` names, as a dataset input, `profile` its sizes. MLflow holds 36
        characters of a digest; the whole one is a tag: of the run's main corpus, where it has several."""
        dataset = {
            "name": name,
            "digest": digest[:36],
            "source_type": source_type,
            "source": json.dumps({"path": str(path)}),
            "profile": json.dumps(dict(profile)) if profile else None,
        }
        self._spool.append({"kind": "dataset", "dataset": dataset, "context": context})
        if is_main:
            self.tags({"tokenmill.corpus": name, "tokenmill.corpus_digest": digest})

    def settle(self) -> None:
        """Wait until MLflow has all that was written, for those who read it there. UnavailableError (a ValueError)
        where it has been away for ten minutes."""
        self._spool.settle()

    def finish(self, status: str = "FINISHED") -> None:
        self._spool.append({"kind": "status", "status": status, "at": _now_ms()})
        self._refresh_parent()

    def begin(self, *, again: bool) -> None:
        """What every run says first: in which environment it runs; and one that goes on, that it does."""
        if again:  # through the spool, behind what an earlier part may have left there
            self._spool.append({"kind": "status", "status": "RUNNING"})
        self.text(environment_lock(), "environment.txt")
        self._spool.append({"kind": "links", "run": self.run_id})
        self._refresh_parent()

    def _refresh_parent(self) -> None:
        if self._parent:
            self._spool.append({"kind": "links", "run": self._parent})


def end_orphans(store: Store, lock: str) -> None:
    """Call while holding `lock`: runs of its name that are still RUNNING were killed; say so in the history."""
    mlflow_client = client(store)
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return
    query = f"attributes.status = 'RUNNING' and tags.`{_LOCK_TAG}` = '{lock}'"
    for run in mlflow_client.search_runs([experiment.experiment_id], filter_string=query):
        mlflow_client.set_terminated(run.info.run_id, "KILLED")


def _experiment_id(store: Store, mlflow_client: MlflowClient) -> str:
    """Of the one experiment, which is made where it is missing.

    Artifacts of a database of our own are in the store; a server decides for itself where they go, and hands them on.
    """
    if (experiment := mlflow_client.get_experiment_by_name(EXPERIMENT)) is not None:
        return str(experiment.experiment_id)
    try:
        return str(
            mlflow_client.create_experiment(
                EXPERIMENT,
                artifact_location=None if mlflow_uri(store).startswith("http") else mlflow_artifacts(store).as_uri(),
                tags={"mlflow.experimentKind": "custom_model_development"},  # the page for training, not for agents
            )
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _experiment_id(store, mlflow_client)  # another process was first


def _earlier(mlflow_client: MlflowClient, run_id: str) -> Run | None:
    """The run of this id; None where the history was moved or cleared."""
    try:
        run = mlflow_client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def _begun(
    store: Store, mlflow_client: MlflowClient, name: str, tags: Mapping[str, str], resume: str, lock: str
) -> MlflowTracker:
    """All that needs an answer: the run, new or gone on with."""
    if lock:
        end_orphans(store, lock)
        tags = {**tags, _LOCK_TAG: lock}
    run = earlier = _earlier(mlflow_client, resume) if resume else None
    if run is None:
        parent = _ENCLOSING.get()
        parent_tag = {"mlflow.parentRunId": parent} if parent else {}
        experiment_id = _experiment_id(store, mlflow_client)
        run = mlflow_client.create_run(experiment_id, run_name=name, tags={**tags, **parent_tag})
    tracker = MlflowTracker(Spool(store, mlflow_client, str(run.info.run_id)), mlflow_client, run)
    tracker.begin(again=earlier is not None)
    if earlier is not None:
        tracker.tags(tags)
    return tracker


def _was_stopped(error: BaseException) -> bool:
    """Whether somebody stopped the work, instead of its failing: an interrupt or a signal, which are no Exception; or a
    part of it that was cancelled. Prefect's own error for that is known by its name: Prefect is not known here."""
    if not isinstance(error, Exception) or isinstance(error, concurrent.futures.CancelledError):
        return True
    return type(error).__name__ == "CancelledRun"


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

    Raises UnavailableError where MLflow is away at the beginning, for a minute; inside another run, which has work to
    lose, for ten. At the end RejectedError where MLflow has refused something. Both are ValueErrors.
    """
    mlflow_client = client(store)
    deliver_spools(store)
    patience_s = RESTART_S if _ENCLOSING.get() else BEGIN_S
    tracker = answered(
        lambda: _begun(store, mlflow_client, name, tags, resume, lock), f"beginning the run {name}", patience_s
    )
    spool = tracker._spool
    enclosing = _ENCLOSING.set(tracker.run_id)
    end_s, at_most_s = END_S, float("inf")
    try:
        with system_metrics(tracker.metrics, tracker.last_step(f"{SYSTEM_PREFIX}cpu_utilization_percentage") + 1):
            yield tracker
        tracker.finish()
        end_s = END_S if spool.wait(END_S) else 0.0
        spool.check()
    except BaseException as error:
        if _was_stopped(error):
            tracker.finish("KILLED")
            end_s, at_most_s = KILLED_S, 2 * KILLED_S
        else:
            tracker.tags({"tokenmill.error": f"{type(error).__name__}: {error}"[:_ERROR_CHARS]})
            tracker.finish("FAILED")
        raise
    finally:
        _ENCLOSING.reset(enclosing)
        spool.close(end_s, at_most_s)
