"""What an operator can set for an ablation: the form in Prefect, and the options of `tokenmill ablate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flows.parameters import Form, Rules, Setting, Text
from tasks.ablation.verdict import MIN_DOCUMENTS, MIN_RUNS
from tasks.inputs import Profile
from tasks.source_names import EMBEDDED


class Pages(Form):
    """What both recipes are given."""

    source: str = Field(
        EMBEDDED,
        title="Source",
        min_length=1,
        description="The pages, as for a refresh: a path, glob, folder or address of files, or a .txt list of such."
        f" {EMBEDDED}, or {EMBEDDED}:500 or :all, is the documentation of the installed packages. All of it is read.",
    )
    more_sources: list[Text] = Field(default_factory=list, title="More sources", description="Read as well.")


class Twins(Form):
    """The models that are trained, as many of each recipe."""

    profile: Profile = Field(
        "smoke",
        title="Profile",
        description="Network and training: smoke .8M parameters, small 10M, full 124M. What a small model prefers is"
        " mostly what a large one does (Penedo et al. 2024 chose FineWeb's rules with 1.8B).",
    )
    settings: list[Setting] = Field(
        default_factory=list,
        title="Changed settings",
        description="Single values of the profile, such as learning_rate=0.001.",
    )
    budget_tokens: int = Field(
        1_000_000,
        ge=1,
        title="Tokens",
        description="Each model is trained on so many, whatever its recipe keeps: of a smaller corpus in more passes.",
    )
    seeds: int = Field(
        3,
        ge=MIN_RUNS,
        le=100,
        title="Seeds",
        description="Models of each recipe. They say how much a training varies by chance; more tell smaller"
        " differences apart.",
    )


class Measure(Form):
    """What the models are measured on."""

    held_out_fraction: float = Field(
        0.1,
        gt=0,
        le=0.5,
        title="Held out",
        description="Share of the pages, by a hash of their URLs, that no model is trained on.",
    )
    pages: int = Field(
        400,
        ge=MIN_DOCUMENTS,
        le=100_000,
        title="Pages at most",
        description="Of the held-out pages that both recipes keep, and examples of each table of texts or task.",
    )
    texts: list[Text] = Field(
        default_factory=list,
        title="Texts",
        description="Tables (JSONL, CSV or Parquet, with a column text) of what a model ought to know. The first one"
        " decides; without any, the held-out pages do.",
    )
    tasks: list[Text] = Field(
        default_factory=list,
        title="Tasks",
        description="Packs of evaluation tasks, as for an evaluation: measured on as well, and never what decides.",
    )


class AblateParameters(Form):
    """Two recipes on the same pages: which one's models are better, and whether that is more than noise."""

    pages: Pages = Field(default_factory=Pages, title="Pages")
    recipe_a: Rules = Field(default_factory=lambda: Rules(recipe="documentation"), title="Recipe a")
    recipe_b: Rules = Field(default_factory=lambda: Rules(recipe="fineweb"), title="Recipe b")
    twins: Twins = Field(default_factory=Twins, title="Models")
    measure: Measure = Field(default_factory=Measure, title="Measure")
    workers: int = Field(
        0, ge=0, le=10_000, title="Workers", description="Shards at a time; 0: as many as Ray has CPUs."
    )
    dry_run: bool = Field(
        False, title="Dry run", description="Resolve, check and estimate everything; do and write nothing."
    )

    def rules(self, recipe: Literal["a", "b"]) -> Rules:
        """Those of one recipe."""
        return self.recipe_a if recipe == "a" else self.recipe_b
