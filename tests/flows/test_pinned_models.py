"""Names of the registry in forms and commands: pinned when a run begins, and in the command that goes on after it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.arguments import parser
from flows.command_line import pipeline_command, preview_command, refresh_command
from flows.parameters import Curation, PipelineParameters, PreviewParameters, RefreshParameters, Rules
from flows.pinned_models import pinned_parameters, pinned_rules, resolved_recipe
from infra.classifier_registry import ClassifierVersion, move_classifier_champion, register_classifier
from infra.mlflow_tracker import tracked_run
from infra.tracking_client import client
from tasks.store import Store
from tasks.used_models import used_models
from tests.infra.small_classifier import small_bundle

QUALITY = 'quality_rules=[{"kind":"quality","model":"tone@champion","min_score":0.5}]'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Store.open(tmp_path_factory.mktemp("store"))
        (store.root / "mlflow" / "artifacts").mkdir(parents=True)
        yield store


@pytest.fixture(scope="module")
def tone(store: Store) -> ClassifierVersion:
    """tone@1, the champion."""
    bundle = small_bundle(store.root / "made" / "tone")
    with tracked_run(store, "train classifier", tags={}) as tracker:
        version = register_classifier(store, tracker, folder=bundle.folder)
    move_classifier_champion(store, version, "the only one")
    return version


def test_the_recipe_and_every_command_name_the_version(store: Store, tone: ClassifierVersion) -> None:
    curation = Curation(recipe="smoke", settings=[QUALITY, "num_buckets=8"])
    recipe = resolved_recipe(store, curation)
    assert used_models(recipe)[-1] == tone.pinned
    settings = [QUALITY.replace("tone@champion", tone.pinned), "num_buckets=8"]
    assert pinned_rules(curation, recipe).settings == settings

    refresh = refresh_command(store, pinned_parameters(RefreshParameters(curation=curation), recipe))
    assert parser().parse_args(shlex.split(refresh)[1:]).settings == settings
    pipeline = pipeline_command(store, pinned_parameters(PipelineParameters(curation=curation), recipe))
    assert parser().parse_args(shlex.split(pipeline)[1:]).settings == [f"curation.{each}" for each in settings]
    rules = pinned_rules(Rules(recipe="smoke", settings=[QUALITY, "num_buckets=8"]), recipe)
    preview = preview_command(store, PreviewParameters(rules=rules))
    assert parser().parse_args(shlex.split(preview)[1:]).settings == settings

    pinned = pinned_rules(curation, recipe)
    assert resolved_recipe(store, pinned) == recipe and pinned_rules(pinned, recipe) == pinned


def test_a_version_is_pinned_as_an_alias_is(store: Store, tone: ClassifierVersion) -> None:
    rules = Rules(recipe="smoke", settings=[QUALITY.replace("champion", "1")])
    assert pinned_rules(rules, resolved_recipe(store, rules)).settings == [
        QUALITY.replace("tone@champion", tone.pinned)
    ]


def test_what_names_no_model_stays_and_no_database_is_made(tmp_path: Path) -> None:
    store, rules = Store.open(tmp_path / "new"), Rules(recipe="smoke", settings=["num_buckets=8"])
    assert pinned_rules(rules, resolved_recipe(store, rules)) == rules
    assert not list(store.root.iterdir())


def test_an_unknown_alias_is_refused_before_anything_is_read(store: Store, tone: ClassifierVersion) -> None:
    rules = Rules(recipe="smoke", settings=[QUALITY.replace("champion", "staging")])
    with pytest.raises(ValueError, match=r"no classifier 'tone@staging' in .*there are: tone@1, tone@candidate") as no:
        resolved_recipe(store, rules)
    assert "\n" not in str(no.value)


def test_a_bundle_that_was_damaged_in_the_store_is_refused_with_both_hashes(
    store: Store, tone: ClassifierVersion
) -> None:
    bundle = small_bundle(store.root / "made" / "other", name="other")
    with tracked_run(store, "train classifier", tags={}) as tracker:
        version = register_classifier(store, tracker, folder=bundle.folder)
    (version.folder / "model.ftz").write_bytes(b"another model")
    rules = Rules(recipe="smoke", settings=[QUALITY.replace("tone@champion", version.pinned)])
    with pytest.raises(ValueError, match=r"model\.ftz.*[0-9a-f]{64}.*[0-9a-f]{64}"):
        resolved_recipe(store, rules)
    assert client(store).get_model_version("other", "1").tags["bundle_sha256"] == version.sha256
