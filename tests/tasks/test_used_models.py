"""Every model that a recipe uses has a name that tells it from all others, whether the recipe names it or not."""

from __future__ import annotations

import hashlib
import importlib.metadata

import pytest

from tasks.classifiers.bundle import embedded
from tasks.model_files import CLASSIFIER_FILE
from tasks.recipes.curation import CurationRecipe, dclm, fineweb, resolve_curation_recipe, smoke
from tasks.used_models import used_models

PINNED = f"taste@3#sha256={'a' * 64}"
LANGUAGE = f"py3langid {importlib.metadata.version('py3langid')}"


def classifier(name: str) -> str:
    return f"embedded {name}#sha256={hashlib.sha256((embedded(name) / CLASSIFIER_FILE).read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("recipe", "models"),
    [
        (smoke(), [LANGUAGE]),
        (dclm(), [LANGUAGE, classifier("quality")]),
        (resolve_curation_recipe("dclm", {"quality.model": PINNED}), [LANGUAGE, PINNED]),
    ],
    ids=["of a package", "embedded", "named"],
)
def test_each_model_has_its_name_once(recipe: CurationRecipe, models: list[str]) -> None:
    assert list(used_models(recipe)) == models


def test_lists_are_no_models_and_the_extraction_uses_one() -> None:
    blocks, language, toxicity = used_models(fineweb())
    assert blocks.startswith("embedded block_model#sha256=") and (language, toxicity) == (
        LANGUAGE,
        classifier("toxicity"),
    )
