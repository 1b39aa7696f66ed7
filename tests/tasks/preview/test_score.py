"""Scores hold every figure whatever the limits are, and are found again where nothing but limits has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.filters.fineweb import FineWebQuality
from tasks.filters.gopher_quality import GopherQuality
from tasks.formatters.c4_lines import C4Lines
from tasks.language import LanguageRule
from tasks.preview.run import Chain
from tasks.preview.score import LANGUAGE_CHECK, checks, limit_fields, without_limits
from tasks.preview.scores import document_ids
from tasks.recipes.curation import CURATION_RECIPES, CurationRecipe, fineweb
from tasks.rule import Rule
from tasks.share_rule import ShareRule
from tasks.store import Store
from tests.tasks.page_store import recipe
from tests.tasks.preview.sampled import previewed, write_pages


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("score")
    write_pages(folder / "crawl", 60)
    return Store.open(folder / "s")


def chain(store: Store, chosen: CurationRecipe) -> Chain:
    return previewed(store, store.root.parent / "crawl", chosen).chain


def changed(kind: str, **fields: object) -> CurationRecipe:
    """The usual recipe with other settings of one rule."""
    rules = tuple(
        rule.model_copy(update=fields) if getattr(rule, "kind", "") == kind else rule for rule in recipe().quality_rules
    )
    return recipe().model_copy(update={"quality_rules": rules})


def scored(chain_: Chain) -> dict[str, tuple[str, ...]]:
    """The folders of each rule's shards."""
    return {each.scored.label: tuple(shard.name for shard in each.scored.output.shards) for each in chain_.scores}


RULES = {
    f"{name} {rule.__class__.__name__}": rule
    for name, make in CURATION_RECIPES.items()
    for rule in (*make().quality_rules, *make().toxicity_rules)
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_of_every_recipe_can_be_scored_without_its_limits(rule: Rule) -> None:
    rule = rule.scoring() if isinstance(rule, ShareRule) else rule  # as the preview asks it
    away = without_limits(rule)
    for check in checks(rule):
        limit = getattr(away, check.threshold)
        assert math.isinf(limit) and not check.fails(1e9, limit) and not check.fails(-1e9, limit)
        assert isinstance(rule.limit(check.threshold), float)
    assert type(away) is type(rule) and limit_fields(rule) <= set(type(rule).model_fields)


def test_the_limit_of_a_language_may_differ() -> None:
    rule = LanguageRule(languages=("en", "de"), min_scores={"de": 0.9})
    assert checks(rule) == (LANGUAGE_CHECK,)
    assert limit_fields(rule) == {"min_score", "min_scores"}


def test_figures_are_the_same_whatever_the_limits(store: Store) -> None:
    plain = chain(store, recipe())
    other = chain(store, changed("gopher_quality", min_words=5000, max_words=5001))
    for one, two in zip(plain.scores, other.scores, strict=True):
        np.testing.assert_array_equal(one.figures, two.figures)
    assert other.decided.kept == 0 < plain.decided.kept
    assert scored(plain) == scored(other) and plain.made_by == other.made_by
    quality = next(each for each in plain.scores if isinstance(each.scored.rule, GopherQuality))
    assert np.isfinite(quality.figures[:, 0]).all()  # also where an earlier check has failed


def test_only_the_rule_whose_figures_change_is_scored_again(store: Store) -> None:
    plain = scored(chain(store, recipe()))
    other = scored(chain(store, changed("fineweb", short_line_chars=60)))
    assert [label for label in plain if plain[label] != other[label]] == ["fineweb"]


def test_what_reads_a_formatters_text_is_scored_again_with_it(store: Store) -> None:
    before, after = chain(store, recipe()), chain(store, changed("c4_lines", min_words_per_line=6))
    again = [label for label in scored(before) if scored(before)[label] != scored(after)[label]]
    labels = list(before.labels)
    assert again == labels[labels.index("c4_lines") :]
    formatter = next(each for each in before.scores if isinstance(each.scored.rule, C4Lines))
    reader = next(each for each in before.scores if isinstance(each.scored.rule, FineWebQuality))
    assert formatter.num_changed > 0 and formatter.chars_behind < formatter.chars_in
    assert reader.chars_in == formatter.chars_behind


def test_every_rule_sees_every_document_in_a_wanted_language(store: Store) -> None:
    plain = chain(store, recipe())
    assert all(document_ids(each) == list(plain.ids) for each in plain.scores)
    assert {outcome.reason for outcome in plain.ended.values() if outcome.stage == "language"} == {"language_other"}
    assert len(plain.ids) + len(plain.ended) == 60
    both = recipe().model_copy(update={"language": LanguageRule(languages=("en", "de"), min_scores={"de": 0.99})})
    more = chain(store, both)
    assert len(more.ids) > len(plain.ids) and set(more.scores[0].languages) == {"en", "de"}
    limits = more.scores[0].limits(both.language)
    assert {(language, limit) for language, (limit,) in zip(more.scores[0].languages, limits, strict=True)} == {
        ("en", 0.5),
        ("de", 0.99),
    }


def test_an_excerpt_is_the_text_that_the_rule_read(store: Store) -> None:
    plain = chain(store, recipe())
    formatter = next(each for each in plain.scores if isinstance(each.scored.rule, C4Lines))
    reader = next(each for each in plain.scores if isinstance(each.scored.rule, FineWebQuality))
    places = range(len(plain.ids))
    before, after = formatter.excerpts(places, str), reader.excerpts(places, str)
    assert [before[place].document_id for place in places] == list(plain.ids)
    assert any("cookies" in before[place].text for place in places)
    assert not any("cookies" in after[place].text for place in places if formatter.reasons[place] is None)
    hidden = formatter.excerpts(places, lambda text: text.replace("cookies", "█" * 7))
    assert [each.text for each in hidden.values()] == [
        before[place].text.replace("cookies", "█" * 7) for place in places
    ]


def test_a_kind_that_stands_twice_is_told_apart(store: Store) -> None:
    twice = recipe().model_copy(update={"quality_rules": (GopherQuality(), *fineweb().quality_rules)})
    labels = chain(store, twice).labels
    assert {"gopher_quality 1", "gopher_quality 2"} <= set(labels) and len(set(labels)) == len(labels)
