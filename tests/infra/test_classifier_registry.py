"""Classifiers as registered versions: found by name, verified by hash, named by recipes; on a real database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.classifier_registry import (
    ClassifierVersion,
    champion_reference,
    check_classifier_name,
    classifier_champion,
    fetch_classifier,
    move_classifier_champion,
    register_classifier,
    tag_classifier,
)
from infra.mlflow_tracker import tracked_run
from infra.recipe_models import bring_models, models_tag, pinned_names, resolve_models
from infra.registered_versions import local_folder
from infra.registry import find_model, model_references
from infra.tracking_client import client
from tasks.classifiers.bundle import Bundle, load_bundle
from tasks.recipes.curation import CurationRecipe
from tasks.recipes.rules import rule
from tasks.store import Store
from tasks.used_models import used_models
from tests.infra.small_classifier import small_bundle, text
from tests.infra.test_registry import PASSWORD, USER, served  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with MLflow's database, which takes seconds to make."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store.open(tmp_path_factory.mktemp("store"))
        (store.root / "mlflow" / "artifacts").mkdir(parents=True)
        client(store).search_registered_models()
        yield store


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two that differ."""
    folder = tmp_path_factory.mktemp("bundles")
    return small_bundle(folder / "first"), small_bundle(folder / "second", seed=2)


def named(bundle: Bundle, name: str, folder: Path) -> Bundle:
    """The same classifier by another name, which is another bundle."""
    shutil.copytree(bundle.folder, folder)
    file = folder / "classifier.json"
    file.write_text(file.read_text().replace('"name": "tone"', f'"name": "{name}"'))
    return load_bundle(folder)


def registered(store: Store, bundle: Bundle) -> ClassifierVersion:
    with tracked_run(store, "train classifier", tags={}) as tracker:
        return register_classifier(store, tracker, folder=bundle.folder)


@pytest.fixture(scope="module")
def tone(store: Store, bundles: tuple[Bundle, Bundle]) -> list[ClassifierVersion]:
    """tone@1, the champion, and tone@2, the candidate."""
    versions = [registered(store, bundle) for bundle in bundles]
    move_classifier_champion(store, versions[0], "it is the only one")
    return versions


def recipe_with(model: str) -> CurationRecipe:
    quality = rule("quality", model=model, min_score=0.5)
    return CurationRecipe(name="named", quality_rules=(rule("gopher_quality"), quality), toxicity_rules=())


def named_models(recipe: CurationRecipe) -> tuple[str, ...]:
    """What its rules name their models by."""
    return tuple(name for name in used_models(recipe) if "#sha256=" in name and not name.startswith("embedded"))


def test_run_model_version_and_card_lead_to_each_other(store: Store, tone: list[ClassifierVersion]) -> None:
    assert [version.reference for version in tone] == ["tone@1", "tone@2"]
    registry = client(store)
    version = registry.get_model_version("tone", "1")
    run = registry.get_run(version.run_id)
    (output,) = run.outputs.model_outputs
    model = registry.get_logged_model(output.model_id)
    assert str(model.status) == "READY" and model.source_run_id == run.info.run_id
    assert {metric.key: metric.value for metric in model.metrics} == {
        "recall": 0.9,
        "recall_low": 0.8,
        "recall_high": 0.95,
    }
    assert run.data.metrics["recall"] == 0.9
    assert version.description == (tone[0].folder / "card.md").read_text()
    assert version.tags["bundle_sha256"] == tone[0].sha256 and 0 < float(version.tags["threshold"]) < 1
    assert version.tags["mlflow_run_id"] == run.info.run_id and len(version.tags["code_version"]) == 64
    assert registry.get_registered_model("tone").aliases == {"candidate": 2, "champion": 1}


def test_the_files_of_a_version_are_the_bundle(
    store: Store, tone: list[ClassifierVersion], bundles: tuple[Bundle, Bundle]
) -> None:
    for version, bundle in zip(tone, bundles, strict=True):
        assert version.folder == store.models / bundle.sha256
        for file in bundle.folder.iterdir():
            assert (version.folder / file.name).read_bytes() == file.read_bytes()
        texts = [text(9001, angry=True), text(9002, angry=False)]
        assert version.bundle.probabilities(texts) == bundle.probabilities(texts)


