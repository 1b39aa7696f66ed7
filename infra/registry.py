"""Language models in MLflow's registry: a folder of weights, shape and tokenizer, and the aliases that point at it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow.pyfunc
from mlflow.entities import Metric
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from infra.mlflow_tracker import MlflowTracker
from infra.model_card import model_card, tokens_trained_on
from infra.registered_versions import (
    CHAMPION,
    aliases,
    find_version,
    local_folder,
    make_champion,
    registered_versions,
)
from infra.registration import Registration
from infra.served_options import served_options
from infra.tracking_client import client
from tasks.checkpoints import CheckpointState, copy_for_use, read_state
from tasks.source_names import is_model_path
from tasks.store import Store, checked_name
from tasks.tokenizer import TOKENIZER_FILE, tokenizer_hash

CHECKPOINT_TAG = "checkpoint"


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
    """Every registered version of every language model."""
    found = registered_versions(client(store), "model")
    return [ModelReference(version.name, str(version.version), dict(version.tags)) for version in found]


def champion(store: Store, name: str) -> ModelVersion | None:
    """The champion of the model `name`; None where it has none, or where there is no such model."""
    version = aliases(client(store), name).get(CHAMPION)
    return find_model(store, f"{name}@{version}") if version else None


def move_champion(store: Store, name: str, version: str, why: str) -> None:
    """Make `name@version` the champion; the version's tags say since when and why.

    ValueError where there is no such version.
    """
    registry = client(store)
    find_version(store, registry, f"{name}@{version}", "model")
    make_champion(registry, name, version, why)


def tag_model(store: Store, reference: str, tags: Mapping[str, str]) -> None:
    """Note facts on the version `name@version`, which is there."""
    name, _, version = reference.partition("@")
    for key, value in tags.items():
        client(store).set_model_version_tag(name, version, key, value)


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
    state = read_state(str(checkpoint))
    tags = {**tags, "tokenizer_sha256": state.tokenizer_sha256}
    registration = Registration(
        registry=client(store),
        tracker=tracker,
        name=checked_name(name, "model name"),
        identity=(CHECKPOINT_TAG, str(checkpoint)),
        tags=tags,
        model_type="decoder-only language model",
        parameters=_parameters(state),
        step=step,
    )
    files = _Files(str(checkpoint), tokenizer_file, state, tracker.run_id, tags, step)
    version = registration.version(files.save, files.scores)
    reference = f"{registration.name}@{version.version}"
    registration.make_candidate(version, model_card(reference, state, version.tags, description))
    if int(version.version) == 1 and CHAMPION not in registration.answered(
        lambda: aliases(registration.registry, registration.name)
    ):
        registration.set_alias(CHAMPION, "1")
    return reference


def find_model(store: Store, reference: str) -> ModelVersion:
    """The model named by `name` (its champion), `name@version`, `name@alias`, `models:/...`, or a checkpoint's path
    or URL.

    Raises ValueError, saying what there is, where nothing of that name can be found. What lies on a server is fetched
    once.
    """
    if "://" in reference or is_model_path(reference):
        folder = reference if "://" in reference else str(Path(reference).expanduser())
        if "://" not in reference and not Path(folder).is_dir():
            raise ValueError(
                f"there is no folder {reference}: name a checkpoint's, or a model of the registry as name[@V]"
            )
        return ModelVersion(folder, folder, _tokenizer_of(store, folder), {})
    version = find_version(store, client(store), reference, "model")
    folder = str(local_folder(store, version) / "artifacts" / "files")
    return ModelVersion(f"{version.name}@{version.version}", folder, _tokenizer_of(store, folder), dict(version.tags))


@dataclass(frozen=True)
class _Files:
    """What is registered: a checkpoint with its tokenizer, loadable by MLflow, and what it says of itself."""

    checkpoint: str
    tokenizer_file: Path
    state: CheckpointState
    run_id: str
    tags: Mapping[str, str]
    step: int

    def save(self, folder: Path, model_id: str) -> None:
        model = Model(run_id=self.run_id, model_id=model_id)
        with tempfile.TemporaryDirectory(prefix="tokenmill-") as scratch:
            files = Path(scratch) / "files"
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
        model.signature.params = served_options(int(self.state.decoder["max_seq_len"]))
        model.save(str(folder / MLMODEL_FILE_NAME))

    def scores(self, model_id: str) -> list[Metric]:
        """What the checkpoint says of itself, as metrics of the model, and of the run, on its corpus."""
        now = int(time.time() * 1000)
        corpus, digest = self.tags.get("corpus"), self.tags.get("corpus_digest", "")[:36]  # all that MLflow holds
        values = {"model.loss": self.state.loss, "model.tokens": float(tokens_trained_on(self.state, self.tags))}
        if self.state.held_out is not None:
            values["model.bits_per_byte"] = self.state.held_out.bits_per_byte
        return [
            Metric(
                key,
                value,
                now,
                self.step,
                model_id=model_id,
                dataset_name=corpus if digest else None,
                dataset_digest=digest if corpus and digest else None,
                run_id=self.run_id,
            )
            for key, value in values.items()
        ]


def _parameters(state: CheckpointState) -> dict[str, str]:
    """What a reader compares models by."""
    recipe = {"recipe": state.recipe.name, "network": state.recipe.model, "step": state.step}
    return {key: str(value) for key, value in (recipe | dict(state.decoder)).items()}


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
