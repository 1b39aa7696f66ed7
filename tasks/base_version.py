"""Whether the next version of a corpus can be built onto the last one, or has to be made again from all inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.decontamination.step import Decontamination
from tasks.inputs import InputFile, file_identity, last_inputs
from tasks.recipes.curation import CurationRecipe

_SETTINGS: Mapping[str, str] = {
    "reading": "the limits of reading",
    "url_filter": "the URL filter",
    "extraction": "the limits of extraction",
    "language": "the languages",
    "quality_rules": "the quality rules",
    "toxicity_rules": "the toxicity rules",
    "decontamination": "the decontamination",
    "deduplication": "the settings of deduplication",
    "num_buckets": "the number of buckets",
}
"""Fields of a recipe that decide which documents a version has and where they lie in it; in words."""


def has_index(manifest: Mapping[str, Any]) -> bool:
    """Whether a version can be built onto at all; those of earlier programs can't."""
    return any(part["path"].startswith("index/") for part in manifest["parts"])


def why_again(
    last: Mapping[str, Any] | None,
    inputs: Sequence[InputFile],
    recipe: CurationRecipe,
    decided_by: Mapping[str, str],
    *,
    replace: bool,
) -> str:
    """Why the version of these `inputs` can't be built onto the `last` one; empty where it can.

    It can where the same settings, code and libraries decided there, and all of its inputs are among these, unchanged.
    `decided_by` is what decides now (`refresh_stages.deciding_fingerprints`).
    """
    if last is None:
        return "the first version"
    if replace:
        return "only what the sources hold now is taken"
    if not has_index(last):
        return f"{last['name']}@{last['version']} has no index"
    present = {file_identity(entry) for entry in inputs}
    if changed := [entry.path for entry in last_inputs(last) if file_identity(entry) not in present]:
        return f"{changed[0]}{f' and {len(changed) - 1} more' if len(changed) > 1 else ''} changed"
    earlier = {"decontamination": Decontamination().model_dump(mode="json")}  # of programs that had none
    then, now = (_by_hash(settings) for settings in (earlier | last["recipe"], recipe.model_dump(mode="json")))
    if settings := [words for name, words in _SETTINGS.items() if then.get(name) != now[name]]:
        return f"{' and '.join(settings)} changed"
    before = last["decided_by"]
    if stages := [name for name in decided_by if before.get(name) != decided_by[name]]:
        return f"the code, a file or a library of {', '.join(stages)} changed"
    return ""


def _by_hash(settings: Any) -> Any:
    """A recipe's settings with the hash of each model in place of the name or version that it goes by."""
    if isinstance(settings, list):
        return [_by_hash(each) for each in settings]
    if not isinstance(settings, Mapping):
        return settings
    return {
        key: each.rpartition("#sha256=")[2] if key == "model" and isinstance(each, str) else _by_hash(each)
        for key, each in settings.items()
    }


def check_recognisable(last: Mapping[str, Any], recipe: CurationRecipe) -> None:
    """ValueError where what was taken down from the `last` version can't be recognised with this recipe.

    Its texts are gone: copies of them are recognised by the signatures that were made of them.
    """
    signed_with = last["recipe"]["deduplication"]["minhash"]
    if signed_with != recipe.deduplication.minhash.model_dump(mode="json"):
        changed = ", ".join(
            f"deduplication.minhash.{name}={value}"
            for name, value in signed_with.items()
            if getattr(recipe.deduplication.minhash, name) != value
        )
        raise ValueError(
            f"documents were taken down from {last['name']}, and their copies are recognised by signatures that were"
            f" made with {changed}: leave that as it was"
        )