def test_a_classifier_is_found_by_each_of_its_names(store: Store, tone: list[ClassifierVersion]) -> None:
    for reference, version in {
        "tone": tone[0],
        "tone@champion": tone[0],
        "tone@1": tone[0],
        "tone@candidate": tone[1],
        tone[1].pinned: tone[1],
    }.items():
        found = fetch_classifier(store, reference)
        assert (found.reference, found.sha256, found.folder) == (version.reference, version.sha256, version.folder)
    assert champion_reference(store, "tone") == "tone@1" and champion_reference(store, "absent") == ""
    held = classifier_champion(store, "tone")
    assert held is not None and held.tags["champion.why"] == "it is the only one"
    assert classifier_champion(store, "absent") is None


def test_a_second_try_finds_the_version_of_the_first(
    store: Store, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    bundle = named(bundles[0], "again", tmp_path / "again")
    with tracked_run(store, "again", tags={}) as tracker:
        first = register_classifier(store, tracker, folder=bundle.folder)
        client(store).delete_registered_model_alias("again", "candidate")  # as a kill between the two leaves it
        assert register_classifier(store, tracker, folder=bundle.folder).reference == first.reference == "again@1"
    assert fetch_classifier(store, "again@candidate").reference == "again@1"
    assert len(client(store).get_run(tracker.run_id).outputs.model_outputs) == 1


@pytest.mark.parametrize("reference", ["absent@1", "tone@9", "tone@staging", "absent"])
def test_what_there_is_none_of_is_refused_with_what_there_is(
    store: Store, tone: list[ClassifierVersion], reference: str
) -> None:
    with pytest.raises(ValueError, match=f"no classifier '{reference}'.*tone@1, tone@2, .*tone@champion") as refused:
        fetch_classifier(store, reference)
    assert "\n" not in str(refused.value)


def test_classifiers_and_language_models_are_never_taken_for_each_other(
    store: Store, tone: list[ClassifierVersion], bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    registry = client(store)
    registry.create_registered_model("docs-smoke")
    registry.create_model_version("docs-smoke", source=str(tmp_path), tags={"checkpoint": "/elsewhere"})
    with pytest.raises(ValueError, match="no classifier 'docs-smoke@1'"):
        fetch_classifier(store, "docs-smoke@1")
    with pytest.raises(ValueError, match=r"no model 'tone@1'.*there are: docs-smoke@1$"):
        find_model(store, "tone@1")
    assert [model.name for model in model_references(store)] == ["docs-smoke"]
    check_classifier_name(store, "tone")
    check_classifier_name(store, "new")
    with pytest.raises(ValueError, match="'docs-smoke' is the name of a language model"):
        registered(store, named(bundles[0], "docs-smoke", tmp_path / "clash"))


def test_files_that_are_not_what_was_registered_are_refused_with_both_hashes(
    store: Store, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    version = registered(store, named(bundles[0], "damaged", tmp_path / "damaged"))
    shutil.rmtree(version.folder)
    folder = local_folder(store, client(store).get_model_version("damaged", "1"))
    model = folder / "model.ftz"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(ValueError, match=r"[0-9a-f]{64}.*[0-9a-f]{64}"):
        fetch_classifier(store, "damaged@1")
    assert not version.folder.exists()


def test_what_was_decided_is_noted_on_the_version(store: Store, tone: list[ClassifierVersion]) -> None:
    tag_classifier(store, tone[1], {"gate.passed": "false", "gate.why": "no better"})
    assert fetch_classifier(store, "tone@2").tags["gate.why"] == "no better"


def test_a_recipe_names_version_and_hash_whoever_is_champion_later(
    store: Store, tone: list[ClassifierVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe_with("tone@champion")
    resolved = resolve_models(store, asked)
    assert named_models(resolved) == (tone[0].pinned,)
    assert pinned_names(asked, resolved) == {"tone@champion": tone[0].pinned}
    assert models_tag(resolved)["tokenmill.models"].endswith(f", {tone[0].pinned}")
    assert resolved.model_copy(update={"quality_rules": asked.quality_rules}) == asked
    assert CurationRecipe.model_validate_json(resolved.model_dump_json()) == resolved

    move_classifier_champion(store, tone[1], "for this test")
    try:
        assert named_models(resolve_models(store, asked)) == (tone[1].pinned,)
        assert named_models(resolve_models(store, recipe_with("tone@1"))) == (tone[0].pinned,)
    finally:
        move_classifier_champion(store, tone[0], "it is the only one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # what is pinned and here needs nobody
    assert resolve_models(store, resolved) == resolved


def test_a_pin_on_the_hash_of_another_version_is_refused(store: Store, tone: list[ClassifierVersion]) -> None:
    for version, said in (("2", f"tone@2 .*has the hash {tone[1].sha256}"), ("9", "tone@9 .*is not registered")):
        with pytest.raises(ValueError, match=f"{said}.* pinned to {tone[0].sha256}, which is tone@1's") as refused:
            resolve_models(store, recipe_with(f"tone@{version}#sha256={tone[0].sha256}"))
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=f"anger@1 is pinned to {tone[0].sha256}, which is the classifier tone"):
        resolve_models(store, recipe_with(f"anger@1#sha256={tone[0].sha256}"))


def test_a_pin_is_as_its_hash_says_where_the_registry_knows_neither(
    tone: list[ClassifierVersion], tmp_path: Path
) -> None:
    other = Store.open(tmp_path / "other")
    shutil.copytree(tone[0].folder, other.models / tone[0].sha256)
    pinned = recipe_with(tone[0].pinned)
    assert resolve_models(other, pinned) == pinned
    assert not (other.root / "mlflow").exists()  # nobody was asked


def test_the_same_bundle_of_another_run_is_no_new_version(
    store: Store, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    first, second = (named(bundle, "once", tmp_path / str(n)) for n, bundle in enumerate(bundles))
    versions = [registered(store, bundle) for bundle in (first, second, first)]
    assert [version.reference for version in versions] == ["once@1", "once@2", "once@1"]
    assert versions[2].run_id == versions[0].run_id != versions[1].run_id
    assert client(store).get_registered_model("once").aliases == {"candidate": 1}


def test_a_classifier_without_its_card_is_refused_before_it_is_registered(
    store: Store, bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    bundle = named(bundles[0], "bare", tmp_path / "bare")
    (bundle.folder / "card.md").unlink()
    with pytest.raises(ValueError, match=r"has no card\.md"):
        registered(store, bundle)
    assert not client(store).search_model_versions("name = 'bare'")


def test_a_pinned_classifier_that_is_not_here_is_brought(store: Store, tone: list[ClassifierVersion]) -> None:
    shutil.rmtree(tone[1].folder)
    pinned = recipe_with(tone[1].pinned)
    assert resolve_models(store, pinned) == pinned
    assert load_bundle(tone[1].folder, tone[1].sha256).classifier.name == "tone"


def test_a_pin_on_another_registry_is_refused_with_both_hashes(store: Store, tone: list[ClassifierVersion]) -> None:
    with pytest.raises(ValueError, match=f"{tone[0].sha256}.*{'0' * 64}"):
        resolve_models(store, recipe_with(f"tone@1#sha256={'0' * 64}"))


def test_what_a_version_was_made_with_is_brought_by_its_hash(
    store: Store, tone: list[ClassifierVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tone[1].folder)
    bring_models(store, recipe_with(tone[1].pinned))
    assert load_bundle(tone[1].folder, tone[1].sha256)
    with pytest.raises(ValueError, match=rf"{'0' * 64}.*doctor --store {store.root} --model '/its/folder#") as refused:
        bring_models(store, recipe_with(f"tone@1#sha256={'0' * 64}"))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"/a\.ftz#sha256=0+ is not in the store; bring it with `tokenmill doctor"):
        bring_models(store, recipe_with(f"/a.ftz#sha256={'0' * 64}"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    bring_models(store, recipe_with(f"tone@9#sha256={tone[0].sha256}"))  # numbers may have begun again since


def test_an_alias_that_does_not_exist_is_one_line_that_names_what_there_is(
    store: Store, tone: list[ClassifierVersion]
) -> None:
    with pytest.raises(ValueError, match=r"no classifier 'tone@staging' in .*; there are: .*tone@1") as refused:
        resolve_models(store, recipe_with("tone@staging"))
    assert "\n" not in str(refused.value)


@given(st.sampled_from(["", "/models/a.ftz#sha256=" + "a" * 64, "https://example.org/b.bin#sha256=" + "b" * 64]))
def test_what_is_no_registered_name_stays_and_asks_nobody(model: str) -> None:
    recipe = recipe_with(model)
    nowhere = Store(Path("/nonexistent"))
    assert resolve_models(nowhere, recipe) is recipe
    assert named_models(recipe) == ((model,) if model else ())


@pytest.mark.verify
def test_a_server_that_hands_artifacts_on(
    served: str,  # noqa: F811
    bundles: tuple[Bundle, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another machine, with a store of its own, gets the bundle from the server, and verifies it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    here, there = Store.open(tmp_path / "here"), Store.open(tmp_path / "there")
    version = registered(here, bundles[0])
    assert str(client(here).get_model_version("tone", "1").source).startswith("mlflow-artifacts:/")
    resolved = resolve_models(there, recipe_with("tone@candidate"))
    assert named_models(resolved) == (version.pinned,)
    assert load_bundle(there.models / version.sha256, version.sha256).classifier == bundles[0].classifier
