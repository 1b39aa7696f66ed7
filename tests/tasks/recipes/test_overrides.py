"""Overrides: every kind of address and value, and one clear line where one is wrong."""

from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from tasks.recipes.overrides import OverrideError, apply_overrides
from tasks.rule import Configuration, Rule


class Length(Rule):
    kind: Literal["length"] = "length"
    min_words: int = Field(50, ge=0)
    max_words: int = Field(100, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} exceeds max_words {self.max_words}")
        return self


class Words(Rule):
    kind: Literal["words"] = "words"
    path: Path = Path("words.txt")
    language: str = "en"


class Dedup(Configuration):
    num_bands: int = Field(14, ge=1)
    exact: bool = True


class Recipe(Configuration):
    name: str = "custom"
    note: str | None = None
    share: float = Field(0.5, ge=0, le=1)
    languages: tuple[str, ...] = ("en",)
    dedup: Dedup = Dedup()
    rules: tuple[Annotated[Length | Words, Field(discriminator="kind")], ...] = (Length(), Words())


RECIPE = Recipe()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, RECIPE),
        ({"share": "0.25"}, Recipe(share=0.25)),
        ({"share": "1"}, Recipe(share=1.0)),
        ({"name": "fine web"}, Recipe(name="fine web")),
        ({"name": "3"}, Recipe(name="3")),
        ({"name": "true", "share": "0"}, Recipe(name="true", share=0)),
        ({"note": "null"}, Recipe(note=None)),
        ({"note": "[1]"}, Recipe(note="[1]")),
        ({"languages": '["en", "de"]'}, Recipe(languages=("en", "de"))),
        ({"dedup.exact": "false", "dedup.num_bands": "3"}, Recipe(dedup=Dedup(exact=False, num_bands=3))),
        ({"dedup": '{"num_bands": 2}'}, Recipe(dedup=Dedup(num_bands=2))),
        ({"rules.0.min_words": "7"}, Recipe(rules=(Length(min_words=7), Words()))),
        ({"rules.length.min_words": "7"}, Recipe(rules=(Length(min_words=7), Words()))),
        ({"length.min_words": "7"}, Recipe(rules=(Length(min_words=7), Words()))),
        (
            {"length.min_words": "700", "length.max_words": "900"},
            Recipe(rules=(Length(min_words=700, max_words=900), Words())),
        ),
        (
            {"words.path": "lists/de.txt", "words.language": "no"},
            Recipe(rules=(Length(), Words(path=Path("lists/de.txt"), language="no"))),
        ),
        ({"rules": '[{"kind": "words"}]'}, Recipe(rules=(Words(),))),
    ],
)
def test_overrides(overrides: dict[str, str], expected: Recipe):
    before = RECIPE.model_dump()
    assert apply_overrides(RECIPE, overrides) == expected
    assert RECIPE.model_dump() == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"shar": "1"}, r"Recipe has no field 'shar'; did you mean share"),
        ({"dedup.num_band": "1"}, r"did you mean dedup\.num_bands"),
        ({"lenght.min_words": "1"}, r"did you mean length\.min_words"),
        ({"length.min_wrods": "1"}, r"did you mean length\.min_words"),
        ({"rules.5.min_words": "1"}, r"no field 'rules\.5\.min_words'"),
        ({"name.first": "1"}, r"no field 'name\.first'"),
        ({"qqqqqqqqqqqqqqqq": "1"}, "its parts are dedup, languages, length, name, note, rules, share, words$"),
        ({"share": "2"}, r"share: .*less than or equal to 1 \(got 2\)"),
        ({"share": "half"}, r"share: .*valid number.* \(got 'half'\)"),
        ({"dedup.num_bands": "0"}, r"dedup\.num_bands: .*greater than or equal to 1 \(got 0\)"),
        ({"length.min_words": "-1"}, r"rules\.0\.min_words: .* \(got -1\)"),
        ({"length.min_words": "101"}, r"rules\.0: min_words 101 exceeds max_words 100"),
        ({"rules.0": "{}"}, "element of a tuple"),
        ({"length": "{}"}, "element of a tuple"),
        ({"dedup": "{}", "dedup.exact": "false"}, "set the same field"),
        ({"length.min_words": "1", "rules.0.min_words": "2"}, "set the same field"),
        ({"share": "2", "dedup.num_bands": "3", "name": "x"}, r"share: .*\(got 2\)"),
    ],
)
def test_refusals_are_one_line(overrides: dict[str, str], message: str):
    with pytest.raises(OverrideError, match=message) as refusal:
        apply_overrides(RECIPE, overrides)
    assert "\n" not in str(refusal.value)


def test_a_rule_that_stands_twice_needs_its_place():
    twice = Recipe(rules=(Words(language="de"), Length(), Words()))
    with pytest.raises(OverrideError, match=r"'words' stands at rules\.0, rules\.2; write the whole path"):
        apply_overrides(twice, {"words.language": "fr"})
    changed = apply_overrides(twice, {"rules.2.language": "fr"})
    assert changed.rules == (Words(language="de"), Length(), Words(language="fr"))


@given(st.integers(), st.booleans(), st.text())
def test_what_is_accepted_is_what_validation_accepts(num_bands: int, exact: bool, name: str):
    overrides = {"dedup.num_bands": str(num_bands), "dedup.exact": str(exact).lower(), "name": name}
    if num_bands < 1:
        with pytest.raises(OverrideError, match="num_bands"):
            apply_overrides(RECIPE, overrides)
    else:
        found = apply_overrides(RECIPE, overrides)
        assert (found.dedup, found.name) == (Dedup(num_bands=num_bands, exact=exact), name)
