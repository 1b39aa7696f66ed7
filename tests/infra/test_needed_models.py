"""Models of MLflow's registry among those that a recipe needs, and bringing what is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from infra.classifier_registry import register_classifier
from infra.mlflow_tracker import tracked_run
from infra.needed_models import fetch_missing, needed_models
from infra.settings import environment
from tasks.classifiers.bundle import Bundle
from tasks.stages import no_progress
from tasks.store import Store
from tests.tasks.small_bundle import small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("trained") / "taste")


def test_files_are_fetched_and_what_cannot_be_says_why(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    good.write_bytes(b"model")
    bad.write_bytes(b"another")
    sha256 = hashlib.sha256(b"model").hexdigest()
    unreadable = f"/proc/self/mem#sha256={'1' * 64}"  # an error of the operating system's, also for root
    references = [f"{good}#sha256={sha256}", f"{bad}#sha256={'0' * 64}", unreadable]
    files = needed_models(store, [], references)
    assert all(file.problem and file.fetchable for file in files) and not store.models.exists()
    fetched = {file.name: file for file in fetch_missing(store, files, no_progress)}
    assert not any(file.fetchable for file in fetched.values())
    assert fetched["good.bin"].problem == "" and fetched["good.bin"].size_bytes == 5
    assert (
        "0" * 64 in fetched["bad.bin"].problem and hashlib.sha256(b"another").hexdigest() in fetched["bad.bin"].problem
    )
    assert fetched["mem"].problem.startswith("it could not be fetched: [Errno ")
    assert [file.problem for file in needed_models(store, [], references[:1])] == [""]
    assert sorted(path.name for path in store.models.iterdir()) == [sha256]


def test_what_the_registry_has_is_no_problem_and_can_be_brought_before(tmp_path: Path, bundle: Bundle) -> None:
    store = Store.open(tmp_path / "store")
    environment(store)
    with tracked_run(store, "train", tags={}) as tracker:
        version = register_classifier(store, tracker, folder=bundle.folder)
    for name in store.models.iterdir():  # another machine's store, which shares the registry
        for file in name.iterdir():
            file.unlink()
        name.rmdir()
    references = ["taste@candidate", version.pinned, "taste@9", f"taste@1#sha256={'0' * 64}", "sweets@champion"]
    found = {file.reference: file for file in needed_models(store, [], references)}
    for reference in references[:2]:
        assert found[reference].problem == "" and found[reference].sha256 == bundle.sha256
        assert found[reference].origin == "taste@1 in MLflow's registry, from where a run takes it"
        assert found[reference].licence == "CC0-1.0"
    assert "there is no classifier 'taste@9'" in found["taste@9"].problem and "taste@1" in found["taste@9"].problem
    other = found[f"taste@1#sha256={'0' * 64}"].problem
    assert bundle.sha256 in other and "0" * 64 in other
    assert "there is no classifier 'sweets@champion'" in found["sweets@champion"].problem
    assert not any(file.fetchable for file in found.values())
    assert not list(store.models.iterdir())
    (brought,) = fetch_missing(store, [found[version.pinned]], no_progress)
    assert brought.problem == "" and brought.name == "classifier taste"
    (by_alias,) = needed_models(store, [], ["taste@candidate"])
    assert (by_alias.reference, by_alias.sha256) == ("taste@candidate", bundle.sha256)
    assert by_alias.size_bytes == brought.size_bytes == sum(file.stat().st_size for file in bundle.files())
    assert by_alias.origin == f"taste@1: {bundle.classifier.origin}"
    (wrong,) = needed_models(store, [], [version.pinned.replace("taste@1", "taste@9")])
    assert "taste@9" in wrong.problem and "which is taste@1's" in wrong.problem and not wrong.fetchable
    (store.models / bundle.sha256 / "seen.npy").write_bytes(b"another")
    (damaged,) = needed_models(store, [], [version.pinned])
    assert "not what its hash says" in damaged.problem and damaged.fetchable
    (mended,) = fetch_missing(store, [damaged], no_progress)
    assert mended.problem == ""
    assert [path.name for path in store.models.iterdir()] == [bundle.sha256]
