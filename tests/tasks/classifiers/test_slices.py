"""Slices: who is in them, their figures, and names from outside where they are shown."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.classifiers.metrics import roc_auc
from tasks.classifiers.proportion import proportion
from tasks.classifiers.slices import (
    IDENTITY_TERMS,
    MIN_TEXTS,
    find_slices,
    identity_mentions,
    slice_figures,
    slice_masks,
    slices_csv,
    slices_markdown,
)
from tests.tasks.rendering import harmful_tags, rendered


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("A Muslim baker", {("religion", "muslim")}),
        ("MUSLIMS and Jews", {("religion", "muslim"), ("religion", "jew")}),
        ("(deaf), blind!", {("disability", "deaf"), ("disability", "blind")}),
        ("women's work, men", {("gender", "woman"), ("gender", "man")}),
        ("_gay_ gay-friendly", {("sexuality", "gay")}),
        ("an elderly Mexican", {("age", "elderly"), ("origin", "mexican")}),
        ("maleficent blinding gayety Islamic manual", set()),  # no whole word
        ("", set()),
    ],
)
def test_mentions_are_whole_words_in_any_case(text: str, mentions: set[tuple[str, str]]) -> None:
    assert identity_mentions(text) == mentions


@pytest.mark.parametrize(
    ("group", "term"), [(group, term) for group, terms in IDENTITY_TERMS.items() for term in terms]
)
def test_every_term_is_found_in_both_cases_and_the_plural(group: str, term: str) -> None:
    for written in (term, term.upper(), term.title(), f"{term}s"):
        assert (group, term) in identity_mentions(f"The {written}.")
    assert not identity_mentions(f"x{term}") and not identity_mentions(f"{term}x")


def test_no_term_is_in_two_groups_and_none_is_another_ones_plural() -> None:
    terms = [term for each in IDENTITY_TERMS.values() for term in each]
    assert len(set(terms)) == len(terms)
    assert not set(terms) & {f"{term}s" for term in terms}
    assert set(IDENTITY_TERMS) == {"religion", "origin", "gender", "sexuality", "disability", "age"}


@pytest.mark.parametrize(
    ("num_chars", "name"),
    [
        (0, "under 50 characters"),
        (49, "under 50 characters"),
        (50, "50 to 199 characters"),
        (199, "50 to 199 characters"),
        (200, "200 to 999 characters"),
        (4_999, "1,000 to 4,999 characters"),
        (5_000, "5,000 characters and more"),
    ],
)
def test_lengths(num_chars: int, name: str) -> None:
    assert list(slice_masks(["x" * num_chars], min_texts=1)) == [f"length: {name}"]


def test_a_slice_is_shown_from_twenty_texts_on() -> None:
    texts = ["a deaf baker"] * MIN_TEXTS + ["a gay baker"] * (MIN_TEXTS - 1)
    masks = slice_masks(texts)
    assert set(masks) == {"length: under 50 characters", "identity: disability", "identity: disability: deaf"}
    assert masks["identity: disability"].sum() == 20 == masks["identity: disability"][:20].sum()


def test_sources() -> None:
    masks = slice_masks(["x", "y", "z"], ["forum", "news", "forum"], identity=False, min_texts=1)
    assert masks["source: forum"].tolist() == [True, False, True]
    assert masks["source: news"].tolist() == [False, True, False]
    assert set(slice_masks(["x"], ["forum"], min_texts=2)) == set()


def test_the_figures_of_a_slice() -> None:
    """Of the two forum texts the positive one is found and the negative one a false alarm."""
    slices = find_slices(
        ["a", "b", "c a woman", "d"],
        [True, False, True, True],
        [0.9, 0.8, 0.2, 0.5],
        0.5,
        ["forum", "forum", "news", "news"],
        min_texts=1,
    )
    by_name = {each.name: each for each in slices}
    whole, forum, news = by_name["all"], by_name["source: forum"], by_name["source: news"]
    assert slices[0] is whole
    assert (whole.recall, whole.false_alarms) == (proportion(1, 3), proportion(1, 1))
    assert whole.roc_auc == roc_auc([True, False, True, True], [0.9, 0.8, 0.2, 0.5])
    assert (forum.recall, forum.false_alarms, forum.num_texts, forum.num_positives) == (
        proportion(1, 1), proportion(1, 1), 2, 1,
    )  # fmt: skip
    assert (news.recall, news.false_alarms, news.roc_auc) == (proportion(0, 2), None, None)
    assert by_name["identity: gender: woman"].num_texts == 1


@given(st.lists(st.tuples(st.text(max_size=60), st.sampled_from("abc"), st.booleans()), min_size=1, max_size=30))
def test_lengths_and_sources_part_the_texts(rows: list[tuple[str, str, bool]]) -> None:
    texts, sources, _ = (list(each) for each in zip(*rows, strict=True))
    masks = slice_masks(texts, sources, min_texts=1)
    for kind in ("length: ", "source: "):
        held = np.sum([mask for name, mask in masks.items() if name.startswith(kind)], axis=0)
        assert (held == 1).all()


HOSTILE = [
    "<script>x</script>",
    "a|b",
    "=1+1",
    "../x",
    "x" * 300,
    "a b",
    "a_b",
    "",
    "ä/ö",
    "![x](https://evil.example)",
]


def test_names_of_sources_are_data() -> None:
    texts = ["x"] * len(HOSTILE)
    slices = find_slices(texts, [True] * len(texts), [0.5] * len(texts), 0.1, HOSTILE, min_texts=1)
    assert len(slices) == len(HOSTILE) + 2
    page = slices_markdown(slices)
    assert not harmful_tags(page)
    assert rendered(page).count("<tr>") == len(slices) + 1
    figures = slice_figures(slices)
    assert sum(name.endswith("/num_texts") for name in figures) == len(slices)  # "a b" and "a_b" are two
    assert all(re.fullmatch(r"slices/\w{1,90}/\w+", name) for name in figures)
    rows = list(csv.reader(io.StringIO(slices_csv(slices))))
    assert {len(row) for row in rows} == {12}
    assert len(rows) == len(slices) + 1


def test_figures_without_what_is_absent() -> None:
    slices = find_slices(["x", "y"], [True, True], [0.9, 0.1], 0.5, ["forum"] * 2, min_texts=1)
    figures = slice_figures(slices)
    assert figures["slices/source_forum/recall"] == 0.5
    assert "slices/source_forum/recall_low" in figures
    assert not [name for name in figures if "false_alarm" in name or "roc_auc" in name]
    assert "| – | – |" in slices_markdown(slices)


def test_no_slices_have_a_table_without_rows() -> None:
    assert slices_csv(()) == "slice,num_texts,num_positives\n"
    assert slice_figures(()) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each"):
        find_slices(["x", "y"], [True], [0.1, 0.2], 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        find_slices(["x"], [True], [2.0], 0.5)
