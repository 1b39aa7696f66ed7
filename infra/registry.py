"""Model versions in MLflow's registry: a folder with weights, shape and tokenizer, and the aliases that point at it.

A version is also MLflow's logged model: the output of its run, with its own metrics on the data set that it was scored
on. So the pages lead from the run to the model, from the model to run and data, and from the version to all of them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.tracking import MlflowClient
from mlflow.types import DataType, ParamSchema, ParamSpec
from mlflow.utils.git_utils import get_git_commit

from infra.mlflow_tracker import MlflowTracker
from infra.model_card import model_card, tokens_trained_on
from infra.settings import mlflow_uri
from infra.tracking_client import answered, client
from tasks.atomic import new_directory
from tasks.checkpoints import CheckpointState, copy_for_use, read_state
from tasks.generation import TextGenerator
from tasks.manifest import code_version
from tasks.store import Store, checked_name
from tasks.tokenizer import TOKENIZER_FILE, tokenizer_hash

T = TypeVar("T")

CANDIDATE, CHAMPION = "candidate", "champion"
RUN_TAG, CHECKPOINT_TAG, LOGGED_MODEL_TAG = "mlflow_run_id", "checkpoint", "mlflow_model_id"
_MODEL_TYPE = "decoder-only language model"
_CHECKOUT = Path(__file__).parent.parent
_VERSIONS_TAG = "mlflow.modelVersions"  # of a logged model, by which MLflow's page of the run names its versions


@dataclass(frozen=True)
class ModelVersion:
    """A model as it can be loaded: where its files are and what the registry knows of it."""

    reference: str  # name@version, or the path or URL of a checkpoint
    folder: str  # the checkpoint's files; a path, or the URL of a checkpoint that was named by it
    tokenizer_file: Path
    tags: Mapping[str, str]


@dataclass(frozen=True)
class ModelReference:
    """A registered version and its tags, which say what it was made of: corpus, corpus_digest, tokens and what
    `tasks.trained_corpora` reads beside them, checkpoint, run_dir, tokenizer_sha256, code_version. Nothing is loaded.
    """

    name: str
    version: str
    tags: Mapping[str, str]


def model_references(store: Store) -> list[ModelReference]:
    """Every registered version of every model."""
    registry = client(store)
    found: list[ModelReference] = []
    token: str | None = None
    while True:
        page = registry.search_model_versions(page_token=token)
        found += [ModelReference(version.name, str(version.version), dict(version.tags)) for version in page]
        token = page.token
        if not token:
            return found


def champion(store: Store, name: str) -> ModelVersion | None:
    """The champion of the model `name`; None where it has none, or where there is no such model."""
    version = _aliases(client(store), name).get(CHAMPION)
    return find_model(store, f"{name}@{version}") if version else None


def move_champion(store: Store, name: str, version: str, why: str) -> None:
    """Make `name@version` the champion; the version's tags say since when and why.

    ValueError where there is no such version.
    """
    registry = client(store)
    _registered(store, registry, f"{name}@{version}")
    since = datetime.now(UTC).isoformat(timespec="seconds")
    registry.set_model_version_tag(name, version, "champion.since", since)
    registry.set_model_version_tag(name, version, "champion.why", why)
    registry.set_registered_model_alias(name, CHAMPION, version)


def register_model(
    store: Store,
    tracker: MlflowTracker,
    *,
    name: str,
    checkpoint: str | Path,
    tokenizer_file: Path,
    tags: Mapping[str, str],
    description: str,
    step: int = 0,
) -> str:
    """Log checkpoint and tokenizer as a model of the run, and register it as a new version: `name@version`.

    The version becomes `candidate`; the first of its name also `champion`. `description` is the first paragraph of its
    card. Waits where the server is away, as `answered` does: this comes after hours of training. The same run and
    checkpoint are registered once, however often it is tried.
    """
    registration = _Registration(
        client(store),
        tracker,
        checked_name(name, "model name"),
        str(checkpoint),
        tokenizer_file,
        {**tags, RUN_TAG: tracker.run_id, CHECKPOINT_TAG: str(checkpoint), **_code_tags()},
        description,
        step,
    )
    return registration.reference()


def find_model(store: Store, reference: str) -> ModelVersion:
    """The model named by `name` (its champion), `name@version`, `name@alias`, `models:/...`, or a checkpoint's path
    or URL.

    Raises ValueError, saying what there is, where nothing of that name can be found. What lies on a server is fetched
    once.
    """
    path = Path(reference).expanduser()
    is_url = "://" in reference
    if is_url or path.is_dir():
        folder = reference if is_url else str(path)
        return ModelVersion(folder, folder, _tokenizer_of(store, folder), {})
    version = _registered(store, client(store), reference)
    folder = str(_local(store, version) / "artifacts" / "files")
    return ModelVersion(f"{version.name}@{version.version}", folder, _tokenizer_of(store, folder), dict(version.tags))


@dataclass(frozen=True)
class _Registration:
    """What becomes a version, and the steps to it. Each waits for an answer, and can be taken again."""

    registry: MlflowClient
    tracker: MlflowTracker
    name: str
    checkpoint: str
    tokenizer_file: Path
    tags: Mapping[str, str]
    description: str
    step: int

    def reference(self) -> str:
        """Register; `name@version`."""
        state = read_state(self.checkpoint)
        version = self._answered(self._registered_before) or self._new_version(state)
        number, reference = str(version.version), f"{self.name}@{version.version}"
        card = model_card(reference, state, version.tags, self.description)
        self._answered(lambda: self.registry.update_model_version(self.name, number, card))
        self._set_alias(CANDIDATE, number)
        if int(number) == 1 and not self._answered(self._has_champion):
            self._set_alias(CHAMPION, number)
        versions = json.dumps([{"name": self.name, "version": number}])
        model_id = version.tags[LOGGED_MODEL_TAG]
        self._answered(lambda: self.registry.set_logged_model_tags(model_id, {_VERSIONS_TAG: versions}))
        return reference

    def _answered(self, call: Callable[[], T]) -> T:
        return answered(call, f"registering {self.name}")

    def _set_alias(self, alias: str, number: str) -> None:
        self._answered(lambda: self.registry.set_registered_model_alias(self.name, alias, number))

    def _has_champion(self) -> bool:
        return CHAMPION in _aliases(self.registry, self.name)

    def _registered_before(self) -> RegisteredVersion | None:
        """The version that an earlier try made, though its answer was lost or its process killed."""
        found = self.registry.search_model_versions(f"name = '{self.name}' and run_id = '{self.tracker.run_id}'")
        return next((one for one in found if one.tags.get(CHECKPOINT_TAG) == self.checkpoint), None)

    def _new_version(self, state: CheckpointState) -> RegisteredVersion:
        model = self._logged_model(state)
        tags = {**self.tags, "tokenizer_sha256": state.tokenizer_sha256, LOGGED_MODEL_TAG: model.model_id}

        def create() -> RegisteredVersion:
            return self._registered_before() or self.registry.create_model_version(
                self.name,
                source=model.artifact_location,
                run_id=self.tracker.run_id,
                tags=tags,
                model_id=model.model_id,
            )

        self._answered(self._create_registered_model)
        return self._answered(create)

    def _create_registered_model(self) -> None:
        try:
            self.registry.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _logged_model(self, state: CheckpointState) -> LoggedModel:
        """The files as an output of the run, with its scores."""
        run_id = self.tracker.run_id
        model = self._answered(
            lambda: (
                self._logged_before()
                or self.registry.create_logged_model(
                    self.tracker.experiment_id,
                    name=self.name,
                    source_run_id=run_id,
                    tags=dict(self.tags),
                    params=_parameters(state),
                    model_type=_MODEL_TYPE,
                )
            )
        )
        model_id = str(model.model_id)
        with tempfile.TemporaryDirectory(prefix="tokenmill-") as scratch:
            folder = Path(scratch) / "model"
            self._save(folder, Path(scratch) / "files", model_id, int(state.decoder["max_seq_len"]))
            self._answered(lambda: self.registry.log_model_artifacts(model_id, str(folder)))
        scores = self._scores(state, model_id)
        self._answered(lambda: self._log_output(model_id))
        self._answered(lambda: self.registry.log_batch(run_id, metrics=scores))
        return self._answered(lambda: self.registry.finalize_logged_model(model_id, LoggedModelStatus.READY))

    def _logged_before(self) -> LoggedModel | None:
        """The model that an earlier try made, though its answer was lost or its process killed."""
        query = f"source_run_id = '{self.tracker.run_id}' and name = '{self.name}'"
        found = self.registry.search_logged_models([self.tracker.experiment_id], filter_string=query)
        return next((one for one in found if one.tags.get(CHECKPOINT_TAG) == self.checkpoint), None)

    def _log_output(self, model_id: str) -> None:
        """Once: MLflow refuses it a second time."""
        outputs = self.registry.get_run(self.tracker.run_id).outputs
        if not any(known.model_id == model_id for known in (outputs.model_outputs if outputs else [])):
            self.registry.log_outputs(self.tracker.run_id, [LoggedModelOutput(model_id, self.step)])

    def _save(self, folder: Path, files: Path, model_id: str, max_seq_len: int) -> None:
        model = Model(run_id=self.tracker.run_id, model_id=model_id)
        files.mkdir()
        copy_for_use(self.checkpoint, files)
        shutil.copyfile(self.tokenizer_file, files / TOKENIZER_FILE)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"files": str(files)},
            pip_requirements=["tokenmill"],
            mlflow_model=model,
        )
        assert model.signature is not None  # of the type hints of `predict`, which say nothing of its options
        model.signature.params = _options(max_seq_len)
        model.save(str(folder / MLMODEL_FILE_NAME))

    def _scores(self, state: CheckpointState, model_id: str) -> list[Metric]:
        """What the checkpoint says of itself, as metrics of the model, and of the run, on its corpus."""
        now = int(time.time() * 1000)
        corpus, digest = self.tags.get("corpus"), self.tags.get("corpus_digest", "")[:36]  # all that MLflow holds
        values = {"model.loss": state.loss, "model.tokens": float(tokens_trained_on(state, self.tags))}
        if state.held_out is not None:
            values["model.bits_per_byte"] = state.held_out.bits_per_byte
        return [
            Metric(
                key,
                value,
                now,
                self.step,
                model_id=model_id,
                dataset_name=corpus if digest else None,
                dataset_digest=digest if corpus and digest else None,
                run_id=self.tracker.run_id,
            )
            for key, value in values.items()
        ]


def _parameters(state: CheckpointState) -> dict[str, str]:
    """What a reader compares models by."""
    recipe = {"recipe": state.recipe.name, "network": state.recipe.model, "step": state.step}
    return {key: str(value) for key, value in (recipe | dict(state.decoder)).items()}


def _options(max_seq_len: int) -> ParamSchema:
    """The options of `TextGenerator.stream`: MLflow drops, with a warning, what the signature does not name."""
    parameters = inspect.signature(TextGenerator.stream).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    defaults["max_new_tokens"] = min(defaults["max_new_tokens"], max_seq_len // 2)  # leaves room for a prompt
    kinds = {name: DataType.double if isinstance(value, float) else DataType.long for name, value in defaults.items()}
    return ParamSchema([ParamSpec(name, kinds[name], value) for name, value in defaults.items()])


def _code_tags() -> dict[str, str]:
    """The code as a hash, and the commit where this is a checkout; a commit of somebody else's project is none."""
    tags = {"code_version": code_version("flows", "infra", "tasks", "model")}
    commit = get_git_commit(str(_CHECKOUT)) if (_CHECKOUT / ".git").exists() else None
    return tags | ({"git_commit": commit} if commit else {})


