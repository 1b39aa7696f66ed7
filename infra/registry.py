"""Model versions in MLflow's registry: a folder with weights, shape and tokenizer, and the aliases that point at it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.exceptions import MlflowException

from infra.mlflow_tracker import MlflowTracker, client
from infra.settings import mlflow_uri
from tasks.checkpoint import copy_for_use, read_state
from tasks.store import Store, checked_name
from tasks.tokenization import TOKENIZER_FILE
from tasks.tokenizer import tokenizer_hash

MODEL_FOLDER = "model"
CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True)
class ModelVersion:
    """A model as it can be loaded: where its files are and what the registry knows of it."""

    reference: str  # name@version, or the path of a checkpoint
    folder: Path  # the checkpoint's files
    tokenizer_file: Path
    tags: Mapping[str, str]


def register_model(
    store: Store,
    tracker: MlflowTracker,
    *,
    name: str,
    checkpoint: Path,
    tokenizer_file: Path,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """Log checkpoint and tokenizer as the run's artifacts and register them as a new version: `name@version`.

    The version becomes `candidate`; the first of its name also `champion`.
    """
    registry = client(store)
    with tempfile.TemporaryDirectory(prefix="tokenmill-") as scratch:
        files = Path(scratch) / "files"
        files.mkdir()
        copy_for_use(checkpoint, files)
        shutil.copyfile(tokenizer_file, files / tokenizer_file.name)
        folder = Path(scratch) / MODEL_FOLDER
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"files": str(files)},
            pip_requirements=["tokenmill"],
        )
        tracker.artifact(folder, MODEL_FOLDER)
    try:
        registry.create_registered_model(checked_name(name, "model name"))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{tracker.artifact_uri}/{MODEL_FOLDER}"
    version = registry.create_model_version(
        name, source=source, run_id=tracker.run_id, tags=dict(tags), description=description
    ).version
    registry.set_registered_model_alias(name, CANDIDATE, version)
    if int(version) == 1:
        registry.set_registered_model_alias(name, CHAMPION, version)
    return f"{name}@{version}"


def find_model(store: Store, reference: str) -> ModelVersion:
    """The model named by `name` (its champion), `name@version`, `name@alias`, `models:/...`, or a checkpoint's path.

    Raises ValueError, saying what there is, where nothing of that name can be found.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return ModelVersion(str(path), path, _tokenizer_of(store, path), {})
    name, _, wanted = reference.removeprefix("models:/").replace("/", "@", 1).partition("@")
    registry = client(store)
    try:
        if wanted.isdecimal():
            version = registry.get_model_version(name, wanted)
        else:
            version = registry.get_model_version_by_alias(name, wanted or CHAMPION)
    except MlflowException as error:
        known = sorted(
            f"{model.name}@{version}"
            for model in registry.search_registered_models()
            for version in sorted(model.aliases)
        )
        raise ValueError(
            f"there is no model {reference!r} in {store.root}; there are: {', '.join(known) or 'none yet'}"
        ) from error
    local = mlflow.artifacts.download_artifacts(artifact_uri=version.source, tracking_uri=mlflow_uri(store))
    folder = Path(local) / "artifacts" / "files"
    return ModelVersion(f"{name}@{version.version}", folder, _tokenizer_of(store, folder), dict(version.tags))


def _tokenizer_of(store: Store, folder: Path) -> Path:
    """The tokenizer beside a checkpoint, else the one in the store that the checkpoint names by hash."""
    beside = folder / TOKENIZER_FILE
    if beside.is_file():
        return beside
    wanted = read_state(folder).tokenizer_sha256
    for file in sorted(store.tokens.glob(f"*/{TOKENIZER_FILE}")):
        if tokenizer_hash(file) == wanted:
            return file
    raise ValueError(f"the tokenizer of {folder} is neither beside it nor in {store.tokens}; give the --store it is in")
