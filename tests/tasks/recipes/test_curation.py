"""The recipes of a refresh: what there is, what can be set, and what their stages are identified by."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.dedup.config import Deduplication
from tasks.dedup.signature import MinHash
from tasks.recipes.curation import (
    CURATION_RECIPES,
    CurationRecipe,
    check_rules,
    dclm,
    documentation,
    fineweb,
    fineweb2,
    gopher,
    resolve_curation_recipe,
    smoke,
)
from tasks.recipes.languages import frozen_thresholds
from tasks.recipes.overrides import OverrideError
from tasks.recipes.rules import rule
from tasks.rough_language import RoughLanguage


@pytest.mark.parametrize("name", CURATION_RECIPES)
def test_a_recipe_comes_back_from_the_manifest_that_it_is_saved_in(name: str) -> None:
    recipe = resolve_curation_recipe(name, {})
    assert CurationRecipe.model_validate(recipe.model_dump(mode="json")) == recipe
    check_rules(recipe)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, Deduplication()),
        ({"deduplication.min_jaccard": "0.8"}, Deduplication(min_jaccard=0.8)),
        ({"deduplication.min_jaccard": "0"}, Deduplication(min_jaccard=0)),
        ({"deduplication.order": "longest"}, Deduplication(order="longest")),
        ({"deduplication.canonical_url": "false"}, Deduplication(canonical_url=False)),
        ({"deduplication.min_paragraph_chars": "80"}, Deduplication(min_paragraph_chars=80)),
        ({"deduplication.minhash.num_bands": "20"}, Deduplication(minhash=MinHash(num_bands=20))),
        (
            {"deduplication.minhash.rows_per_band": "4", "deduplication.order": "longest"},
            Deduplication(minhash=MinHash(rows_per_band=4), order="longest"),
        ),
    ],
)
def test_deduplication_can_be_set_field_by_field(overrides: dict[str, str], expected: Deduplication) -> None:
    assert resolve_curation_recipe("fineweb", overrides).deduplication == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"deduplication.min_jaccard": "1.5"}, r"deduplication\.min_jaccard: .*less than or equal to 1 \(got 1\.5\)"),
        ({"deduplication.order": "newest"}, r"deduplication\.order: .*'earliest' or 'longest' \(got 'newest'\)"),
        ({"deduplication.num_bands": "20"}, r"did you mean deduplication\.minhash\.num_bands"),
        ({"deduplication.minhash.num_bands": "0"}, r"deduplication\.minhash\.num_bands: .*\(got 0\)"),
        ({"num_buckets": "12"}, "no power of two"),
    ],
)
def test_what_cannot_be_set_is_told_in_one_line(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(OverrideError, match=message) as refused:
        resolve_curation_recipe("fineweb", overrides)
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match="no curation recipe 'finweb'; there are fineweb, fineweb2, dclm, gopher, documentation, smoke"
    ):
        resolve_curation_recipe("finweb", {})


def kinds(recipe: CurationRecipe) -> list[str]:
    return [rule.model_dump()["kind"] for rule in recipe.quality_rules]


def setting(recipe: CurationRecipe, kind: str, field: str) -> Any:
    return next(rule.model_dump()[field] for rule in recipe.quality_rules if rule.model_dump()["kind"] == kind)


def test_the_documentation_recipe_changes_only_what_it_says() -> None:
    def rules(recipe: CurationRecipe) -> dict[str, dict[str, Any]]:
        return {type(rule).__name__: rule.model_dump() for rule in recipe.quality_rules}

    one, two = rules(fineweb()), rules(documentation())
    assert one.keys() - two.keys() == {"PersonalData"}
    changed = {(kind, field) for kind in two for field in one[kind] if one[kind][field] != two[kind][field]}
    assert changed == {
        ("GopherQuality", "min_alphabetic_word_fraction"),
        ("C4Lines", "filter_curly_bracket"),
        ("FineWebQuality", "max_duplicate_line_char_fraction"),
    }


def test_every_recipe_says_where_it_comes_from() -> None:
    for name, make in CURATION_RECIPES.items():
        assert make.__name__ == name == make().name
        assert make.__doc__
    for make in (fineweb, fineweb2, gopher, dclm, smoke):
        assert "arXiv:" in (make.__doc__ or "")


FINEWEB: dict[str, dict[str, float]] = {
    "gopher_repetition": {
        "max_duplicate_line_fraction": 0.30,
        "max_duplicate_paragraph_fraction": 0.30,
        "max_duplicate_line_char_fraction": 0.20,
        "max_duplicate_paragraph_char_fraction": 0.20,
        "max_top_2_gram_char_fraction": 0.20,
        "max_top_3_gram_char_fraction": 0.18,
        "max_top_4_gram_char_fraction": 0.16,
        "max_duplicate_5_gram_char_fraction": 0.15,
        "max_duplicate_6_gram_char_fraction": 0.14,
        "max_duplicate_7_gram_char_fraction": 0.13,
        "max_duplicate_8_gram_char_fraction": 0.12,
        "max_duplicate_9_gram_char_fraction": 0.11,
        "max_duplicate_10_gram_char_fraction": 0.10,
    },
    "gopher_quality": {
        "min_words": 50,
        "max_words": 100_000,
        "min_mean_word_chars": 3,
        "max_mean_word_chars": 10,
        "max_symbols_per_word": 0.1,
        "max_bullet_line_fraction": 0.9,
        "max_ellipsis_line_fraction": 0.3,
        "min_alphabetic_word_fraction": 0.8,
        "min_stop_words": 2,
    },
    "c4_lines": {"filter_no_terminal_punct": False, "min_sentences": 5, "min_words_per_line": 3},
    "fineweb": {
        "min_line_punctuation_fraction": 0.12,
        "max_short_line_fraction": 0.67,
        "short_line_chars": 30,
        "max_duplicate_line_char_fraction": 0.01,
        "max_newlines_per_word": 0.3,
    },
}
"""Limits of the FineWeb data set (arXiv:2406.17557, section 3.6 and appendix; Gopher A.1.1 and table A1)."""


def test_fineweb_has_the_papers_limits_in_the_published_order() -> None:
    recipe = fineweb()
    assert kinds(recipe) == [*FINEWEB, "personal_data"]
    for kind, limits in FINEWEB.items():
        assert {field: setting(recipe, kind, field) for field in limits} == limits
    minhash = recipe.deduplication.minhash
    assert (minhash.num_bands, minhash.rows_per_band, minhash.shingle_words) == (14, 8, 5)


def test_gopher_has_massive_texts_rules_only() -> None:
    recipe = gopher()
    assert (kinds(recipe), recipe.toxicity_rules) == (["gopher_quality", "gopher_repetition"], ())
    for kind in kinds(recipe):
        assert {field: setting(recipe, kind, field) for field in FINEWEB[kind]} == FINEWEB[kind]
    assert recipe.deduplication.min_jaccard == 0.8


def test_dclm_has_refined_webs_heuristics() -> None:
    recipe = dclm()
    assert kinds(recipe) == ["gopher_quality", "gopher_repetition", "refinedweb_lines", "quality"]
    assert setting(recipe, "refinedweb_lines", "max_removed_word_fraction") == 0.05
    assert setting(recipe, "refinedweb_lines", "max_upper_case_fraction") == 0.5


def test_fineweb2_is_the_published_pipeline_but_for_the_limits_by_language() -> None:
    recipe = fineweb2(("de",))
    assert kinds(recipe) == [
        "gopher_repetition", "fineweb", "gopher_quality", "ftfy", "personal_data", "symbol_lines"
    ]  # fmt: skip
    off = {
        ("gopher_repetition", "max_duplicate_paragraph_fraction"): 1.0,
        ("gopher_repetition", "max_duplicate_line_char_fraction"): 1.0,
        ("gopher_repetition", "max_duplicate_paragraph_char_fraction"): 1.0,
        ("fineweb", "max_short_line_fraction"): 1.0,
        ("fineweb", "max_duplicate_line_char_fraction"): 0.1,
        ("symbol_lines", "symbols"): "|",
    }
    assert {place: setting(recipe, *place) for place in off} == off


@pytest.mark.parametrize("code", ["de", "fr", "ru", "tr"])
def test_asking_fineweb2_for_a_language_brings_its_limits(code: str) -> None:
    recipe = resolve_curation_recipe("fineweb2", {"language.languages": f'["{code}"]'})
    frozen = frozen_thresholds(code)
    assert recipe == fineweb2((code,))
    assert recipe.language.languages == (code,)
    assert recipe.language.min_score == frozen.min_language_score
    assert setting(recipe, "gopher_quality", "stop_words") == frozen.stop_words
    for kind in ("gopher_quality", "fineweb"):
        limits = getattr(frozen, kind)
        assert {field: setting(recipe, kind, field) for field in limits} == limits
    check_rules(recipe)


def test_fineweb2_brings_a_languages_limits_however_it_is_asked_for() -> None:
    recipe = resolve_curation_recipe("fineweb2", {"language": '{"languages": ["de"]}'})
    assert recipe.quality_rules == fineweb2(("de",)).quality_rules
    with pytest.raises(ValueError, match="one language at a time, not for de, fr"):
        resolve_curation_recipe("fineweb2", {"language": '{"languages": ["de", "fr"]}'})


@pytest.mark.parametrize("name", ["fineweb", "dclm", "gopher", "documentation", "smoke"])
@pytest.mark.parametrize("languages", ['["de"]', '["en", "de"]'])
def test_english_stop_words_are_refused_for_other_languages_before_any_work(name: str, languages: str) -> None:
    with pytest.raises(ValueError, match="would remove every page in de; take the recipe fineweb2") as refused:
        check_rules(resolve_curation_recipe(name, {"language.languages": languages}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["inf", "Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("key", ["fineweb.max_newlines_per_word", "gopher_quality.max_mean_word_chars"])
def test_a_limit_is_a_number_that_a_manifest_can_hold(key: str, text: str) -> None:
    with pytest.raises(OverrideError, match=f"{key.split('.')[1]}: .*finite number"):
        resolve_curation_recipe("fineweb", {key: text})
    options = (
        f'{{"kind": "datatrove", "name": "x", "step": "datatrove.pipeline.filters:A", "options": {{"a": [{text}]}}}}'
    )
    if text != "inf":  # which is no JSON at all
        with pytest.raises(OverrideError, match="finite number"):
            resolve_curation_recipe("smoke", {"quality_rules": f"[{options}]"})


def test_other_settings_apply_on_top_of_the_languages_limits() -> None:
    recipe = resolve_curation_recipe(
        "fineweb2", {"gopher_quality.min_words": "30", "language.languages": '["de"]', "language.min_score": "0.7"}
    )
    assert setting(recipe, "gopher_quality", "min_words") == 30
    assert setting(recipe, "gopher_quality", "stop_words") == frozen_thresholds("de").stop_words
    assert recipe.language.min_score == 0.7


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ('["ja"]', "no limits for the language 'ja', only for ca, .*tokenmill thresholds"),
        ('["de", "fr"]', "one language at a time, not for de, fr"),
        ("[]", r"language\.languages: .*at least 1"),
        ('["DE"]', "'DE' is no ISO 639-1 code"),
    ],
)
def test_what_fineweb2_has_no_limits_for_is_told_in_one_line(languages: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        resolve_curation_recipe("fineweb2", {"language.languages": languages})
    assert "\n" not in str(refused.value)


def test_rules_can_be_set_as_a_whole() -> None:
    rules = '[{"kind": "gopher_quality", "min_words": 7}, {"kind": "word_list"}]'
    recipe = resolve_curation_recipe("smoke", {"quality_rules": rules})
    assert recipe.quality_rules == (rule("gopher_quality", min_words=7), rule("word_list"))
    with pytest.raises(OverrideError, match=r"quality_rules\.0: there is no rule of the kind 'gopher'; there are c4_"):
        resolve_curation_recipe("smoke", {"quality_rules": '[{"kind": "gopher"}]'})


def test_a_wanted_language_without_tokenizer_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="'ja'"):
        check_rules(resolve_curation_recipe("gopher", {"language.languages": '["ja"]'}))
    check_rules(resolve_curation_recipe("gopher", {"language.languages": '["ja"]', "quality_rules": "[]"}))


def test_the_rough_check_follows_the_language() -> None:
    assert fineweb().rough_language == RoughLanguage(languages=("en",))
    assert fineweb2(("de",)).rough_language == RoughLanguage(languages=("de",))
    assert resolve_curation_recipe("fineweb", {"language.rough_check": "false"}).rough_language is None


def test_a_recipe_hides_what_its_rules_mask() -> None:
    text = "Write to a.person@example.net about it."
    assert fineweb().hide(text) == f"Write to {'█' * 20} about it."
    assert documentation().hide(text) == text


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".hidden", "<script>", "a" * 65])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name: String should"):
        resolve_curation_recipe("gopher", {"name": name})
