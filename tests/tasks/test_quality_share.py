"""The cut that keeps a share: exact but for ties, whatever the order, on the boundary and one document over it."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.filters.quality_classifier import Quality
from tasks.quality_share import TICKS, Cut, find_cut, lowest_kept, num_from, rounded
from tasks.recipes.overrides import apply_overrides

SCORES = st.lists(st.integers(0, TICKS), min_size=1, max_size=200)
FEW_SCORES = st.lists(st.integers(4_998, 5_002), min_size=1, max_size=200)
SHARES = st.decimals("0.001", "0.999", places=3).map(float)


@given(scores=SCORES | FEW_SCORES, share=SHARES)
def test_at_least_the_share_is_kept_and_no_more_than_ties_need(scores: list[int], share: float) -> None:
    cut = lowest_kept(Counter(scores), share)
    kept = [score for score in scores if score >= cut]
    assert len(kept) >= Fraction(str(share)) * len(scores)
    without_the_cut = [score for score in scores if score > cut]
    assert cut in scores and len(without_the_cut) < Fraction(str(share)) * len(scores)


@given(scores=SCORES, share=SHARES, seed=st.integers())
def test_the_cut_is_of_the_scores_whatever_their_order(scores: list[int], share: float, seed: int) -> None:
    shuffled = random.Random(seed).sample(scores, len(scores))
    assert lowest_kept(Counter(scores), share) == lowest_kept(Counter(shuffled), share)


@given(scores=SCORES, one=SHARES, other=SHARES)
def test_who_keeps_more_keeps_all_that_the_other_keeps(scores: list[int], one: float, other: float) -> None:
    counts = Counter(scores)
    assert lowest_kept(counts, max(one, other)) <= lowest_kept(counts, min(one, other))


@pytest.mark.parametrize(
    ("num_texts", "share", "num_kept"),
    [(30, 0.1, 3), (29, 0.1, 3), (31, 0.1, 4), (10, 0.3, 3), (1, 0.001, 1), (1000, 0.001, 1), (1001, 0.001, 2)],
)
def test_the_share_is_as_it_is_written_and_rounded_up(num_texts: int, share: float, num_kept: int) -> None:
    counts = dict.fromkeys(range(num_texts), 1)
    assert num_texts - lowest_kept(counts, share) == num_kept


def test_ties_on_the_cut_are_all_kept() -> None:
    assert lowest_kept({9_000: 1, 5_000: 8, 1_000: 1}, 0.1) == 9_000
    assert lowest_kept({9_000: 1, 5_000: 8, 1_000: 1}, 0.11) == 5_000
    cut = find_cut({9_000: 1, 5_000: 8, 1_000: 1}, 0.11, version=3, inputs="files")
    assert (cut.min_score, cut.num_texts, cut.num_kept, cut.version) == (0.5, 10, 9, 3)


def test_of_no_documents_all_are_kept() -> None:
    assert find_cut({}, 0.1, version=1, inputs="none").min_score == 0.0


@given(ticks=st.integers(0, TICKS))
def test_a_score_is_equal_to_the_cut_that_it_makes(ticks: int) -> None:
    assert rounded(ticks / TICKS) == ticks / TICKS
    assert num_from({ticks: 1}, find_cut({ticks: 1}, 0.5, version=1, inputs="").min_score) == 1


def test_a_cut_counts_what_comes_later_apart() -> None:
    cut = find_cut({6_000: 2, 4_000: 2}, 0.5, version=1, inputs="files").with_more({6_000: 3, 5_999: 4})
    assert (cut.min_score, cut.num_texts, cut.num_kept) == (0.6, 4, 2)
    assert (cut.num_texts_since, cut.num_kept_since) == (7, 3)
    assert cut.with_more({10_000: 1}).num_kept_since == 4
    assert Cut.model_validate_json(cut.model_dump_json()) == cut
    assert str(cut) == "the cut at a score of 0.6000, found for version 1"


def test_there_is_a_limit_or_a_share_and_never_both() -> None:
    assert (Quality().min_score, Quality().keep_share) == (None, None)
    assert (Quality(keep_share=0.1).min_score, Quality(keep_share=0.1).keep_share) == (None, 0.1)
    with pytest.raises(ValidationError, match=r"min_score=0.5 and keep_share=0.1 are both given"):
        Quality(min_score=0.5, keep_share=0.1)
    asked = apply_overrides(Quality(keep_share=0.1), {"keep_share": "null", "min_score": "0.3"})
    assert asked == Quality(min_score=0.3)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_share_is_a_part_of_the_whole(share: float) -> None:
    with pytest.raises(ValidationError):
        Quality(keep_share=share)


def test_a_share_is_not_decided_on_one_document() -> None:
    with pytest.raises(ValueError, match=r"keep_share=0.2 is decided on a whole corpus"):
        Quality(keep_share=0.2).build()


def test_scores_are_of_the_rule_without_its_limit() -> None:
    rules = [Quality(keep_share=0.2), Quality(keep_share=0.3), Quality(min_score=0.4), Quality(keep_share=0.2).at(0.7)]
    assert {one.scoring() for one in rules} == {Quality(min_score=0.0)}
    assert rules[-1] == Quality(min_score=0.7)
    assert Quality(label="good", keep_share=0.2).scoring() != Quality(keep_share=0.2).scoring()
