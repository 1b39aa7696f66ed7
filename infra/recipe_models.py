"""Models that a recipe names in the registry: resolved to version and hash before the first stage, and brought here.

`toxicity@champion` is another model tomorrow. What a run records, and what its fingerprints are made of, is
`toxicity@3#sha256=...`, which is always the same; its files are among the store's models, found by the hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infra.classifier_registry import check_pin, fetch_classifier
from infra.mlflow_tracker import BEGIN_S
from infra.tracking_client import answered
from tasks.model_files import fetch_command, model_path, models_in, parse_model
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Configuration
from tasks.store import Store
from tasks.transient import UnavailableError
from tasks.used_models import used_models

_FIELD = "model"
"""Of a rule: what names its model (tasks/model_files.py)."""


def resolve_models(store: Store, recipe: CurationRecipe) -> CurationRecipe:
    """`recipe` with every `name@alias` and `name@version` as `name@version#sha256=...`, and their bundles in the store.

    Paths and URLs stay as they are: those are fetched by `tokenmill doctor --fetch` alone. What is pinned and here is
    run though MLflow is away. ValueError, saying what there is, for a name that is not registered, and with both hashes
    where a pinned version is another; UnavailableError where MLflow is away for a minute and has to be asked.
    """
    known: dict[str, str] = {}

    def resolved(reference: str) -> str:
        if reference not in known:
            known[reference] = _pinned(store, reference)
        return known[reference]

    result = _with_models(recipe, resolved)
    assert isinstance(result, CurationRecipe)
    return result


def bring_models(store: Store, recipe: CurationRecipe) -> None:
    """Have the models of `recipe`, which a version was made with, in the store: by their hashes, whatever their names
    mean by now. The registry is asked for those of its classifiers that are not here.

    ValueError, in one line and with the command that brings it, where one is not to be had; UnavailableError where
    MLflow is away for a minute.
    """
    for reference in dict.fromkeys(filter(None, _references(recipe))):
        model = parse_model(reference)
        if model.kind == "registry" and not (store.models / model.sha256).is_dir():
            try:
                _pinned(store, reference)
            except UnavailableError:
                raise
            except ValueError as error:
                folder = f"/its/folder#sha256={model.sha256}"
                raise ValueError(
                    f"the corpus was made with {reference}, which is not in the store, and MLflow has it not: {error};"
                    f" bring it from where its folder is, with `{fetch_command(store.models, folder)}`"
                ) from error
        with models_in(store.models):
            model_path(reference, None)


def models_tag(recipe: CurationRecipe) -> dict[str, str]:
    """A tag for the run of a recipe: the models that decide."""
    return {"tokenmill.models": ", ".join(used_models(recipe))}


def pinned_names(recipe: CurationRecipe, resolved: CurationRecipe) -> Mapping[str, str]:
    """By what `recipe` names a model, what `resolved`, the same recipe, names it: the names that were resolved."""
    pairs = zip(_references(recipe), _references(resolved), strict=True)
    return {before: after for before, after in pairs if before != after}


def _pinned(store: Store, reference: str) -> str:
    model = parse_model(reference)
    if model.kind != "registry":
        return reference
    if model.sha256 and (store.models / model.sha256).is_dir():
        check_pin(store, model)
        return reference
    version = answered(lambda: fetch_classifier(store, reference), f"looking for the classifier {reference}", BEGIN_S)
    return version.pinned


def _references(node: Any) -> Iterator[str]:
    """The value of every field of that name, in the order of fields."""
    if isinstance(node, Configuration):
        for field in type(node).model_fields:
            value = getattr(node, field)
            if field == _FIELD and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, tuple):
        for element in node:
            yield from _references(element)


def _with_models(node: Any, change: Callable[[str], str]) -> Any:
    """The same with the changed names; parts without any stay the very same."""
    if isinstance(node, tuple):
        elements = tuple(_with_models(element, change) for element in node)
        return elements if any(new is not old for new, old in zip(elements, node, strict=True)) else node
    if not isinstance(node, Configuration):
        return node
    changed: dict[str, Any] = {}
    for field in type(node).model_fields:
        value = getattr(node, field)
        new = change(value) if field == _FIELD and isinstance(value, str) else _with_models(value, change)
        if new is not value:
            changed[field] = new
    return node.model_copy(update=changed) if changed else node
