"""What an ablation says of itself: one line that holds, tables in which nothing is hidden, a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

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
    runs = {"a": [scores(0.0), scores(0.01)], "b": [scores(difference), scores(difference + 0.01)]}
    return compare_groups(runs)[0]


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


def test_a_group_that_cannot_be_compared_is_told_of_and_only_the_deciding_one_is_an_error() -> None:
    few = scores(0, MIN_DOCUMENTS - 1, "few.jsonl")
    enough = scores(0, MIN_DOCUMENTS, "enough.jsonl")
    infinite = {"p/words": Scores(("x",) * MIN_DOCUMENTS, np.full(MIN_DOCUMENTS, -np.inf), np.ones(MIN_DOCUMENTS))}
    runs = [scores(0.0) | few | enough | infinite, scores(0.1) | few | enough | infinite]
    groups, not_compared = compare_groups({"a": runs, "b": runs})
    assert [each.group for each in groups] == [HELD_OUT, "enough.jsonl"]
    assert list(not_compared) == ["few.jsonl", "p/words"]
    report = report_markdown("x", groups, RECIPES, [], COUNTS, 0, not_compared)
    assert "Not compared: few.jsonl, 9 documents to compare on, 10 are the least" in report
    assert "Not compared: p/words, a model's score of a document is not finite" in report
    for deciding, message in ((few, "9 documents to compare on, 10 are the least"), (infinite, "not finite")):
        with pytest.raises(ValueError, match=message):
            compare_groups({"a": [deciding, deciding], "b": [deciding, deciding]})


def test_the_report_has_every_model_and_what_was_kept() -> None:
    groups = compared(0.5)
    text = report_markdown("a is better", groups, RECIPES, TWINS, COUNTS, 2, {})
    for expected in (
        "**a is better**",
        "a is better: decides",
        "| a seed 0 | 1,000 | 2.0 | 0 | 2.0000 |",
        "| a seed 2 | 1,000 | 2.0 | 0 | 2.0100 |",
        "| b seed 3 | 1,000 | 2.0 | 0 | 2.5100 |",
        "| removed: quality | 40 | 40 |",
        "2 pages or texts are left out: a near-duplicate",
        "In all 4,000 tokens in 8 s",
    ):
        assert expected in text
    assert MarkdownIt().enable("table").render(text).count("<table>") == 3


def test_the_report_hides_no_failed_model_and_lets_nothing_through_as_mark_up() -> None:
    failed = replace(TWINS[1], failure="step 3: the loss is nan | <b>", tokens=0)
    odd = [RECIPES[0], recipe("b", "word_list.words=[](http://x) <img src=x>")]
    text = report_markdown("no verdict: <i>", [], odd, [TWINS[0], failed], COUNTS, 0, {})
    assert "failed: step 3: the loss is nan" in text
    html = MarkdownIt().enable("table").render(text)
    assert "<img" not in html and "<b>" not in html and "<i>" not in html and "href" not in html
    assert "Nothing: not all models were trained." in text


def test_a_title_is_drawn_as_it_is_with_its_dollars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def savefig(figure: Figure, _: Path) -> None:
        texts = [axes.title for axes in figure.axes if axes.get_title()]
        drawn.extend(text.get_text() for text in [figure._suptitle, *texts] if not text.get_parse_math())  # type: ignore[attr-defined]

    monkeypatch.setattr(Figure, "savefig", savefig)
    [row] = compared(0.5)
    ablation_picture([replace(row, group="a $5 b $6")], tmp_path / "x.png", title="word_list.words=$x$")
    assert drawn[:2] == ["word_list.words=$x$", "a $5 b $6: each model, mean and 95 % interval"]


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
