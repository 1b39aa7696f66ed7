"""The models that recipes need, with those of MLflow's registry; and bringing what is missing, when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from infra.classifier_registry import BUNDLE_TAG, check_pin, fetch_classifier
from infra.registered_versions import find_version
from infra.tracking_client import answered, client
from tasks.model_cache import fetch_model
from tasks.model_files import ModelReference, parse_model
from tasks.needed_files import NeededFile, needed_files
from tasks.recipes.curation import CurationRecipe
from tasks.stages import Progress
from tasks.store import Store

_REGISTRY_WAIT_S = 5.0


def needed_models(
    store: Store, recipes: Sequence[CurationRecipe], references: Sequence[str] = ()
) -> tuple[NeededFile, ...]:
    """`tasks.needed_files`, where what the registry holds is no problem: a run takes it from there by itself.

    Nothing is fetched. Raises ValueError for an impossible name.
    """
    return tuple(_in_registry(store, file) for file in needed_files(recipes, store, references))


def fetch_missing(store: Store, files: Sequence[NeededFile], progress: Progress) -> tuple[NeededFile, ...]:
    """Bring the models that are not in the store. Of what could not be brought, the problem says why."""
    return tuple(_fetched(store, file, progress) for file in files)


def _in_registry(store: Store, file: NeededFile) -> NeededFile:
    """A model of the registry as the registry knows it, if it is not in the store."""
    parsed = parse_model(file.reference)
    if parsed.kind != "registry":
        return file
    if not file.problem:
        return _pinned(store, file, parsed)
    if parsed.sha256 and (store.models / parsed.sha256).is_dir():  # it is damaged, and a run refuses it
        return file
    name = f"{parsed.name}@{parsed.version_or_alias}"
    try:
        version = answered(
            lambda: find_version(store, client(store), name, "classifier"), f"looking for {name}", _REGISTRY_WAIT_S
        )
    except ValueError as error:
        return _hopeless(file, str(error))
    sha256 = version.tags[BUNDLE_TAG]
    if parsed.sha256 not in ("", sha256):
        problem = f"{name} in MLflow's registry is another classifier: its hash is {sha256}, and not {parsed.sha256}"
        return _hopeless(file, problem)
    registered = f"{version.name}@{version.version}"
    (here,) = needed_files((), store, (f"{registered}#sha256={sha256}",))
    if not here.problem:
        return replace(here, used_by=file.used_by, reference=file.reference, origin=f"{registered}: {here.origin}")
    origin = f"{registered} in MLflow's registry, from where a run takes it"
    licence = version.tags.get("licence", file.licence)
    return replace(file, problem="", fetchable=False, sha256=sha256, origin=origin, licence=licence)


def _pinned(store: Store, file: NeededFile, parsed: ModelReference) -> NeededFile:
    """One that is in the store, whose name may be another's."""
    try:
        check_pin(store, parsed)
    except ValueError as error:
        return _hopeless(file, str(error))
    return file


def _hopeless(file: NeededFile, problem: str) -> NeededFile:
    return replace(file, problem=problem, fetchable=False)


def _fetched(store: Store, file: NeededFile, progress: Progress) -> NeededFile:
    parsed = parse_model(file.reference)
    if not (file.fetchable or _only_in_registry(store, file, parsed)):
        return file
    try:
        if parsed.kind == "registry":
            fetch_classifier(store, file.reference)
        else:
            fetch_model(file.reference, store.models, progress)
    except ValueError as error:
        return _hopeless(file, str(error))
    except OSError as error:  # the disk is full, or the file may not be read
        return _hopeless(file, f"it could not be fetched: {error}")
    (here,) = needed_files((), store, (file.reference,))
    return replace(_in_registry(store, here), used_by=file.used_by)


def _only_in_registry(store: Store, file: NeededFile, parsed: ModelReference) -> bool:
    return parsed.kind == "registry" and not file.problem and not (store.models / file.sha256).is_dir()
