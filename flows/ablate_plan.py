"""What an ablation would be: resolved and checked, and nothing done yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flows.ablate_parameters import AblateParameters, Measure
from flows.pinned_models import resolved_recipe
from infra.ray_map import check_cluster
from infra.settings import current_store
from tasks.ablation.pages import TEXT_COLUMN, text_groups, texts_identity
from tasks.ablation.scoring import Examples
from tasks.classifiers.table_rows import check_rows
from tasks.estimate import estimate_refresh
from tasks.inputs import file_identity
from tasks.manifest import fingerprint
from tasks.model_files import models_in
from tasks.plan import training_plan
from tasks.planned_mixture import CorpusFacts
from tasks.recipes.curation import CurationRecipe
from tasks.recipes.pretraining import PretrainRecipe, resolve_pretrain_recipe
from tasks.sources import collect_sources
from tasks.stages import Progress, no_progress
from tasks.store import Store

Letter = Literal["a", "b"]
LETTERS: tuple[Letter, ...] = ("a", "b")
MAX_PASSES = 4
"""Over a corpus: up to so many are nearly as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""
_TOKENS_PER_RECORD = 400
"""That a recipe leaves of a page, before that is known: 435 on 200 pages of documentation."""


@dataclass(frozen=True)
class AblatePlan:
    """Two recipes, their pages, and how their models are trained and measured."""

    store: Store
    sources: tuple[str, ...]
    recipes: Mapping[Letter, CurationRecipe]
    training: PretrainRecipe  # with the seed that theirs are counted from
    num_seeds: int
    held_out_fraction: float
    max_pages: int
    texts: tuple[str, ...]
    examples: Examples | None

    def corpus_names(self, progress: Progress = no_progress, *, write: bool) -> dict[Letter, str]:
        """Of each recipe the corpus of all files that the sources hold now.

        The name says what the corpus is made of and by what: another ablation of the same recipe on the same files
        takes it as it is. `write=False` leaves the embedded default unwritten.
        """
        files = sorted(
            file_identity(named.file)
            for named in collect_sources(self.store, self.sources, progress, write=write).files
        )
        return {
            letter: f"ablation-{fingerprint({'files': files, 'recipe': recipe})[:12]}"
            for letter, recipe in self.recipes.items()
        }

    def report_dir(self, corpora: Mapping[Letter, str]) -> Path:
        """Where this ablation keeps what it has found: the same question finds the same folder."""
        identity = {
            "ablation": corpora,
            "training": self.training,
            "seeds": self.num_seeds,
            "held_out_fraction": self.held_out_fraction,
            "max_pages": self.max_pages,
            "texts": texts_identity(self.texts),
            "examples": self.examples.identity if self.examples else {},
        }
        return self.store.root / "reports" / f"ablation-{fingerprint(identity)[:20]}"

    def twins(self) -> list[tuple[Letter, PretrainRecipe]]:
        """Recipes and the training of each model, in turns. No two have the same seed: what the chance of a training
        brings is then in the difference of a and b as it is in that of two runs of one recipe."""
        return [
            (letter, self.training.model_copy(update={"seed": self.training.seed + 2 * number + place}))
            for number in range(self.num_seeds)
            for place, letter in enumerate(LETTERS)
        ]


def check_ablate(parameters: AblateParameters) -> AblatePlan:
    """What can be refused before any work, as ValueError in one line; else what is to be done."""
    store = current_store()
    recipes: dict[Letter, CurationRecipe] = {}
    for letter in LETTERS:
        try:
            recipes[letter] = resolved_recipe(store, parameters.rules(letter))
        except ValueError as error:
            raise ValueError(f"recipe {letter}: {error}") from error
    store.check_remote()
    check_cluster()
    measure = parameters.measure
    text_groups(measure.texts)
    for path in measure.texts:
        check_rows(path, [TEXT_COLUMN])
    plan = AblatePlan(
        store=store,
        sources=(parameters.pages.source, *parameters.pages.more_sources),
        recipes=recipes,
        training=_training(parameters),
        num_seeds=parameters.twins.seeds,
        held_out_fraction=measure.held_out_fraction,
        max_pages=measure.pages,
        texts=tuple(measure.texts),
        examples=_examples(measure, store),
    )
    with models_in(store.models):
        plan.corpus_names(write=False)
    return plan


def _examples(measure: Measure, store: Store) -> Examples | None:
    """The packs, found to be there; None where none is named."""
    if not measure.tasks:
        return None
    examples = Examples(tuple(measure.tasks), measure.pages, store.work)
    assert examples.identity
    return examples


def _training(parameters: AblateParameters) -> PretrainRecipe:
    """The profile, but for the end of the run: that is the budget, of either recipe, whatever it keeps."""
    twins = parameters.twins
    overrides: dict[str, str] = {}
    for setting in twins.settings:
        key, _, value = setting.partition("=")
        if key in ("total_tokens", "epochs", "tokens_per_parameter", "held_out_fraction", "decay_from"):
            raise ValueError(
                f"{key} is not the training's to set here: the tokens and the held-out share are asked for"
            )
        if key in overrides:
            raise ValueError(f"the setting {key} is given twice; keep one of them")
        overrides[key] = value
    recipe = resolve_pretrain_recipe(twins.profile, overrides)
    end = {"total_tokens": twins.budget_tokens, "epochs": None, "tokens_per_parameter": None}
    changed = end | {"held_out_fraction": parameters.measure.held_out_fraction}
    return PretrainRecipe.model_validate(recipe.model_dump() | changed)


def dry_run_ablate(plan: AblatePlan, parameters: AblateParameters) -> dict[str, Any]:
    """What the ablation would read, reuse and take, as a plain mapping. Writes nothing."""
    names = plan.corpus_names(write=False)
    curation = {
        letter: estimate_refresh(
            plan.store, names[letter], plan.sources, plan.recipes[letter], workers=parameters.workers or 1
        )
        for letter in LETTERS
    }
    records = curation["a"]["estimated_new_records"] + sum(
        plan.store.corpus_manifest(f"{names['a']}@{version}")["records_in"]
        for version in plan.store.versions(names["a"])[-1:]
    )
    corpus = CorpusFacts(reference="a", estimated_tokens=records * _TOKENS_PER_RECORD, documents=records)
    one = training_plan(plan.training, corpus, folder=plan.store.root, probe=False)
    num_models = len(plan.twins())
    curation_s = sum(estimate["estimated_seconds"] for estimate in curation.values())
    return {
        "dry_run": True,
        "corpora": names,
        "estimated_records": records,
        "estimated_held_out_pages": round(records * plan.held_out_fraction),
        "models": num_models,
        "parameters": one.parameters,
        "tokens_each": one.tokens,
        "tokens_in_all": num_models * one.tokens,
        "passes_each": one.epochs,
        "curation_seconds": round(curation_s, 1),
        "training_seconds": round(num_models * one.seconds, 1) if one.seconds is not None else None,
        "disk_bytes": num_models * one.disk_bytes,
        "based_on": one.based_on,
    }
