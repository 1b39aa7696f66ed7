"""The stages of a refresh with everything that determines their output: settings, code, libraries, and what they read.

A changed setting, module or library makes its own stage and what follows anew, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.manifest import code_version, files_identity, fingerprint, library_versions
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Rule
from tasks.stages import Stage

SCREENING = ("inventory", "read", "extract", "language", "quality", "toxicity")
"""Stages that look at one shard of the input at a time, and keep it for every run that needs the same."""

DECONTAMINATE = "decontaminate"
"""The same, after these, where the recipe names evaluation examples that no document is to hold."""

SHARING = ("share_scores", "share")
"""The same where the recipe keeps a share of the corpus: they come after the others (tasks.keep_best)."""

DEDUPLICATION = "deduplication"
"""No stage by itself: what decides which documents survive, whichever stages carry it out."""

_READING_LIBRARIES = ("fastwarc", "brotli", "zstandard", "pyarrow")
_DECIDING_MODULES = (
    "tasks.dedup.index",
    "tasks.dedup.edges",
    "tasks.dedup.components",
    "tasks.dedup.members",
    "tasks.dedup.resolve",
    "tasks.dedup.paragraphs",
)
_NUMERIC_LIBRARIES = ("numpy", "scipy", "pyarrow")


@dataclass(frozen=True)
class _Part:
    """A stage but for its place in the chain."""

    identity: Mapping[str, Any]
    libraries: tuple[str, ...]
    modules: tuple[str, ...]

    def stage(self, name: str, after: str) -> Stage:
        return Stage(name, self.identity, self.libraries, self.modules, after)


def _ruled(
    rules: tuple[Rule, ...], modules: tuple[str, ...], libraries: tuple[str, ...] = (), **identity: Any
) -> _Part:
    """A stage that applies `rules`: their settings and files, their libraries, and the modules that they are in."""
    settings = [rule.model_copy(update={"model": ""}) if hasattr(rule, "model") else rule for rule in rules]
    return _Part(  # a model is its file, whatever name or version it goes by
        {"rules": settings, "files": [files_identity(rule.files()) for rule in rules], **identity},
        tuple(sorted({*libraries, *(name for rule in rules for name in rule.libraries)})),
        (*modules, *sorted({type(rule).__module__ for rule in rules})),
    )


def _extracting(recipe: CurationRecipe) -> _Part:
    """The stage that takes texts out of pages: the engine's settings, models, libraries, and the rough look before."""
    extraction, rough = recipe.extraction, recipe.rough_language
    identity = {"extraction": extraction, "files": files_identity(extraction.files()), "rough": rough}
    libraries = {*extraction.libraries, "pyarrow", *(rough.libraries if rough is not None else ())}
    return _Part(identity, tuple(sorted(libraries)), ("tasks.extract_records", "tasks.extract"))


def _decontaminating(recipe: CurationRecipe) -> dict[str, _Part]:
    """The stage `DECONTAMINATE`, where the recipe has it; packs and files are their hashes, wherever they lie."""
    rule = recipe.decontamination
    if not rule.is_on:
        return {}
    settings = rule.model_dump(mode="json", exclude={"packs", "texts"})
    identity = {"settings": settings, "looked_for": rule.looked_for()}
    libraries = tuple(sorted({*rule.libraries, "pyarrow"}))
    return {DECONTAMINATE: _Part(identity, libraries, ("tasks.screen", type(rule).__module__))}


def _sharing(recipe: CurationRecipe) -> dict[str, _Part]:
    """The stages of `SHARING`, where the recipe keeps a share; the cut is the second one's input."""
    rule = recipe.share_rule
    if rule is None:
        return {}
    scores = _ruled((rule.scoring(),), ("tasks.keep_best",), ("numpy", "pyarrow"))
    return {"share_scores": scores, "share": _Part({"keep_share": rule.keep_share}, ("pyarrow",), ("tasks.keep_best",))}


def _parts(recipe: CurationRecipe) -> dict[str, _Part]:
    deduplication = recipe.deduplication
    limits = {"reading": recipe.reading, "shard": [recipe.shard_records, recipe.shard_bytes]}
    deduplicate = functools.partial(_Part, libraries=_NUMERIC_LIBRARIES, modules=("tasks.deduplicate",))
    parts = {
        "inventory": _Part(limits, ("pyarrow", "zstandard"), ("tasks.read.shard",)),
        "read": _ruled(
            (recipe.url_filter,), ("tasks.read.shard", "tasks.occurrences"), _READING_LIBRARIES, reading=recipe.reading
        ),
        "extract": _extracting(recipe),
        "language": _ruled((recipe.language,), ("tasks.screen",)),
        "quality": _ruled(recipe.document_rules, ("tasks.screen",)),
        "toxicity": _ruled(recipe.toxicity_rules, ("tasks.screen",)),
        **_decontaminating(recipe),
        **_sharing(recipe),
        "gather_runs": _Part({}, ("pyarrow",), ("tasks.gather",)),
        "gather": _Part({"buckets": recipe.num_buckets}, ("pyarrow",), ("tasks.gather",)),
        "index": deduplicate({"minhash": deduplication.minhash}),
        "edges": deduplicate({}),
        "components": deduplicate({}),
        "members": deduplicate({"deduplication": deduplication}),
        "resolve": deduplicate({"deduplication": deduplication}),
        "settle": _Part({}, ("pyarrow",), ("tasks.settle",)),
    }
    if deduplication.min_paragraph_chars:
        paragraphs = _Part({"deduplication": deduplication}, _NUMERIC_LIBRARIES, ("tasks.shorten",))
        parts |= dict.fromkeys(("paragraph_runs", "repeated_paragraphs", "paragraphs"), paragraphs)
    return parts | {"publish": _Part({"buckets": recipe.num_buckets}, ("pyarrow",), ("tasks.seal", "tasks.publish"))}


def refresh_stages(
    recipe: CurationRecipe, *, start: Mapping[str, Any], deciding: Mapping[str, Any]
) -> dict[str, Stage]:
    """Every stage in order, each with the fingerprint of the one before it.

    `start` is all that the first stage begins with, `deciding` what enters with the index: what was taken down.
    """
    stages: dict[str, Stage] = {}
    after = fingerprint(start)
    for name, part in _parts(recipe).items():
        if name == "index":
            after = fingerprint({"gathered": after, **deciding})
        stages[name] = part.stage(name, after)
        after = stages[name].fingerprint
    return stages


def deciding_fingerprints(recipe: CurationRecipe) -> dict[str, str]:
    """What decides about records, by stage and whatever the input: where all are equal, so is what becomes of them.

    Counting (inventory) and linking (publish) decide nothing; of deduplication it is the method, not its bookkeeping.
    """
    names = {*SCREENING[1:], DECONTAMINATE, *SHARING, "settle", "paragraphs"}
    deciding = {name: part for name, part in _parts(recipe).items() if name in names}
    own = {name: part.stage(name, "").own_fingerprint for name, part in deciding.items()}
    deduplication = {
        "deduplication": recipe.deduplication,
        "buckets": recipe.num_buckets,
        "code": code_version(*_DECIDING_MODULES),
        "libraries": library_versions(_NUMERIC_LIBRARIES),
    }
    return own | {DEDUPLICATION: fingerprint(deduplication)}
