"""What a form or command names by alias, `toxicity@champion`, becomes the version that it stands for when a run begins.

Everything that comes after (the stages, the record in MLflow, the flows that this one calls, the command that a failed
run shows) goes by the pinned name, whoever is champion by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from flows.parameters import PipelineParameters, RefreshParameters, Rules
from infra.recipe_models import pinned_names, resolve_models
from tasks.model_files import models_in
from tasks.recipes.curation import CurationRecipe, check_rules, resolve_curation_recipe
from tasks.store import Store

R = TypeVar("R", bound=Rules)
P = TypeVar("P", RefreshParameters, PipelineParameters)


def resolved_recipe(store: Store, rules: Rules, *, changed: bool = True) -> CurationRecipe:
    """The recipe, with its models pinned and in the store, and its rules found to load; `changed`: with the settings.

    ValueError in one line.
    """
    recipe = resolve_models(store, resolve_curation_recipe(rules.recipe, rules.overrides if changed else {}))
    with models_in(store.models):
        check_rules(recipe)
    return recipe


def pinned_rules(rules: R, recipe: CurationRecipe) -> R:
    """`rules` whose settings name every model as `recipe`, which is they resolved, does."""
    names = pinned_names(resolve_curation_recipe(rules.recipe, rules.overrides), recipe)
    settings = [_pinned(setting, names) for setting in rules.settings]
    return rules.model_copy(update={"settings": settings})


def pinned_parameters(parameters: P, recipe: CurationRecipe) -> P:
    """`parameters` with their curation as `pinned_rules` has it."""
    return parameters.model_copy(update={"curation": pinned_rules(parameters.curation, recipe)})


def _pinned(setting: str, names: Mapping[str, str]) -> str:
    """A setting is `key=name`, or `key=` and JSON with names in it."""
    key, _, value = setting.partition("=")
    for name, pinned in names.items():
        value = pinned if value == name else value.replace(f'"{name}"', f'"{pinned}"')
    return f"{key}={value}"
