"""The last version of a corpus, and whether the next one can be built onto it or has to be made again from all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from tasks.decontamination.step import Decontamination
from tasks.inputs import InputFile, file_identity, last_inputs
from tasks.quality_share import Cut
from tasks.recipes.curation import CurationRecipe
from tasks.store import Store
from tasks.tombstones import Tombstones

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


def last_version(store: Store, name: str, *, send: bool) -> dict[str, Any] | None:
    """The manifest of the latest version of corpus `name`; None where there is none.

    `send`: what of it was not sent goes to the remote first, so that no other machine gives its number to something
    else.
    """
    versions = store.versions(name)
    if not versions:
        return None
    latest = store.corpora / name / str(versions[-1])
    if send and latest.is_dir():
        store.upload(latest)
    return store.corpus_manifest(f"{name}@{versions[-1]}")


def cut_of(manifest: Mapping[str, Any] | None) -> Cut | None:
    """The cut that a version was made with; None where it keeps no share, or there was no document to find it among."""
    known = manifest.get("quality_share") if manifest is not None else None
    return Cut.model_validate(known) if known and known["num_texts"] else None


def recipe_of(manifest: Mapping[str, Any]) -> CurationRecipe:
    try:
        return CurationRecipe.model_validate(manifest["recipe"])
    except ValidationError as error:
        raise ValueError(
            f"the recipe of {manifest['name']}@{manifest['version']} is another program's"
            f" ({error.error_count()} of its fields do not fit): refresh {manifest['name']} first"
        ) from error


def tombstones_of(manifest: Mapping[str, Any] | None) -> Tombstones:
    return Tombstones(rules=manifest.get("tombstones", ()) if manifest else ())


def version_identity(manifest: Mapping[str, Any] | None) -> list[str] | None:
    """What tells a version from all others: what is in it, and what it was made of."""
    return [manifest["digest"], manifest["fingerprint"]] if manifest is not None else None


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
