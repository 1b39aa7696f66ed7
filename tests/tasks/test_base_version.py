"""Whether a version is built onto the last one, and what the plan says of it; on manifests alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.base_version import has_index
from tasks.manifest import SCHEMA_VERSION
from tasks.model_cache import add_bundle
from tasks.recipes.curation import CurationRecipe, fineweb, resolve_curation_recipe
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.tombstones import TombstoneRule, Tombstones
from tasks.used_models import used_models
from tests.tasks.small_bundle import small_bundle

RULE = TombstoneRule(kind="domain", value="gone.example")


def publish(refresh: Refresh, **changes: Any) -> None:
    """The manifest that this refresh would end with, without any stage."""
    folder = refresh.store.corpora / refresh.name / str(refresh.version)
    folder.mkdir(parents=True)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": refresh.name,
        "version": refresh.version,
        "digest": f"{refresh.version:064x}",
        "parts": [{"path": f"{kind}/bucket-000.parquet"} for kind in ("documents", "index")],
        **refresh.facts,
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def plan(root: Path, recipe: CurationRecipe | None = None, **options: Any) -> Refresh:
    return Refresh.plan(Store.open(root / "store"), "web", [str(root / "watched")], recipe or fineweb(), **options)


def row(folder: Path, name: str, text: str = "x") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"text": text}) + "\n")
    return folder / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A watched folder whose one file is in version 1; a second has come."""
    row(tmp_path / "watched", "one.jsonl")
    publish(plan(tmp_path))
    row(tmp_path / "watched", "two.jsonl")
    return tmp_path


def names(refresh: Refresh) -> list[str]:
    return [Path(entry.path).name for entry in refresh.inputs_to_read]


def test_what_comes_is_built_onto_the_last_version(root: Path) -> None:
    refresh = plan(root)
    assert refresh.mode_reason == "onto web@1" and refresh.facts["base"] == 1
    assert refresh.base == refresh.last and refresh.base_dir == root / "store" / "corpora" / "web" / "1"
    assert names(refresh) == ["two.jsonl"] and len(refresh.inputs) == 2 and refresh.carried_dir is None
    assert [path.name for path in refresh.base_ledgers] == [f"bucket-{index:03d}.parquet" for index in range(16)]
    assert plan(root, write=False).base_dir is None  # only a run may fetch
    (root / "watched" / "one.jsonl").unlink()  # is not needed any more
    assert names(plan(root)) == ["two.jsonl"]


def test_the_first_version_is_made_of_everything(tmp_path: Path) -> None:
    row(tmp_path / "watched", "one.jsonl")
    refresh = plan(tmp_path)
    assert (refresh.mode_reason, refresh.base, refresh.base_ledgers) == ("the first version", None, ())
    assert refresh.facts["base"] == 0


CHANGED_SETTINGS = {
    "reading.max_page_bytes=5000": "the limits of reading changed",
    "gopher_quality.min_words=30": "the quality rules changed",
    "toxicity.max_toxicity=0.9": "the toxicity rules changed",
    "deduplication.min_jaccard=0.8": "the settings of deduplication changed",
    "deduplication.order=longest": "the settings of deduplication changed",
    "num_buckets=4": "the number of buckets changed",
}


@pytest.mark.parametrize("setting", CHANGED_SETTINGS)
def test_a_setting_that_decides_makes_everything_again(root: Path, setting: str) -> None:
    name, _, value = setting.partition("=")
    refresh = plan(root, resolve_curation_recipe("fineweb", {name: value}))
    assert refresh.mode_reason == f"everything again: {CHANGED_SETTINGS[setting]}"
    assert names(refresh) == ["one.jsonl", "two.jsonl"] and refresh.base_dir is None and refresh.base_ledgers == ()


@pytest.mark.parametrize("setting", ["shard_records=7", "shard_bytes=2000000"])
def test_a_setting_of_how_it_is_done_does_not(root: Path, setting: str) -> None:
    name, _, value = setting.partition("=")
    assert plan(root, resolve_curation_recipe("fineweb", {name: value})).mode_reason == "onto web@1"


