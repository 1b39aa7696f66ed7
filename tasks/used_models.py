"""The models that decide about a corpus, each by a name that tells it from every other: for manifests, cards and runs.

One that a recipe names goes by that name, which has its hash. One that comes with the program has a hash of its own,
that of a classifier being its `classifier.json`'s; one that comes inside a package is told by the package's version.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from tasks.extract.limits import Extraction
from tasks.manifest import file_sha256
from tasks.model_facts import BY_LIBRARY, FACTS
from tasks.model_files import CLASSIFIER_FILE
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Rule


def used_models(recipe: CurationRecipe) -> tuple[str, ...]:
    """`toxicity@3#sha256=...`, `embedded quality#sha256=...`, `py3langid 0.4.0`: each once, in the order of use."""
    return tuple(dict.fromkeys(_of_recipe(recipe)))


def _of_recipe(recipe: CurationRecipe) -> Iterator[str]:
    parts: tuple[Rule | Extraction, ...] = (
        recipe.extraction,
        recipe.language,
        *recipe.quality_rules,
        *recipe.toxicity_rules,
    )
    for part in parts:
        if named := str(getattr(part, "model", "")):
            yield named
        else:
            yield from (f"embedded {name}#sha256={file_sha256(file)}" for file in part.files() if (name := _name(file)))
        for library in part.libraries:
            if any(each.facts.kind == "model" for each in BY_LIBRARY.get(library, ())):
                yield f"{library} {importlib.metadata.version(library)}"


def _name(file: Path) -> str:
    """Of a model that comes with the program; empty for a list."""
    if file.name == CLASSIFIER_FILE:
        return file.parent.name
    known = FACTS.get(file.name)
    return file.stem if known is not None and known.kind == "model" else ""
