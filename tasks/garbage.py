"""What of a store may go: for every version, stage output, token folder and training run a decision and its reason.

Kept are

- the newest versions of each corpus, those that a model was trained on, those that an unfinished training goes on with,
  and those that an operator has pinned with an empty file `corpora/<name>/<version>.pin`;
- the stage outputs and shards that a kept version was made of, with those of the screening of all versions that it was
  built onto: with them a version that has to be made again reads no page again;
- collected sources that a kept version was read from;
- token shards of kept versions and of models, without the work that they were made by: they hold all of it;
- models that the recipe of a kept version names, and classifiers that MLflow's registry has;
- every tokenizer, audit record, report and preview;
- of a training run the checkpoints that models name, and of one that has not finished the newest one, which it goes on
  from, and the last good one, which it would go back to; checkpoints in a place outside of the run's folder are not
  looked at, and the run that has not finished stays with them;
- whatever is younger than the least age, and whatever cannot be read: only a person can tell what it is.

Nothing is removed here. A `Plan` is the same for a dry run and for the real one (infra/garbage.py).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.checkpoints import latest_checkpoint, read_state
from tasks.manifest import MANIFEST, read_manifest
from tasks.pack import MANIFEST as TOKENS_MANIFEST
from tasks.stages import SHARDS, stage_directory
from tasks.store import RUN_RECORD, Store
from tasks.trained_corpora import TrainedCorpus, trained_corpora

CHECKPOINTS = "checkpoints"
_HEX = frozenset("0123456789abcdef")
_MODEL_HASH = re.compile(r"#sha256=([0-9a-f]{64})")  # in a recipe, as tasks.model_files writes it


@dataclass(frozen=True)
class Reference:
    """What somebody outside the store's folders still needs; empty where it names none."""

    name: str  # as a person knows it: model web-smoke@3
    corpora: tuple[TrainedCorpus, ...] = ()
    checkpoint: str = ""  # path or URL
    run_dir: Path | None = None


@dataclass(frozen=True)
class Policy:
    """How much is kept beyond what is needed."""

    keep_versions: int = 3  # of each corpus
    min_age_s: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        if self.keep_versions < 1:
            raise ValueError(
                f"keep_versions {self.keep_versions}: the latest version of a corpus is always kept; give 1"
            )
        if self.min_age_s < 0:
            raise ValueError(f"an age of {self.min_age_s:.0f} s: give 0 or more")


@dataclass(frozen=True)
class Decision:
    """One folder or file of the store, and what is to become of it."""

    path: Path
    keep: bool
    why: str
    lock: str = ""  # of the store, that must be held to remove it
    only_idle: bool = True  # flows may be reading it, whatever locks they hold: it goes only while none is at work


@dataclass
class Plan:
    """Every decision, in the order of removal: what refers to something goes before that."""

    decisions: list[Decision] = field(default_factory=list)

    @property
    def removed(self) -> list[Decision]:
        return [decision for decision in self.decisions if not decision.keep]

    @property
    def kept(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.keep]


