"""How files become an output of a run and a version in MLflow's registry: once, however often it is tried.

A version is also MLflow's logged model: the output of its run, with its own metrics on the data set that it was scored
on. So the pages lead from the run to the model, from the model to run and data, and from the version to all of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.git_utils import get_git_commit

from infra.mlflow_tracker import MlflowTracker
from infra.registered_versions import CANDIDATE, LOGGED_MODEL_TAG, RUN_TAG
from infra.tracking_client import answered
from tasks.manifest import code_version

T = TypeVar("T")

_CHECKOUT = Path(__file__).parent.parent
_VERSIONS_TAG = "mlflow.modelVersions"  # of a logged model, by which MLflow's page of the run names its versions
_DESCRIPTION_CHARS = 5000  # of a version, in MLflow's databases
_CUT = "\n\n(Cut here: MLflow holds no more of a description.)"


@dataclass(frozen=True)
class Registration:
    """What becomes a version, and the steps to it. Each waits for an answer, and can be taken again.

    The same run and `identity` are registered once: what an earlier try made, though its answer was lost or its process
    killed, is found by them.
    """

    registry: MlflowClient
    tracker: MlflowTracker
    name: str
    identity: tuple[str, str]  # a tag's name and value: which files these are
    tags: Mapping[str, str]
    model_type: str
    parameters: Mapping[str, str]  # what a reader compares models by
    step: int = 0

    def version(
        self, save: Callable[[Path, str], object], scores: Callable[[str], Sequence[Metric]]
    ) -> RegisteredVersion:
        """The version, new or of an earlier try.

        `save` writes its files into a folder that is not there yet, given the id of the logged model; `scores` are
        metrics of that model, and of the run.
        """
        return self.answered(self._registered_before) or self._new_version(save, scores)

    def make_candidate(self, version: RegisteredVersion, card: str) -> None:
        """`card` is what the version's page says; its run's page names it."""
        number = str(version.version)
        fits = len(card) <= _DESCRIPTION_CHARS
        shown = card if fits else card[: _DESCRIPTION_CHARS - len(_CUT)].rpartition("\n")[0] + _CUT
        self.answered(lambda: self.registry.update_model_version(self.name, number, shown))
        self.set_alias(CANDIDATE, number)
        versions = json.dumps([{"name": self.name, "version": number}])
        model_id = version.tags[LOGGED_MODEL_TAG]
        self.answered(lambda: self.registry.set_logged_model_tags(model_id, {_VERSIONS_TAG: versions}))

    def set_alias(self, alias: str, number: str) -> None:
        self.answered(lambda: self.registry.set_registered_model_alias(self.name, alias, number))

    def answered(self, call: Callable[[], T]) -> T:
        return answered(call, f"registering {self.name}")

    @property
    def _all_tags(self) -> dict[str, str]:
        key, value = self.identity
        return {**self.tags, RUN_TAG: self.tracker.run_id, key: value, **_code_tags()}

    def _registered_before(self) -> RegisteredVersion | None:
        key, value = self.identity
        found = self.registry.search_model_versions(f"name = '{self.name}' and run_id = '{self.tracker.run_id}'")
        return next((one for one in found if one.tags.get(key) == value), None)

    def _new_version(
        self, save: Callable[[Path, str], object], scores: Callable[[str], Sequence[Metric]]
    ) -> RegisteredVersion:
        model = self._logged_model(save, scores)
        tags = {**self._all_tags, LOGGED_MODEL_TAG: str(model.model_id)}

        def create() -> RegisteredVersion:
            return self._registered_before() or self.registry.create_model_version(
                self.name,
                source=model.artifact_location,
                run_id=self.tracker.run_id,
                tags=tags,
                model_id=model.model_id,
            )

        self.answered(self._create_registered_model)
        return self.answered(create)

    def _create_registered_model(self) -> None:
        try:
            self.registry.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _logged_model(
        self, save: Callable[[Path, str], object], scores: Callable[[str], Sequence[Metric]]
    ) -> LoggedModel:
        """The files as an output of the run, with its scores."""
        run_id = self.tracker.run_id
        model = self.answered(
            lambda: (
                self._logged_before()
                or self.registry.create_logged_model(
                    self.tracker.experiment_id,
                    name=self.name,
                    source_run_id=run_id,
                    tags=self._all_tags,
                    params=dict(self.parameters),
                    model_type=self.model_type,
                )
            )
        )
        model_id = str(model.model_id)
        with tempfile.TemporaryDirectory(prefix="tokenmill-") as scratch:
            folder = Path(scratch) / "model"
            save(folder, model_id)
            self.answered(lambda: self.registry.log_model_artifacts(model_id, str(folder)))
        metrics = list(scores(model_id))
        self.answered(lambda: self._log_output(model_id))
        self.answered(lambda: self.registry.log_batch(run_id, metrics=metrics))
        return self.answered(lambda: self.registry.finalize_logged_model(model_id, LoggedModelStatus.READY))

    def _logged_before(self) -> LoggedModel | None:
        key, value = self.identity
        query = f"source_run_id = '{self.tracker.run_id}' and name = '{self.name}'"
        found = self.registry.search_logged_models([self.tracker.experiment_id], filter_string=query)
        return next((one for one in found if one.tags.get(key) == value), None)

    def _log_output(self, model_id: str) -> None:
        """Once: MLflow refuses it a second time."""
        outputs = self.registry.get_run(self.tracker.run_id).outputs
        if not any(known.model_id == model_id for known in (outputs.model_outputs if outputs else [])):
            self.registry.log_outputs(self.tracker.run_id, [LoggedModelOutput(model_id, self.step)])


def _code_tags() -> dict[str, str]:
    """The code as a hash, and the commit where this is a checkout; a commit of somebody else's project is none."""
    tags = {"code_version": code_version("flows", "infra", "tasks", "model")}
    commit = get_git_commit(str(_CHECKOUT)) if (_CHECKOUT / ".git").exists() else None
    return tags | ({"git_commit": commit} if commit else {})