def _aliases(registry: MlflowClient, name: str) -> Mapping[str, str]:
    try:
        aliases: dict[str, str] = registry.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in aliases.items()}


def _registered(store: Store, registry: MlflowClient, reference: str) -> RegisteredVersion:
    """The version of that name. ValueError, saying what there is, where there is none."""
    name, _, wanted = reference.removeprefix("models:/").replace("/", "@", 1).partition("@")
    number = wanted if wanted.isdecimal() else _aliases(registry, name).get(wanted or CHAMPION)
    try:
        if number is not None:
            return registry.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    versions = [f"{model.name}@{model.version}" for model in model_references(store)]
    aliases = [f"{model.name}@{alias}" for model in registry.search_registered_models() for alias in model.aliases]
    known = sorted(versions) + sorted(aliases)
    raise ValueError(f"there is no model {reference!r} in {store.root}; there are: {', '.join(known) or 'none yet'}")


def _local(store: Store, version: RegisteredVersion) -> Path:
    """The folder of a version's files, fetched where it is not on this machine."""
    source = str(version.source)
    if urlsplit(source).scheme in ("", "file"):
        return Path(url2pathname(urlsplit(source).path))
    place = hashlib.sha256(source.encode()).hexdigest()[:16]  # the address holds the model's unique id
    fetched = store.root / "mlflow" / "models" / f"{version.name}-{version.version}-{place}"
    if not fetched.is_dir():
        with new_directory(fetched) as temporary:
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(temporary), tracking_uri=mlflow_uri(store)
            )
    return fetched / Path(urlsplit(source).path).name  # MLflow keeps the last part of the address


def _tokenizer_of(store: Store, folder: str) -> Path:
    """The tokenizer beside a checkpoint, else the one in the store that the checkpoint names by hash."""
    beside = Path(folder) / TOKENIZER_FILE
    if beside.is_file():
        return beside
    wanted = read_state(folder).tokenizer_sha256
    for file in sorted(store.tokens.glob(f"*/{TOKENIZER_FILE}")):
        if tokenizer_hash(file) == wanted:
            return file
    raise ValueError(f"the tokenizer of {folder} is neither beside it nor in {store.tokens}; give the --store it is in")
