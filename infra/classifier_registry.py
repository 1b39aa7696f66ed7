"""Classifiers in MLflow's registry: bundles as versions, found by name and brought into the store by hash.

A version's files are the bundle itself (tasks/classifiers/bundle.py), so that what is fetched is verified by the hash
that its tags state. A new version is `candidate`; who becomes `champion` the gate decides (flows/classifier_gate.py).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.tracking import MlflowClient

from infra.mlflow_tracker import MlflowTracker
from infra.registered_versions import (
    CHAMPION,
    RUN_TAG,
    aliases,
    find_version,
    kind_of,
    kind_tags,
    local_folder,
    make_champion,
)
from infra.registration import Registration
from infra.settings import has_history
from infra.tracking_client import answered, client
from tasks.classifiers.bundle import CARD_FILE, Bundle, load_bundle
from tasks.model_cache import add_bundle
from tasks.model_files import ModelReference
from tasks.store import Store, checked_name
from tasks.transient import UnavailableError

BUNDLE_TAG = "bundle_sha256"
_PIN = "#sha256="
_PIN_WAIT_S = 2.0
"""For an answer that a run can do without."""
_DIGEST_CHARS = 36  # all that MLflow holds of a data set's
_MAX_VERSIONS = 10_000


@dataclass(frozen=True)
class ClassifierVersion:
    """A registered classifier whose bundle is in the store."""

    reference: str  # name@version
    sha256: str  # of its bundle
    folder: Path  # of its bundle, among the store's models
    tags: Mapping[str, str]

    @property
    def pinned(self) -> str:
        """As a recipe names this very version: `toxicity@3#sha256=...`."""
        return f"{self.reference}{_PIN}{self.sha256}"

    @property
    def run_id(self) -> str:
        """The run that registered it, which is an earlier one where that made the same bundle."""
        return self.tags[RUN_TAG]

    @property
    def bundle(self) -> Bundle:
        """ValueError, with both hashes, where its files are not what was registered."""
        return load_bundle(self.folder, self.sha256)


def check_classifier_name(store: Store, name: str) -> None:
    """ValueError where `name` can be no classifier's: its form, or a language model that has it."""
    registry = client(store)
    found = registry.search_model_versions(f"name = '{checked_name(name, 'classifier name')}'", max_results=1)
    if any(kind_of(version.tags) != "classifier" for version in found):
        raise ValueError(f"{name!r} is the name of a language model in {store.root}: give the classifier another")


def register_classifier(
    store: Store, tracker: MlflowTracker, *, folder: Path, tags: Mapping[str, str] | None = None
) -> ClassifierVersion:
    """Log the bundle in `folder` as a model of the run, register it as the next version, and make that `candidate`.

    Its card is the version's description. Waits where the server is away, as `answered` does. A bundle is registered
    once, however often it is tried: the version that has it already, of whatever run, becomes `candidate` again.
    ValueError where the name is a language model's, or the bundle is not whole.
    """
    bundle = load_bundle(folder)
    classifier = bundle.classifier
    check_classifier_name(store, classifier.name)
    add_bundle(folder, store.models)
    registration = Registration(
        registry=client(store),
        tracker=tracker,
        name=classifier.name,
        identity=(BUNDLE_TAG, bundle.sha256),
        tags={**(tags or {}), **kind_tags("classifier"), **_facts(bundle)},
        model_type="fastText classifier",
        parameters={name: str(value) for name, value in classifier.training.model_dump().items()},
    )

    def save(files: Path, _: str) -> None:
        shutil.copytree(bundle.folder, files)

    known = registration.answered(lambda: _registered(store, bundle))
    version = known or registration.version(save, lambda model_id: _scores(bundle, model_id, tracker.run_id))
    registration.make_candidate(version, (folder / CARD_FILE).read_text(encoding="utf-8"))
    return _in_store(store, f"{classifier.name}@{version.version}", folder, version.tags)


def fetch_classifier(store: Store, reference: str) -> ClassifierVersion:
    """The classifier named by `name` (its champion), `name@alias`, `name@version` or `name@version#sha256=...`, its
    bundle put into the store.

    ValueError, saying what there is, where there is none; with both hashes where it is not the one that is pinned, or
    its files are not what was registered.
    """
    name, _, wanted = reference.partition(_PIN)
    version = find_version(store, client(store), name, "classifier")
    found = f"{version.name}@{version.version}"
    if wanted and wanted != version.tags[BUNDLE_TAG]:
        raise ValueError(
            f"{found} in {store.root} has the hash {version.tags[BUNDLE_TAG]}, and {wanted} is asked for: it is another"
            " registry's classifier; name one of this registry's, or give the folder of the other by its path"
        )
    return _in_store(store, found, local_folder(store, version), version.tags)


