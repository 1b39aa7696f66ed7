"""What MLflow's registry holds by name: versions and aliases, found and moved, and their files brought here.

Two kinds of models share it, language models (infra/registry.py) and classifiers (infra/classifier_registry.py). A tag
of the version says which, so that neither is ever taken for the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from infra.settings import mlflow_uri
from tasks.atomic import new_directory
from tasks.store import Store, checked_name

Kind = Literal["model", "classifier"]
"""A language model, which everything else calls a model; or a classifier of texts."""

CANDIDATE, CHAMPION = "candidate", "champion"
RUN_TAG, LOGGED_MODEL_TAG = "mlflow_run_id", "mlflow_model_id"
_KIND_TAG = "tokenmill.kind"


def kind_tags(kind: Kind) -> dict[str, str]:
    """What the tags of a version say of its kind; a language model's say nothing."""
    return {} if kind == "model" else {_KIND_TAG: kind}


def kind_of(tags: Mapping[str, str]) -> str:
    """The kind of a version with these tags."""
    return tags.get(_KIND_TAG, "model")


def registered_versions(registry: MlflowClient, kind: Kind) -> list[RegisteredVersion]:
    """Every version of every model of this kind."""
    found: list[RegisteredVersion] = []
    token: str | None = None
    while True:
        page = registry.search_model_versions(page_token=token)
        found += [version for version in page if kind_of(version.tags) == kind]
        token = page.token
        if not token:
            return found


def aliases(registry: MlflowClient, name: str) -> Mapping[str, str]:
    """Version numbers by alias; empty where there is no such model."""
    try:
        found: dict[str, str] = registry.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in found.items()}


def find_version(store: Store, registry: MlflowClient, reference: str, kind: Kind) -> RegisteredVersion:
    """The version named by `name` (its champion), `name@version`, `name@alias`, `models:/...`.

    ValueError, saying what there is, where there is none of this kind, and for what can be no name.
    """
    name, at, wanted = reference.removeprefix("models:/").replace("/", "@", 1).partition("@")
    checked_name(name, f"{kind} name")
    if at and not wanted:
        raise ValueError(f"{reference!r} names no version: write {name}, or {name}@ and a number or an alias")
    number = wanted if wanted.isdecimal() else aliases(registry, name).get(wanted or CHAMPION)
    try:
        if number is not None:
            version = registry.get_model_version(name, number)
            if kind_of(version.tags) == kind:
                return version
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    versions = registered_versions(registry, kind)
    names = {version.name for version in versions}
    known = sorted(f"{version.name}@{version.version}" for version in versions)
    known += sorted(f"{name}@{alias}" for name in names for alias in aliases(registry, name))
    raise ValueError(f"there is no {kind} {reference!r} in {store.root}; there are: {', '.join(known) or 'none yet'}")


def make_champion(registry: MlflowClient, name: str, version: str, why: str) -> None:
    """The alias moves to `name@version`, which is there; the version's tags say since when and why."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    registry.set_model_version_tag(name, version, "champion.since", since)
    registry.set_model_version_tag(name, version, "champion.why", why)
    registry.set_registered_model_alias(name, CHAMPION, version)


def local_folder(store: Store, version: RegisteredVersion) -> Path:
    """The folder of a version's files, fetched once where a server hands them on."""
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