def test_another_name_for_the_same_model_does_not_and_another_model_does(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    first, second = (
        add_bundle(small_bundle(tmp_path / name, name).folder, store.models) for name in ("taste", "other")
    )
    row(tmp_path / "watched", "one.jsonl")
    publish(plan(tmp_path, resolve_curation_recipe("dclm", {"quality.model": f"taste@3#sha256={first}"})))
    for model, mode in (
        (f"taste@4#sha256={first}", "onto web@1"),
        (f"taste@4#sha256={second}", "everything again: the quality rules changed"),
    ):
        assert plan(tmp_path, resolve_curation_recipe("dclm", {"quality.model": model})).mode_reason == mode


def test_the_manifest_names_the_models_and_a_takedown_leaves_them_as_they_are(root: Path) -> None:
    assert plan(root).facts["models"] == list(used_models(fineweb()))
    manifest = root / "store" / "corpora" / "web" / "1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "models": ["embedded earlier#sha256=0"]}))
    taken = Refresh.takedown(Store.open(root / "store"), "web", Tombstones(rules=(RULE,)), {})
    assert taken.facts["models"] == ["embedded earlier#sha256=0"]


def test_what_only_the_sources_hold_now_is_made_again(root: Path) -> None:
    refresh = plan(root, replace=True)
    assert refresh.mode_reason == "everything again: only what the sources hold now is taken"


def test_a_changed_file_makes_everything_again(root: Path) -> None:
    row(root / "watched", "one.jsonl", "y" * 7)
    refresh = plan(root)
    assert refresh.mode_reason == f"everything again: {root / 'watched' / 'one.jsonl'} changed"
    assert names(refresh) == ["one.jsonl", "two.jsonl"]


def rewritten(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "store" / "corpora" / "web" / "1" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_version_without_an_index_is_not_built_onto(root: Path) -> None:
    def earlier_program(manifest: dict[str, Any]) -> None:
        manifest["parts"] = manifest["parts"][:1]
        for key in ("decided_by", "screening_runs", "base", "tombstones"):
            del manifest[key]

    rewritten(root, earlier_program)
    refresh = plan(root)
    assert refresh.mode_reason == "everything again: web@1 has no index"
    assert refresh.last is not None and not has_index(refresh.last)
    with pytest.raises(ValueError, match=r"web@1 .* has no index of its documents: refresh web first"):
        Refresh.takedown(refresh.store, "web", Tombstones(), {})


@pytest.mark.parametrize("stage", ["read", "extract", "language", "quality", "toxicity", "settle", "deduplication"])
def test_changed_code_that_decides_makes_everything_again(root: Path, stage: str) -> None:
    """Recorded as another one in the last version: as if that had been made before the change."""
    rewritten(root, lambda manifest: manifest["decided_by"].update({stage: "0" * 64}))
    refresh = plan(root)
    assert refresh.mode_reason == f"everything again: the code, a file or a library of {stage} changed"


def test_the_same_content_has_one_fingerprint_whichever_way_it_is_made(root: Path) -> None:
    onto = plan(root)
    rewritten(root, lambda manifest: manifest.update(parts=[]))
    again = plan(root)
    assert onto.base is not None and again.base is None
    assert onto.content_fingerprint == again.content_fingerprint
    assert {onto.stages[name].fingerprint for name in onto.stages}.isdisjoint(
        again.stages[name].fingerprint for name in again.stages
    )
    assert {name: stage.own_fingerprint for name, stage in onto.stages.items()} == {
        name: stage.own_fingerprint for name, stage in again.stages.items()
    }


def test_nothing_new_is_no_change_unless_something_is_taken_down(root: Path) -> None:
    publish(plan(root))
    refresh = plan(root)
    assert refresh.is_published and refresh.mode_reason == "onto web@2" and names(refresh) == []
    takedown = Refresh.takedown(refresh.store, "web", Tombstones(rules=(RULE,)), {})
    assert not takedown.is_published and names(takedown) == [] and takedown.mode_reason == "onto web@2"
    publish(takedown)
    again = Refresh.takedown(refresh.store, "web", Tombstones(rules=(RULE,)), {})
    assert again.is_published
    assert not Refresh.takedown(refresh.store, "web", Tombstones(), {"0-0": "document"}).is_published
    assert plan(root).is_published  # the tombstone stays, and was obeyed
    with pytest.raises(ValueError, match="there is no corpus 'other'"):
        Refresh.takedown(refresh.store, "other", Tombstones(), {})


def test_a_takedown_is_built_onto_the_last_version_whatever_has_changed_since(root: Path) -> None:
    recipe = resolve_curation_recipe("fineweb", {"deduplication.min_jaccard": "0.9", "num_buckets": "4"})
    publish(plan(root, recipe), decided_by={"read": "by an earlier program"})
    takedown = Refresh.takedown(Store.open(root / "store"), "web", Tombstones(rules=(RULE,)), {"0-0": "cluster"})
    assert takedown.recipe == recipe and takedown.version == 3 and takedown.base_dir is not None
    assert takedown.facts["decided_by"] == {"read": "by an earlier program"}  # still true of its records
    assert takedown.facts["tombstones"] == [RULE.model_dump(mode="json")]
    publish(takedown)
    assert plan(root, recipe).mode_reason.startswith("everything again: the code")  # and the next refresh sees it


def test_tombstones_stay_whatever_is_made_again(root: Path) -> None:
    takedown = Refresh.takedown(Store.open(root / "store"), "web", Tombstones(rules=(RULE,)), {})
    publish(takedown)
    for options in ({"replace": True}, {"recipe": resolve_curation_recipe("fineweb", {"num_buckets": "4"})}):
        refresh = plan(root, **options)
        assert refresh.tombstones.rules == (RULE,) and refresh.base is None
        assert refresh.carried_dir == root / "store" / "corpora" / "web" / "2"
    onto = plan(root)
    assert onto.tombstones.rules == (RULE,) and onto.carried_dir is None and onto.base_dir is not None


def test_other_signatures_than_those_of_what_was_taken_down_are_refused(root: Path) -> None:
    publish(Refresh.takedown(Store.open(root / "store"), "web", Tombstones(rules=(RULE,)), {}))
    recipe = resolve_curation_recipe("fineweb", {"deduplication.minhash.num_bands": "20"})
    with pytest.raises(ValueError, match=r"copies are recognised .* deduplication\.minhash\.num_bands=14: leave") as no:
        plan(root, recipe)
    assert "\n" not in str(no.value)


def test_tombstones_and_what_is_taken_down_enter_with_the_index_and_not_before(root: Path) -> None:
    store = Store.open(root / "store")
    plain, ruled, newly = (
        Refresh.takedown(store, "web", tombstones, ids)
        for tombstones, ids in (
            (Tombstones(), {}),
            (Tombstones(rules=(RULE,)), {}),
            (Tombstones(), {"0-0": "document"}),
        )
    )
    for one in (ruled, newly):
        same = {name for name in plain.stages if plain.stages[name].fingerprint == one.stages[name].fingerprint}
        assert same == {"inventory", "read", "extract", "language", "quality", "toxicity", "gather_runs", "gather"}


def test_the_runs_that_screened_its_records_are_kept_with_a_version(root: Path) -> None:
    publish(plan(root))
    publish(Refresh.takedown(Store.open(root / "store"), "web", Tombstones(rules=(RULE,)), {}))
    manifests = [
        json.loads((root / "store" / "corpora" / "web" / str(version) / "manifest.json").read_bytes())
        for version in (1, 2, 3)
    ]
    runs = [manifest["screening_runs"] for manifest in manifests]
    assert [len(each) for each in runs] == [1, 2, 2] and runs[1][:1] == runs[0] and runs[2] == runs[1]
    assert all(
        manifest["fingerprints"][stage].startswith(folder)
        for manifest, each in zip(manifests[:2], runs[:2], strict=True)
        for stage, folder in each[-1].items()
    )
    row(root / "watched", "one.jsonl", "changed")
    assert len(plan(root).facts["screening_runs"]) == 1  # made again: of all files


EVENTS = st.lists(
    st.tuples(st.sampled_from(["add", "change", "remove", "replace", "recipe"]), st.integers(0, 3)), max_size=8
)


@settings(max_examples=60)
@given(events=EVENTS)
def test_any_history_ends_with_the_same_inputs_and_is_built_onto_where_that_is_allowed(
    events: list[tuple[str, int]],
) -> None:
    """Against a model: what is in the version, what is in the folder, and by which recipe it was made."""
    recipes = (fineweb(), resolve_curation_recipe("fineweb", {"gopher_quality.min_words": "30"}))
    with TemporaryDirectory() as name:
        root = Path(name)
        (root / "watched").mkdir()
        there: dict[str, int] = {}
        known: dict[str, int] = {}
        made_by, now, version, size = 0, 0, 0, 1
        for event, number in events:
            path = f"{number}.jsonl"
            if event in ("add", "change") and (path in there) == (event == "change"):
                size += 1
                row(root / "watched", path, "x" * size)
                there[path] = size
            elif event == "remove" and path in there:
                (root / "watched" / path).unlink()
                del there[path]
            elif event == "recipe":
                now = 1 - now
            replace = event == "replace"
            if not there and (replace or not version):
                continue
            expected = dict(there) if replace else known | there
            changed = any(there.get(path, size) != size for path, size in known.items())
            may_build_onto = version > 0 and not replace and not changed and now == made_by
            is_same = version > 0 and expected == known and now == made_by
            lost = expected.keys() - there.keys()
            if not may_build_onto and not is_same and lost:  # nothing of them was ever really read
                with pytest.raises(ValueError, match="give it back"):
                    plan(root, recipes[now], replace=replace)
                continue
            refresh = plan(root, recipes[now], replace=replace)
            assert {Path(entry.path).name: entry.size_bytes for entry in refresh.inputs} == _file_sizes(expected)
            assert (refresh.base is not None) == may_build_onto, refresh.mode_reason
            assert refresh.is_published == is_same
            to_read = expected if not may_build_onto else {p: s for p, s in expected.items() if p not in known}
            assert set(names(refresh)) == set(to_read)
            if not is_same:
                publish(refresh)
                known, made_by, version = expected, now, version + 1


def _file_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    return {path: len(json.dumps({"text": "x" * size})) + 1 for path, size in sizes.items()}
