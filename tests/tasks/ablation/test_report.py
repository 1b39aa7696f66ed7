"""What an ablation says of itself: one line that holds, tables in which nothing is hidden, a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tasks.ablation.pages import HELD_OUT, PageCounts
from tasks.ablation.picture import ablation_picture
from tasks.ablation.report import (
    GroupComparison,
    RecipeFacts,
    TwinFacts,
    compare_groups,
    report_markdown,
    verdict_sentence,
)
from tasks.ablation.scoring import Scores
from tasks.ablation.verdict import MIN_DOCUMENTS

COUNTS = PageCounts(held_out_a=30, held_out_b=40, kept_by_both=25, chosen=20, with_two_texts=3)
TWINS = [TwinFacts(letter=letter, seed=seed, tokens=1000, seconds=2.0) for seed, letter in enumerate("abab")]


def recipe(letter: str, *settings: str) -> RecipeFacts:
    return RecipeFacts(
        letter=letter,
        recipe="smoke",
        settings=settings,
        corpus=f"ablation-{letter}@1",
        records_in=100,
        documents_kept=60,
        removed={"quality": 40},
        wipe_outs=0,
        text_bytes=9000,
        train_tokens=2000,
        passes=0.5,
        curation_s=3.0,
    )


RECIPES = [recipe("a"), recipe("b", "gopher_quality.min_words=3")]


def scores(shift: float, num_pages: int = 20, group: str = HELD_OUT) -> dict[str, Scores]:
    draw = np.random.default_rng(1)
    sizes = draw.uniform(100, 1000, num_pages)
    names = tuple(f"page {number}" for number in range(num_pages))
    return {group: Scores(names, sizes * (2 + shift), sizes)}


def compared(difference: float) -> list[GroupComparison]:
    return compare_groups({"a": [scores(0.0), scores(0.01)], "b": [scores(difference), scores(difference + 0.01)]})


def test_the_sentence_names_the_better_recipe_and_its_settings() -> None:
    sentence = verdict_sentence(compared(-0.5)[0], RECIPES)
    assert sentence.startswith("b is better (smoke gopher_quality.min_words=3): 2.0050 bits per byte for a and 1.5050")
    assert "on 20 held-out pages, b minus a -0.5000" in sentence
    assert sentence.endswith("that is more than noise")


def test_the_sentence_says_what_could_not_have_been_seen() -> None:
    groups = compared(0.0)
    sentence = verdict_sentence(groups[0], RECIPES)
    assert sentence.startswith("not told apart: ")
    assert f"a difference of {groups[0].comparison.just_seen:.4f} would have been the least to be seen" in sentence


def test_a_group_that_does_not_decide_may_be_too_small_to_be_compared() -> None:
    few = scores(0, MIN_DOCUMENTS - 1, "few.jsonl")
    enough = scores(0, MIN_DOCUMENTS, "enough.jsonl")
    runs = [scores(0.0) | few | enough, scores(0.1) | few | enough]
    assert [each.group for each in compare_groups({"a": runs, "b": runs})] == [HELD_OUT, "enough.jsonl"]
    with pytest.raises(ValueError, match="9 documents to compare on, 10 are the least"):
        compare_groups({"a": [few, few], "b": [few, few]})


def test_the_report_has_every_model_and_what_was_kept() -> None:
    groups = compared(0.5)
    text = report_markdown("a is better", groups, RECIPES, TWINS, COUNTS, 2)
    for expected in (
        "**a is better**",
        "a is better: decides",
        "| a seed 0 | 1,000 | 2.0 | 0 | 2.0000 |",
        "| a seed 2 | 1,000 | 2.0 | 0 | 2.0100 |",
        "| b seed 3 | 1,000 | 2.0 | 0 | 2.5100 |",
        "| removed: quality | 40 | 40 |",
        "2 pages or texts are left out: near-duplicates",
        "In all 4,000 tokens in 8 s",
    ):
        assert expected in text
    assert MarkdownIt().enable("table").render(text).count("<table>") == 3


def test_the_report_hides_no_failed_model_and_lets_nothing_through_as_mark_up() -> None:
    failed = replace(TWINS[1], failure="step 3: the loss is nan | <b>", tokens=0)
    odd = [RECIPES[0], recipe("b", "word_list.words=[](http://x) <img src=x>")]
    text = report_markdown("no verdict: <i>", [], odd, [TWINS[0], failed], COUNTS, 0)
    assert "failed: step 3: the loss is nan" in text
    html = MarkdownIt().enable("table").render(text)
    assert "<img" not in html and "<b>" not in html and "<i>" not in html and "href" not in html
    assert "Nothing: not all models were trained." in text


def test_the_picture(tmp_path: Path) -> None:
    groups = [*compared(0.0), *compared(0.5)]
    file = tmp_path / "pictures" / "ablation.png"
    ablation_picture(groups, file, title="ablation $x^{ | y=[\n]" + "z" * 100, width_px=600)
    header = file.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    width = int.from_bytes(header[16:20])
    assert width == 600
    ablation_picture(groups[:1], file, title="less", width_px=1200)
    assert int.from_bytes(file.read_bytes()[16:20]) == 1200