def plan_garbage(
    store: Store,
    references: Sequence[Reference],
    policy: Policy,
    now: float | None = None,
    classifiers: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Decide on everything in `store`; `references` are those of the registered models. Reads, and writes nothing.

    `classifiers` are the registered ones, by their hash.
    """
    return _Planner(store, tuple(references), policy, time.time() if now is None else now, classifiers).plan()


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(status.st_size for status in _files(path))


def freed_bytes(paths: Iterable[Path]) -> int:
    """What removing `paths` gives back to the disk: a file with a name elsewhere, too, stays there."""
    links: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for status in _files(path):
            key = (status.st_dev, status.st_ino)
            links[key] = links.get(key, 0) + 1
            sizes[key] = (status.st_nlink, status.st_size)
    return sum(size for key, (num_links, size) in sizes.items() if links[key] >= num_links)


def _files(path: Path) -> Iterator[os.stat_result]:
    if path.is_symlink() or not path.is_dir():
        yield path.lstat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name).lstat()


@dataclass(frozen=True)
class _Unfinished:
    """What a run that would go on needs."""

    digests: frozenset[str]  # of its corpora
    elsewhere: str = ""  # where its checkpoints are, if not in its folder


class _Planner:
    def __init__(
        self,
        store: Store,
        references: tuple[Reference, ...],
        policy: Policy,
        now: float,
        classifiers: Mapping[str, str],
    ) -> None:
        self._store, self._references, self._policy, self._now = store, references, policy, now
        self._classifiers = classifiers
        self._plan = Plan()
        self._kept_versions: dict[str, Mapping[str, Any]] = {}  # name@version to its manifest
        self._unreadable: list[Path] = []  # kept, without knowing what they refer to

    def plan(self) -> Plan:
        runs = self._unfinished_runs()
        self._versions(runs)
        self._runs(runs)
        self._tokens(runs)
        self._stages()
        self._sources()
        self._models()
        return self._plan

    def _decide(
        self, path: Path, needed: str | None, otherwise: str, lock: str = "", *, only_idle: bool = True
    ) -> bool:
        """Keep `path` where it is `needed` or young, else let it go because of `otherwise`; whether it is kept."""
        if needed is None and (age_s := self._now - _changed(path)) < self._policy.min_age_s:
            needed = f"{age_s / 86400:.1f} days old, less than {self._policy.min_age_s / 86400:g}"
        self._plan.decisions.append(Decision(path, needed is not None, needed or otherwise, lock, only_idle))
        return needed is not None

    # corpus versions

    def _versions(self, unfinished: Mapping[Path, _Unfinished]) -> None:
        for folder in _folders(self._store.corpora):
            lock = f"corpus-{folder.name}"
            numbers = sorted(int(entry.name) for entry in _folders(folder) if entry.name.isdecimal())
            newest = [n for n in numbers if (folder / str(n) / MANIFEST).is_file()][-self._policy.keep_versions :]
            for number in numbers:
                path = folder / str(number)
                try:
                    manifest = read_manifest(path)
                except (ValueError, OSError) as error:
                    self._unreadable.append(path)
                    self._decide(path, f"its manifest cannot be read: {error}", "", lock)
                    continue
                if manifest is None:
                    self._decide(path, None, "was never published: it has no manifest", lock)
                    continue
                needed = self._version_needed(folder.name, number, manifest, newest, unfinished)
                if self._decide(path, needed, f"not among the newest {self._policy.keep_versions}", lock):
                    self._kept_versions[f"{folder.name}@{number}"] = manifest

    def _version_needed(
        self,
        name: str,
        number: int,
        manifest: Mapping[str, Any],
        newest: Sequence[int],
        unfinished: Mapping[Path, _Unfinished],
    ) -> str | None:
        reference = f"{name}@{number}"
        digests = {manifest.get("digest", ""), *(purge["digest_before"] for purge in manifest.get("purged", ()))} - {""}
        if number in newest:
            return f"among the newest {self._policy.keep_versions}"
        if (self._store.corpora / name / f"{number}.pin").is_file():
            return f"pinned by {number}.pin"
        for model in self._references:
            if any(reference == used.corpus or used.digest in digests for used in model.corpora):
                return f"{model.name} was trained on it"
        for run, needs in unfinished.items():
            if needs.digests & digests:
                return f"the unfinished training {run.name} goes on with it"
        return None

    # training runs

    def _unfinished_runs(self) -> dict[Path, _Unfinished]:
        """The runs that would go on."""
        found = {}
        for run in _folders(self._store.runs):
            record = _record(run)
            if self._models_of(run) or "outcome" in record:
                continue
            digests = {corpus.digest for corpus in trained_corpora(record)} - {""}
            elsewhere = str(record.get("checkpoints", ""))
            if elsewhere:
                found[run] = _Unfinished(frozenset(digests), elsewhere)
            elif (newest := latest_checkpoint(run / CHECKPOINTS)) is not None:
                found[run] = _Unfinished(frozenset({*digests, read_state(newest).corpus_digest}))
        return found

    def _models_of(self, run: Path) -> list[Reference]:
        """By the run's name, a fingerprint, which also fits a store that was moved since."""
        return [
            model
            for model in self._references
            if (model.run_dir is not None and model.run_dir.name == run.name) or run.name in model.checkpoint.split("/")
        ]

    def _runs(self, unfinished: Mapping[Path, _Unfinished]) -> None:
        origins = _decay_origins(unfinished)
        for run in _folders(self._store.runs):
            lock = f"run-{run.name}"
            begun_here = {origin.name: why for origin, why in origins.items() if origin.parent == run / CHECKPOINTS}
            record = _record(run)
            left = f"its checkpoints in {record['checkpoints']} are left alone" if record.get("checkpoints") else ""
            if run in unfinished and left:
                self._decide(run, f"the unfinished training may go on: {left}", "", lock, only_idle=False)
            elif run in unfinished:
                self._checkpoints(run, begun_here | _needed_to_go_on(run), lock)
            elif models := self._models_of(run):
                if left:
                    self._decide(run, f"{models[0].name} was made by it: {left}", "", lock, only_idle=False)
                named = {Path(m.checkpoint).name: f"{m.name} names it" for m in models if m.checkpoint}
                self._checkpoints(run, begun_here | named, lock)
            elif begun_here:
                self._checkpoints(run, begun_here, lock)
            elif "outcome" in record:
                why = f"its model is no longer in the registry{left and '; '}{left}"
                self._decide(run, None, why, lock, only_idle=False)
            else:
                self._decide(run, None, "it has no good checkpoint to go on from", lock, only_idle=False)

    def _checkpoints(self, run: Path, needed: Mapping[str, str], lock: str) -> None:
        """A kept run: its records are small and stay, of its checkpoints those that are needed."""
        for folder in _folders(run / CHECKPOINTS):
            self._decide(folder, needed.get(folder.name), "nothing names this checkpoint", lock, only_idle=False)

    # token shards

    def _tokens(self, unfinished: Mapping[Path, _Unfinished]) -> None:
        digests = {manifest.get("digest"): reference for reference, manifest in self._kept_versions.items()}
        digests |= {
            digest: f"the unfinished training {run.name}"
            for run, needs in unfinished.items()
            for digest in needs.digests
        }
        for folder in _folders(self._store.tokens):
            named = (m.name for m in self._references if any(u.tokens_name == folder.name for u in m.corpora))
            needed = next((f"{name} was trained on it" for name in named), None)
            if needed is None:
                try:
                    digest = json.loads((folder / TOKENS_MANIFEST).read_bytes())["corpus_digest"]
                except FileNotFoundError:
                    self._decide(folder, None, "was never finished: it has no manifest")
                    continue
                except (ValueError, KeyError) as error:
                    needed = f"its manifest cannot be read: {error!r}"
                else:
                    needed = f"made of {digests[digest]}" if digest in digests else None
            self._decide(folder, needed, "made of a corpus version that is not kept")

    # stage outputs

    def _stages(self) -> None:
        if self._unreadable:
            why = f"{self._unreadable[0]} is kept and cannot be read: it may be made of this"
            for stage in _folders(self._store.work):
                self._plan.decisions.append(Decision(stage, True, why))
            return
        outputs = {
            stage: [folder for folder in _folders(stage) if folder.name != SHARDS and set(folder.name) <= _HEX]
            for stage in _folders(self._store.work)
        }
        manifests = {folder: _stage_manifest(folder) for folders in outputs.values() for folder in folders}
        needed = self._needed_outputs()
        needed_shards: dict[Path, str] = {}
        for stage, folders in outputs.items():
            lost = False  # an output that stays and whose shards are unknown
            for folder in folders:
                manifest = manifests[folder]
                otherwise = "no kept version is made of it" if manifest else "was never finished: it has no manifest"
                if self._decide(folder, needed.get(folder), otherwise):
                    lost = lost or (manifest is None and folder in needed)
                    for shard in (manifest or {}).get("shards", ()):
                        needed_shards.setdefault(stage / shard, needed.get(folder) or f"part of {folder.name}")
            for shard in _folders(stage / SHARDS):
                unknown = "a kept output of this stage cannot be read: it may hold this" if lost else None
                self._decide(shard, needed_shards.get(shard) or unknown, "no kept version is made of it")

    def _needed_outputs(self) -> dict[Path, str]:
        work = self._store.work
        needed: dict[Path, str] = {}
        for reference, version in self._kept_versions.items():
            for stage, fingerprint in version.get("fingerprints", {}).items():
                needed.setdefault(stage_directory(work, stage, fingerprint), f"{reference} was made of it")
            for run in version.get("screening_runs", ()):
                for stage, folder in run.items():
                    needed.setdefault(work / stage / folder, f"records of {reference} were screened by it")
        return needed

    # collected sources

    def _sources(self) -> None:
        for folder in _folders(self._store.root / "sources"):
            needed = next(
                (
                    f"{reference} was read from it"
                    for reference, manifest in self._kept_versions.items()
                    if any(folder.name in Path(entry["path"]).parts for entry in manifest.get("inputs", ()))
                ),
                None,
            )
            if needed is None and self._unreadable:
                needed = f"{self._unreadable[0]} is kept and cannot be read: it may be read from this"
            self._decide(folder, needed, "no kept version was read from it")

    # models of recipes

    def _models(self) -> None:
        named = {
            sha256: f"the recipe of {reference} names it"
            for reference, manifest in self._kept_versions.items()
            for sha256 in _MODEL_HASH.findall(json.dumps(manifest.get("recipe")))
        }
        registered = {sha256: f"it is {name} of the registry" for sha256, name in self._classifiers.items()}
        for folder in _folders(self._store.models):
            needed = named.get(folder.name) or registered.get(folder.name)
            if needed is None and self._unreadable:
                needed = f"{self._unreadable[0]} is kept and cannot be read: its recipe may name this"
            self._decide(folder, needed, "no recipe of a kept version names it, and no registered classifier is it")


def _folders(parent: Path) -> list[Path]:
    """Folders under `parent`, in the order of their names; temporary ones are for `reconcile`."""
    if not parent.is_dir():
        return []
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _changed(path: Path) -> float:
    """When something was last written in a folder, down to its shards and checkpoints; seconds since 1970."""
    times = [path.stat().st_mtime]
    times += [entry.lstat().st_mtime for entry in path.iterdir()]
    return max(times)


def _stage_manifest(folder: Path) -> Mapping[str, Any] | None:
    """None where the stage has not finished, or where its manifest cannot be read: it would be computed again."""
    try:
        return read_manifest(folder)
    except (ValueError, OSError):
        return None


def _decay_origins(unfinished: Iterable[Path]) -> dict[Path, str]:
    """The checkpoints that unfinished trainings decay from, and may go back to."""
    origins = {run: _record(run).get("recipe", {}).get("decay_from") for run in unfinished}
    return {
        Path(origin): f"the unfinished training {run.name} decays from it" for run, origin in origins.items() if origin
    }


def _record(run: Path) -> Mapping[str, Any]:
    """What a run says of itself; nothing where it was killed before it could, or where that cannot be read."""
    try:
        record: Mapping[str, Any] = json.loads((run / RUN_RECORD).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record


def _needed_to_go_on(run: Path) -> dict[str, str]:
    """The checkpoints that an unfinished run needs, by the folder's name, and what for."""
    newest = latest_checkpoint(run / CHECKPOINTS)
    good = latest_checkpoint(run / CHECKPOINTS, good_only=True)
    needed = {Path(good).name: "the unfinished training would go back to it after a loss spike"} if good else {}
    return needed | ({Path(newest).name: "the unfinished training goes on from it"} if newest else {})
