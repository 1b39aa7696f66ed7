"""What an ablation has found: the verdict in a sentence, the figures behind it, and what each recipe kept and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.ablation.pages import HELD_OUT, PageCounts
from tasks.ablation.scoring import BITS_PER_BYTE, Scores
from tasks.ablation.verdict import Comparison, compare
from tasks.classifiers.proportion import Estimate
from tasks.markdown import SafeMarkdown, markdown_cell, markdown_table


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """One recipe, and what it made of the pages."""

    letter: str
    recipe: str
    settings: tuple[str, ...]
    corpus: str  # name@version
    records_in: int
    documents_kept: int
    removed: Mapping[str, int]  # by stage
    wipe_outs: int  # groups of pages of which a stage has removed nearly all
    text_bytes: int
    train_tokens: int  # in one pass over what is not held out
    passes: float  # over them, by each model
    curation_s: float

    @property
    def title(self) -> str:
        """`fineweb c4_lines.filter_curly_bracket=false`"""
        return " ".join((self.recipe, *self.settings))


@dataclass(frozen=True, kw_only=True)
class TwinFacts:
    """One model, or why there is none."""

    letter: str
    seed: int
    tokens: int = 0
    seconds: float = 0.0
    num_parameters: int = 0
    checkpoint: str = ""
    page: str = ""  # address of its run in MLflow
    failure: str = ""

    @property
    def name(self) -> str:
        return f"{self.letter} seed {self.seed}"


@dataclass(frozen=True)
class GroupComparison:
    """The two recipes on one group of pages or texts."""

    group: str
    comparison: Comparison
    metric: str = BITS_PER_BYTE
    higher_is_better: bool = False


def compare_groups(
    scores: Mapping[str, Sequence[Mapping[str, Scores]]],
) -> tuple[list[GroupComparison], dict[str, str]]:
    """By group; `scores` are those of each model by recipe's letter, the group that decides first.

    Then why others cannot be compared, such as those of too few examples. Raises ValueError where the first one cannot.
    """
    found: list[GroupComparison] = []
    not_compared: dict[str, str] = {}
    for group in scores["a"][0]:
        a, b = ([each[group] for each in scores[letter]] for letter in ("a", "b"))
        pages, sizes, higher_is_better = a[0].pages, a[0].sizes, a[0].higher_is_better
        assert all(each.pages == pages and np.array_equal(each.sizes, sizes) for each in (*a, *b)), group
        values_a, values_b = (np.stack([each.values for each in runs]) for runs in (a, b))
        try:
            comparison = compare(values_a, values_b, sizes, higher_is_better=higher_is_better)
        except ValueError as error:
            if not found:
                raise
            not_compared[group] = str(error)
        else:
            found.append(GroupComparison(group, comparison, a[0].metric, higher_is_better))
    return found, not_compared


def verdict_sentence(deciding: GroupComparison, recipes: Sequence[RecipeFacts]) -> str:
    """What was found, with the figures, in one line of plain text."""
    found = deciding.comparison
    where = deciding.group if deciding.group == HELD_OUT else f"texts of {deciding.group}"
    figures = (
        f"{found.a.value:.4f} {deciding.metric} for a and {found.b.value:.4f} for b on {found.num_documents:,} {where},"
        f" b minus a {_signed(found.difference)}, p = {found.p_value:.2g}"
    )
    if found.outcome == "not told apart":
        return (
            f"not told apart: {figures}; with so much noise a difference of {found.just_seen:.4f} would have been the"
            " least to be seen: more seeds or a larger budget see smaller ones"
        )
    winner = next(recipe for recipe in recipes if recipe.letter == found.outcome[0])
    return f"{found.outcome} ({winner.title}): {figures}; that is more than noise"


def report_markdown(
    verdict: str,
    groups: Sequence[GroupComparison],
    recipes: Sequence[RecipeFacts],
    twins: Sequence[TwinFacts],
    counts: PageCounts,
    num_seen: int,
    not_compared: Mapping[str, str],
) -> str:
    """The whole report. `verdict` is a line of plain text; the first of `groups` is the one that decides."""
    sections = [
        f"**{markdown_cell(verdict)}**",
        "## Measured",
        markdown_table(
            ("measured on", "in", "a", "b", "b minus a", "p", "number", "noise of documents", "noise of runs", ""),
            [
                (
                    row.group,
                    f"{row.metric}, {'higher' if row.higher_is_better else 'lower'} is better",
                    _estimate(row.comparison.a),
                    _estimate(row.comparison.b),
                    _signed(row.comparison.difference),
                    f"{row.comparison.p_value:.2g}",
                    row.comparison.num_documents,
                    f"{row.comparison.documents_error:.4f}",
                    f"{row.comparison.runs_error:.4f}",
                    row.comparison.outcome + ("" if place else ": decides"),
                )
                for place, row in enumerate(groups)
            ],
        )
        if groups
        else "Nothing: not all models were trained.",
        *(f"Not compared: {markdown_cell(group)}, {markdown_cell(why)}." for group, why in not_compared.items()),
        "The intervals are of 95 %. They hold both kinds of noise: which documents are scored, and how a training"
        " happens to go (standard errors above; paired differences as in Miller 2024, arXiv:2411.00640, and Welch's"
        " variance between runs). Only one row decides: of twenty that are looked at, one differs by chance.",
        "## Kept",
        markdown_table(
            ("", *(recipe.letter for recipe in recipes)),
            [
                ("recipe", *(recipe.title for recipe in recipes)),
                ("corpus", *(recipe.corpus for recipe in recipes)),
                ("records", *(recipe.records_in for recipe in recipes)),
                ("documents kept", *(recipe.documents_kept for recipe in recipes)),
                *_removed_rows(recipes),
                ("groups nearly wiped out", *(recipe.wipe_outs for recipe in recipes)),
                ("bytes of text", *(recipe.text_bytes for recipe in recipes)),
                ("tokens to train on", *(recipe.train_tokens for recipe in recipes)),
                ("passes of each model", *(f"{recipe.passes:.2f}" for recipe in recipes)),
                ("seconds of curation, this time", *(f"{recipe.curation_s:,.1f}" for recipe in recipes)),
            ],
        ),
        _pages_line(counts, num_seen),
        "## Models",
        markdown_table(
            (
                "model",
                "tokens",
                "seconds",
                "parameters",
                f"{groups[0].metric}, {groups[0].group}" if groups else "",
                "run",
            ),
            [
                (
                    twin.name,
                    twin.tokens,
                    f"{twin.seconds:,.1f}",
                    twin.num_parameters,
                    f"failed: {twin.failure}" if twin.failure else _own_figure(twin, groups, twins),
                    SafeMarkdown(f"[MLflow]({twin.page})") if twin.page else "",
                )
                for twin in twins
            ],
        ),
        f"In all {sum(twin.tokens for twin in twins):,} tokens in {sum(twin.seconds for twin in twins):,.0f} s of"
        " training.",
    ]
    return "\n\n".join(sections) + "\n"


def _pages_line(counts: PageCounts, num_seen: int) -> str:
    line = (
        f"Of the held-out pages a keeps {counts.held_out_a:,}, b {counts.held_out_b:,}, both {counts.kept_by_both:,};"
        f" {counts.chosen:,} were taken, {counts.with_two_texts:,} of them with two texts."
    )
    if num_seen:
        line += f" {num_seen:,} pages or texts are left out: a near-duplicate or much of them stands in training text."
    return (
        f"{line} What one recipe alone keeps is not in {HELD_OUT}: to judge that, give texts of what a model ought to"
        " know."
    )


def _removed_rows(recipes: Sequence[RecipeFacts]) -> list[tuple[object, ...]]:
    stages = dict.fromkeys(stage for recipe in recipes for stage in recipe.removed)
    return [(f"removed: {stage}", *(recipe.removed.get(stage, 0) for recipe in recipes)) for stage in stages]


def _own_figure(twin: TwinFacts, groups: Sequence[GroupComparison], twins: Sequence[TwinFacts]) -> str:
    if not groups:
        return ""
    of_recipe = [each for each in twins if each.letter == twin.letter and not each.failure]
    comparison = groups[0].comparison
    runs = comparison.runs_a if twin.letter == "a" else comparison.runs_b
    return f"{runs[of_recipe.index(twin)]:.4f}"


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
