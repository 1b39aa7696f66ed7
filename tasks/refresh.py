"""A refresh before it runs: what the next version of a corpus is made of, and the fingerprint of every stage.

A version is built **onto** the last one where that was decided in the same way and none of its inputs has changed: then
only new files are read, and all that is known of the others comes from the version itself. Else everything is made
**again** from all inputs, and of the last version only what was taken down is carried over. Both ways the same
documents survive.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.base_version import (
    check_recognisable,
    cut_of,
    has_index,
    last_version,
    recipe_of,
    tombstones_of,
    version_identity,
    why_again,
)
from tasks.bucket import buckets
from tasks.inputs import (
    InputFile,
    Profile,
    file_identity,
    inventory_input,
    last_inputs,
    read_input,
    read_shards,
    select_inputs,
)
from tasks.manifest import fingerprint
from tasks.model_files import models_in
from tasks.quality_share import Cut
from tasks.read.shard import ranges_of
from tasks.read.source import list_source
from tasks.recipes.curation import CurationRecipe
from tasks.refresh_stages import DECONTAMINATE, SCREENING, SHARING, deciding_fingerprints, refresh_stages
from tasks.sources import Collected, collect_sources
from tasks.stages import Progress, Stage, no_progress
from tasks.store import Store
from tasks.tombstones import Tombstones
from tasks.used_models import used_models


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
    """All that the version is made of."""
    waiting_files: int
    """New files that were left for later, by the profile."""
    recipe: CurationRecipe
    last: Mapping[str, Any] | None
    """The manifest of the version before; None where this is the first."""
    base: Mapping[str, Any] | None
    """The manifest of the version that is built onto; None where everything is made again."""
    mode_reason: str
    """`onto web@3`, or why everything is made again."""
    decided_by: Mapping[str, str]
    """What decides, or has decided, about the records: fingerprints of settings, code and libraries by stage."""
    tombstones: Tombstones
    newly_taken_down: Mapping[str, str]
    """Documents of the base that are taken down now: id to scope."""
    models: tuple[str, ...] = ()
    """Those that decide, or have decided (`tasks.used_models`)."""
    decontaminated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What its documents are, or were, freed of: of task packs and files of texts by name SHA-256 and counts."""
    base_dir: Path | None = None
    """The base's folder here; a plan that must not write leaves it out."""
    carried_dir: Path | None = None
    """Where there is no base: the last version's folder, if documents were taken down from it."""

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

        `profile` limits the new files of one run; `replace` leaves out what the sources hold no more. What was taken
        down stays so in any case. `write=False` leaves the embedded default unwritten, and sends and fetches nothing,
        which checks and estimates can do with. Raises ValueError where a source can't be read, where a file would have
        to be read again that is gone, or where copies of what was taken down would not be recognised any more.
        """
        last = last_version(store, name, send=write)
        version = last["version"] + 1 if last else 1
        watched = last is not None and not replace  # what was read before is there without its files
        collected = collect_sources(store, sources, progress, write=write, may_be_empty=watched)
        selection = select_inputs(last_inputs(last), collected.files, version=version, profile=profile, replace=replace)
        with models_in(store.models):
            decided_by = deciding_fingerprints(recipe)
        again = why_again(last, selection.inputs, recipe, decided_by, replace=replace)
        mode = f"onto {name}@{version - 1}"
        if again:
            mode = again if last is None else f"everything again: {again}"
        elif (cut := cut_of(last)) is not None:
            mode = f"{mode}, with {cut}"
        refresh = cls(
            store=store,
            name=name,
            version=version,
            sources=tuple(sources),
            collected=collected,
            inputs=selection.inputs,
            waiting_files=selection.waiting_files,
            recipe=recipe,
            last=last,
            base=None if again else last,
            mode_reason=mode,
            decided_by=decided_by,
            tombstones=tombstones_of(last),
            newly_taken_down={},
            models=used_models(recipe),
            decontaminated=recipe.decontamination.coverage(),
        )
        if refresh.base is None and not refresh.is_published:
            refresh._check_readable()
            if last is not None and refresh.tombstones.rules:
                check_recognisable(last, recipe)
        return refresh._with_last_version_here() if write else refresh

    @classmethod
    def takedown(cls, store: Store, name: str, tombstones: Tombstones, newly: Mapping[str, str]) -> Refresh:
        """The next version of corpus `name` without the documents `newly`, and with `tombstones` beside its own.

        It is built onto the last version whatever has changed in the code since: nothing is read or screened. Raises
        ValueError where there is no version, or where the last one has no index.
        """
        last = last_version(store, name, send=True)
        if last is None:
            store.version_folder(name)  # says which corpora there are
        assert last is not None
        if not has_index(last):
            raise ValueError(
                f"{name}@{last['version']} was made by an earlier program and has no index of its documents: refresh"
                f" {name} first"
            )
        refresh = cls(
            store=store,
            name=name,
            version=last["version"] + 1,
            sources=tuple(last["sources"]),
            collected=Collected((), last["ignored_files"]),
            inputs=last_inputs(last),
            waiting_files=last["waiting_files"],
            recipe=recipe_of(last),
            last=last,
            base=last,
            mode_reason=f"onto {name}@{last['version']}",
            decided_by=last["decided_by"],
            tombstones=tombstones_of(last).merged(tombstones),
            newly_taken_down=newly,
            models=tuple(last.get("models", ())),
            decontaminated=last.get("decontaminated", {}),
        )
        return refresh._with_last_version_here()

    def _with_last_version_here(self) -> Refresh:
        """This refresh with the folder of the last version, fetched if need be, where it needs that."""
        if self.last is None or (self.base is None and not (self.tombstones.rules and has_index(self.last))):
            return self
        folder = self.store.corpus(f"{self.name}@{self.version - 1}")
        if self.base is None:
            return dataclasses.replace(self, carried_dir=folder)
        return dataclasses.replace(self, base_dir=folder)

    @property
    def new_inputs(self) -> tuple[InputFile, ...]:
        return tuple(entry for entry in self.inputs if entry.batch == self.version)

    @property
    def inputs_to_read(self) -> tuple[InputFile, ...]:
        """What goes through the stages of screening; may be nothing where there is a base."""
        return self.new_inputs if self.base is not None else self.inputs

    @property
    def base_ledgers(self) -> tuple[Path, ...]:
        """The ledger parts of the version that is built onto, in the order of ids."""
        parts = (bucket.parts(self.base_dir, "ledger") for bucket in buckets(self.recipe.num_buckets))
        return tuple(path for paths in parts for path in paths)

    @property
    def ignored_files(self) -> Mapping[str, int]:
        """How many files of the sources are of no format we read, by suffix."""
        return self.collected.ignored

    @functools.cached_property
    def stages(self) -> Mapping[str, Stage]:
        """Every stage with its fingerprint."""
        carried = self.last if self.base is None and self.tombstones.rules else None
        with models_in(self.store.models):
            return refresh_stages(
                self.recipe,
                start={"base": version_identity(self.base), "inputs": self.inputs_to_read},
                deciding={
                    "carried": version_identity(carried),
                    "tombstones": self.tombstones,
                    "newly": dict(self.newly_taken_down),
                },
            )

    @property
    def screening(self) -> tuple[str, ...]:
        """The stages that look at one shard at a time, in order."""
        return tuple(name for name in (*SCREENING, DECONTAMINATE, *SHARING) if name in self.stages)

    @property
    def inherited_cut(self) -> Cut | None:
        """The cut of the version that is built onto, which stands for what comes now; None where one is to be found."""
        return cut_of(self.base)

    @property
    def cut_inputs(self) -> str:
        """Fingerprint of the files whose documents the version's cut is found among, or was."""
        if self.inherited_cut is not None:
            return self.inherited_cut.inputs
        return fingerprint({"files": sorted(file_identity(entry) for entry in self.inputs)})

    @functools.cached_property
    def content_fingerprint(self) -> str:
        """Of all that the version is made of, whichever way it is made."""
        made_of = {"inputs": self.inputs, "decided_by": self.decided_by, "tombstones": self.tombstones}
        if self.recipe.share_rule is not None:  # the same inputs in one go have another cut than one after the other
            made_of["cut"] = self.cut_inputs
        return fingerprint(made_of)

    @property
    def is_published(self) -> bool:
        """Whether the latest version of this name is what this refresh would make: there is no change."""
        if self.last is None or self.newly_taken_down:
            return False
        return bool(self.last["fingerprint"] == self.content_fingerprint)

    def published(self) -> tuple[Path, dict[str, Any]] | None:
        """The latest version, where there is no change: its folder, fetched if need be, and its manifest."""
        if self.last is None or not self.is_published:
            return None
        return self.store.corpus(f"{self.name}@{self.version - 1}"), dict(self.last)

    @property
    def facts(self) -> dict[str, Any]:
        """What the version's manifest says of its making: the next refresh reads it."""
        return {
            "base": self.base["version"] if self.base is not None else 0,
            "mode": self.mode_reason,
            "fingerprint": self.content_fingerprint,
            "fingerprints": {name: stage.fingerprint for name, stage in self.stages.items()},
            "decided_by": dict(self.decided_by),
            "screening_runs": self._screening_runs,
            "sources": list(self.sources),
            "inputs": [entry.model_dump(mode="json") for entry in self.inputs],
            "new_inputs": [entry.path for entry in self.new_inputs],
            "waiting_files": self.waiting_files,
            "ignored_files": dict(self.ignored_files),
            "recipe": self.recipe.model_dump(mode="json"),
            "models": list(self.models),
            "decontaminated": dict(self.decontaminated),
            "tombstones": self.tombstones.model_dump(mode="json")["rules"],
        }

    @property
    def _screening_runs(self) -> list[dict[str, str]]:
        """The runs of the screening stages that the version's records came through, as stage to folder in work/.

        They are kept with the version, so that one that is made again reads and extracts no page again.
        """
        runs = list(self.base["screening_runs"]) if self.base is not None else []
        if self.inputs_to_read:
            runs.append({name: self.stages[name].directory(self.store.work).name for name in self.screening})
        return runs

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
                f" to be read again ({self.mode_reason}): give it back as it was, or start over from what is there now"
                " with --replace"
            )


def _is_still_there(entry: InputFile) -> bool:
    try:
        return any(file_identity(file) == file_identity(entry) for file in list_source(entry.path).files)
    except ValueError:
        return False
