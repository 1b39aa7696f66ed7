"""A refresh before it runs: what the next version of a corpus is made of, and the fingerprint of every stage."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.inputs import (
    InputFile,
    Profile,
    file_identity,
    inventory_input,
    last_inputs,
    ranges_of,
    read_input,
    read_shards,
    select_inputs,
)
from tasks.manifest import files_identity, fingerprint
from tasks.read.source import list_source
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Rule
from tasks.sources import Collected, collect_sources
from tasks.stages import Progress, Stage, no_progress
from tasks.store import Store

_EXTRACTION_LIBRARIES = ("trafilatura", "justext", "courlan", "lxml", "lxml-html-clean", "charset-normalizer")


def _rules_identity(rules: tuple[Rule, ...]) -> dict[str, Any]:
    return {"rules": rules, "files": [files_identity(rule.files()) for rule in rules]}


def _libraries(*rules: Rule) -> tuple[str, ...]:
    return tuple(sorted({name for rule in rules for name in rule.libraries}))


@dataclass(frozen=True)
class Refresh:
    """One refresh, resolved: what it is made of, by which recipe, in which store. No stage has run yet."""

    store: Store
    name: str
    version: int
    """The version that it would publish."""
    sources: tuple[str, ...]
    collected: Collected
    inputs: tuple[InputFile, ...]
    waiting_files: int
    """New files that were left for later, by the profile."""
    recipe: CurationRecipe
    last: Mapping[str, Any] | None
    """The manifest of the version before; None where this is the first."""

    @classmethod
    def plan(
        cls,
        store: Store,
        name: str,
        sources: Sequence[str],
        recipe: CurationRecipe,
        *,
        profile: Profile = "full",
        replace: bool = False,
        progress: Progress = no_progress,
        write: bool = True,
    ) -> Refresh:
        """What the sources hold now, laid beside the last version of corpus `name`: its inputs, and what is new.

        `profile` limits the new files of one run; `replace` leaves out what the sources hold no more. `write=False`
        leaves the embedded default unwritten and unsent what an earlier upload has left out, which checks and estimates
        can do with. Raises ValueError where a source can't
        be read, or where a file would have to be read again that is gone.
        """
        versions = store.versions(name)
        last = store.corpus_manifest(f"{name}@{versions[-1]}") if versions else None
        version = versions[-1] + 1 if versions else 1
        if write and versions and (latest := store.corpora / name / str(versions[-1])).is_dir():
            store.upload(latest)  # what was not sent: no other machine may give its number to something else
        watched = last is not None and not replace  # what was read before is there without its files
        collected = collect_sources(store, sources, progress, write=write, may_be_empty=watched)
        selection = select_inputs(last_inputs(last), collected.files, version=version, profile=profile, replace=replace)
        refresh = cls(
            store, name, version, tuple(sources), collected, selection.inputs, selection.waiting_files, recipe, last
        )
        if not refresh.is_published:
            refresh._check_readable()
        return refresh

    @property
    def new_inputs(self) -> tuple[InputFile, ...]:
        return tuple(entry for entry in self.inputs if entry.batch == self.version)

    @property
    def ignored_files(self) -> Mapping[str, int]:
        """How many files of the sources are of no format we read, by suffix."""
        return self.collected.ignored

    @functools.cached_property
    def stages(self) -> Mapping[str, Stage]:
        """Every stage with its fingerprint."""
        recipe = self.recipe
        limits = {"reading": recipe.reading, "shard": [recipe.shard_records, recipe.shard_bytes]}
        identities: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
            "inventory": (limits, ("pyarrow",)),
            "read": ({"reading": recipe.reading}, ("fastwarc", "brotli", "pyarrow")),
            "extract": (
                {**_rules_identity((recipe.url_filter,)), "extraction": recipe.extraction},
                (*_EXTRACTION_LIBRARIES, *_libraries(recipe.url_filter)),
            ),
            "language": (_rules_identity((recipe.language,)), _libraries(recipe.language)),
            "quality": (_rules_identity(recipe.quality_rules), _libraries(*recipe.quality_rules)),
            "toxicity": (_rules_identity(recipe.toxicity_rules), _libraries(*recipe.toxicity_rules)),
            "signatures": ({"minhash": recipe.deduplication}, ("numpy",)),
            "edges": ({}, ("numpy",)),
            "clusters": ({}, ("numpy", "scipy")),
            "settle": ({}, ("pyarrow",)),
            "publish": ({"buckets": recipe.num_buckets}, ("pyarrow",)),
        }
        stages: dict[str, Stage] = {}
        after = fingerprint({"inputs": self.inputs})
        for name, (identity, libraries) in identities.items():
            stages[name] = Stage(name, identity, libraries, after=after)
            after = stages[name].fingerprint
        return stages

    @property
    def is_published(self) -> bool:
        """Whether the latest version of this name is what this refresh would make: there is no change."""
        return self.last is not None and self.last["fingerprint"] == self.stages["publish"].fingerprint

    def published(self) -> tuple[Path, dict[str, Any]] | None:
        """The latest version, where there is no change: its folder, fetched if need be, and its manifest."""
        if self.last is None or not self.is_published:
            return None
        return self.store.corpus(f"{self.name}@{self.version - 1}"), dict(self.last)

    def _check_readable(self) -> None:
        """ValueError where an input that the sources hold no more has lost its shards, and cannot be read again."""
        there = {file_identity(named.file) for named in self.collected.files}
        absent = [e for e in self.inputs if e.batch != self.version and file_identity(e) not in there]
        if not absent:
            return
        work, recipe = self.store.work, self.recipe
        counted = {e.path: self.stages["inventory"].shard(work, inventory_input(e.file)) for e in self.inputs}
        ranges = {path: ranges_of(shard) for path, shard in counted.items() if shard.is_dir()}
        # whose neighbours have not been counted cannot know its shard: taken as lost
        uncounted = {(e.batch, e.source) for e in self.inputs if e.path not in ranges}
        members = [e for e in self.inputs if (e.batch, e.source) not in uncounted]
        unread = {e.path: False for e in members}
        for shard in read_shards(members, ranges, recipe.shard_records):
            if not self.stages["read"].shard(work, read_input(shard)).is_dir():
                unread |= {part.file.path: True for part in shard.ranges}
        gone = [e.path for e in absent if unread.get(e.path, True) and not _is_still_there(e)]
        if gone:
            others = f" (and {len(gone) - 1} more)" if len(gone) > 1 else ""
            raise ValueError(
                f"{gone[0]}{others}, an input of {self.name}@{self.version - 1}, is gone or has changed, and would have"
                " to be read again: give it back as it was, or start over from what is there now with --replace"
            )


def _is_still_there(entry: InputFile) -> bool:
    try:
        return any(file_identity(file) == file_identity(entry) for file in list_source(entry.path).files)
    except ValueError:
        return False
