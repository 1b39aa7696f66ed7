"""What makes which stage anew: settings, code and libraries, each in its own stage and in what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.manifest import imported_modules
from tasks.model_cache import add_bundle
from tasks.model_files import models_in
from tasks.recipes.curation import CurationRecipe, resolve_curation_recipe
from tasks.refresh_stages import DEDUPLICATION, SCREENING, deciding_fingerprints, refresh_stages
from tasks.stages import Stage
from tests.tasks.small_bundle import small_bundle

MERGING = ("gather_runs", "gather", "index", "edges", "components", "members", "resolve", "settle")
PARAGRAPHS = ("paragraph_runs", "repeated_paragraphs", "paragraphs")


def recipe(**overrides: str) -> CurationRecipe:
    return resolve_curation_recipe("fineweb", {name.replace("__", "."): value for name, value in overrides.items()})


def stages(recipe: CurationRecipe, start: str = "", taken_down: str = "") -> dict[str, Stage]:
    return refresh_stages(recipe, start={"start": start}, deciding={"taken_down": taken_down})


def test_the_stages_are_in_the_order_in_which_they_run() -> None:
    assert tuple(stages(recipe())) == (*SCREENING, *MERGING, "publish")
    with_paragraphs = recipe(deduplication__min_paragraph_chars="80")
    assert tuple(stages(with_paragraphs)) == (*SCREENING, *MERGING, *PARAGRAPHS, "publish")


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        ({"reading__max_page_bytes": "5000"}, "inventory"),
        ({"extraction__max_depth": "100"}, "extract"),
        ({"url_filter__soft_word_threshold": "3"}, "read"),
        ({"language__languages": '["en", "de"]'}, "extract"),  # the rough look before extraction
        ({"language__min_score": "0.7"}, "language"),
        ({"gopher_quality__min_words": "30"}, "quality"),
        ({"toxicity__max_toxicity": "0.9"}, "toxicity"),
        ({"num_buckets": "4"}, "gather"),
        ({"deduplication__minhash__num_bands": "20"}, "index"),
        ({"deduplication__min_jaccard": "0.8"}, "members"),
        ({"deduplication__order": "longest"}, "members"),
    ],
)
def test_a_setting_makes_its_stage_anew_and_what_follows(overrides: dict[str, str], first: str) -> None:
    before, after = stages(recipe()), stages(recipe(**overrides))
    changed = [name for name in before if before[name].fingerprint != after[name].fingerprint]
    assert changed == list(before)[list(before).index(first) :]


def test_where_it_begins_counts_from_the_first_stage_and_what_was_taken_down_from_the_index() -> None:
    plain, begun, taken = stages(recipe()), stages(recipe(), start="x"), stages(recipe(), taken_down="x")
    assert all(plain[name].fingerprint != begun[name].fingerprint for name in plain)
    changed = [name for name in plain if plain[name].fingerprint != taken[name].fingerprint]
    assert changed == ["index", "edges", "components", "members", "resolve", "settle", "publish"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("tasks.read.archive", {"inventory", "read", "extract"}),
        ("tasks.occurrences", {"read"}),
        ("tasks.extract.worker", {"extract"}),
        ("tasks.html_charset", {"extract"}),
        ("tasks.url_filter", {"read"}),
        ("tasks.read.zstd_stream", {"inventory", "read", "extract"}),
        ("tasks.rough_language", {"extract"}),
        ("tasks.language", {"extract", "language"}),  # the rough look before extraction asks the same model
        ("tasks.filters.gopher_quality", {"quality"}),
        ("tasks.formatters.c4_lines", {"quality"}),
        ("tasks.filters.word_list", {"toxicity"}),
        ("tasks.screen", {*SCREENING[2:], *MERGING, "publish"}),
        ("tasks.rule", {*SCREENING, *MERGING, "publish"}),
        ("tasks.pack", set()),
        ("tasks.refresh", set()),
        ("tasks.curation", set()),
    ],
)
def test_a_module_makes_those_stages_anew_whose_output_it_decides(module: str, expected: set[str]) -> None:
    found = {name for name, stage in stages(recipe()).items() if module in imported_modules(*stage.modules)}
    assert found == expected


def test_a_model_is_its_file_whatever_name_it_goes_by(tmp_path: Path) -> None:
    bundles = [small_bundle(tmp_path / "one"), small_bundle(tmp_path / "two", name="other")]
    first, second = (add_bundle(bundle.folder, tmp_path / "models") for bundle in bundles)
    names = (f"taste@3#sha256={first}", f"taste@4#sha256={first}", f"/b/#sha256={first}", f"taste@3#sha256={second}")
    with models_in(tmp_path / "models"):
        found = [stages(resolve_curation_recipe("dclm", {"quality.model": name})) for name in names]
    one, *others = [stage["share_scores"].fingerprint for stage in found]
    assert [other == one for other in others] == [True, True, False]


def test_what_decides_is_told_by_stage() -> None:
    plain = deciding_fingerprints(recipe())
    assert set(plain) == {*SCREENING[1:], "settle", DEDUPLICATION}
    for overrides, expected in (
        ({"gopher_quality__min_words": "30"}, {"quality"}),
        ({"deduplication__order": "longest"}, {DEDUPLICATION}),
        ({"num_buckets": "4"}, {DEDUPLICATION}),
        ({"shard_records": "7"}, set()),
        ({"deduplication__min_paragraph_chars": "80"}, {DEDUPLICATION, "paragraphs"}),
    ):
        other = deciding_fingerprints(recipe(**overrides))
        assert {name for name in other if other[name] != plain.get(name)} == expected