def check_pin(store: Store, pinned: ModelReference) -> None:
    """ValueError where `pinned`, whose bundle is in the store, names the bundle of another classifier or version.

    Its name is the bundle's own. Its version is the registry's to know, where that answers and has the bundle: one that
    has been deleted there, or that has come from another machine, is as its hash says.
    """
    named = f"{pinned.name}@{pinned.version_or_alias}"
    classifier = load_bundle(store.models / pinned.sha256, pinned.sha256).classifier
    if classifier.name != pinned.name:
        raise ValueError(f"{named} is pinned to {pinned.sha256}, which is the classifier {classifier.name}: mend one")
    if not has_history(store):
        return
    try:
        hashes = answered(lambda: _hashes(store, pinned.name), f"looking for {named}", _PIN_WAIT_S)
    except UnavailableError:
        return
    found = hashes.get(pinned.version_or_alias, "")
    others = [version for version, sha256 in hashes.items() if sha256 == pinned.sha256]
    if found != pinned.sha256 and (found or others):
        known = f" has the hash {found}" if found else " is not registered"
        theirs = f", which is {pinned.name}@{others[0]}'s" if others else ""
        raise ValueError(f"{named} in {store.root}{known}, and is pinned to {pinned.sha256}{theirs}: mend the pin")


def _versions(store: Store, name: str) -> list[RegisteredVersion]:
    """Every version of a classifier, in ascending order."""
    found = client(store).search_model_versions(f"name = '{name}'", max_results=_MAX_VERSIONS)
    return sorted((one for one in found if kind_of(one.tags) == "classifier"), key=lambda one: int(one.version))


def _hashes(store: Store, name: str) -> dict[str, str]:
    """Of every version of a classifier, the hash of its bundle."""
    return {str(one.version): one.tags[BUNDLE_TAG] for one in _versions(store, name)}


def _registered(store: Store, bundle: Bundle) -> RegisteredVersion | None:
    """The latest version that is this very bundle; None where none is."""
    same = [one for one in _versions(store, bundle.classifier.name) if one.tags[BUNDLE_TAG] == bundle.sha256]
    return same[-1] if same else None


def champion_reference(store: Store, name: str) -> str:
    """`name@version` of the champion; empty where there is none. Nothing is fetched."""
    version = aliases(client(store), name).get(CHAMPION)
    return f"{name}@{version}" if version else ""


def classifier_champion(store: Store, name: str) -> ClassifierVersion | None:
    """The champion of the classifier `name`, fetched; None where it has none."""
    reference = champion_reference(store, name)
    return fetch_classifier(store, reference) if reference else None


def move_classifier_champion(store: Store, version: ClassifierVersion, why: str) -> None:
    """Make it the champion; its tags say since when and why."""
    name, _, number = version.reference.partition("@")
    make_champion(client(store), name, number, why)


def tag_classifier(store: Store, version: ClassifierVersion, tags: Mapping[str, str]) -> None:
    """Note on the version what was decided about it."""
    registry: MlflowClient = client(store)
    name, _, number = version.reference.partition("@")
    for key, value in tags.items():
        registry.set_model_version_tag(name, number, key, value)


def _in_store(store: Store, reference: str, folder: Path, tags: Mapping[str, str]) -> ClassifierVersion:
    """The version whose bundle lies in `folder`, which must be the one that its tags state."""
    wanted = tags[BUNDLE_TAG]
    load_bundle(folder, wanted)
    return ClassifierVersion(reference, wanted, store.models / add_bundle(folder, store.models), dict(tags))


def _facts(bundle: Bundle) -> dict[str, str]:
    """What a reader of the registry's page is to know of it."""
    classifier = bundle.classifier
    return {
        "task": classifier.task,
        "positive": classifier.positive,
        "threshold": f"{classifier.threshold:.6g}",
        "false_alarm_fraction": f"{classifier.false_alarm_fraction:g}",
        "languages": ", ".join(classifier.languages),
        "licence": classifier.licence,
        "model_sha256": classifier.model_sha256,
    }


def _scores(bundle: Bundle, model_id: str, run_id: str) -> list[Metric]:
    """The held-out figures, as metrics of the model, and of the run, on the first of its data sets."""
    now = int(time.time() * 1000)
    first = next(iter(bundle.classifier.data), None)
    on = {"dataset_name": first.name, "dataset_digest": first.sha256[:_DIGEST_CHARS]} if first else {}
    return [
        Metric(name, value, now, 0, model_id=model_id, run_id=run_id, **on)
        for name, value in bundle.classifier.scores.items()
    ]
