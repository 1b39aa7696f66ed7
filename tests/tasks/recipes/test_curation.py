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
    documentation,
    fineweb,
    resolve_curation_recipe,
)
from tasks.recipes.overrides import OverrideError


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
    with pytest.raises(ValueError, match="no curation recipe 'finweb'; there are fineweb, documentation"):
        resolve_curation_recipe("finweb", {})


def test_the_documentation_recipe_changes_only_what_it_says() -> None:
    def rules(recipe: CurationRecipe) -> dict[str, dict[str, Any]]:
        return {type(rule).__name__: rule.model_dump() for rule in recipe.quality_rules}

    one, two = rules(fineweb()), rules(documentation())
    changed = {(kind, field) for kind in one for field in one[kind] if one[kind][field] != two[kind][field]}
    assert changed == {
        ("GopherQuality", "min_alphabetic_word_fraction"),
        ("C4Lines", "filter_curly_bracket"),
        ("FineWebQuality", "max_duplicate_line_char_fraction"),
    }
