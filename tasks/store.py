"""The store: one folder that holds everything, and the names and locks in it.

corpora/<name>/<version>/            published corpus versions, immutable but for a purge
work/<stage>/<fingerprint>/          outputs of stages, reused by fingerprint
tokenizers/<name>/<config>/<number>/ tokenizers: one generation serves all versions of a corpus until it is retrained
tokens/<corpus>-<tokens>/            token shards, with their tokenizer
models/<SHA-256>/                    models that recipes name by their hash: a file, or a classifier's folder
runs/<fingerprint>/                  training runs: metrics, checkpoints
audit/                               what was taken down, when, why, by whom
reports/                             what versions differ in, as pages
previews/<recipe>-<id>/              what a recipe would do to a sample, as pages
spool/<run>/                         what runs have still to tell MLflow
prefect/, mlflow/                    the two databases, so that the history is the same from everywhere
locks/                               who is at work on what

A store may have a remote: an object store that gets every published corpus version, all tokenizers and token shards,
and from which other machines' are fetched when they are asked for. Then the folder is one machine's working room.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.address import redacted
from tasks.atomic import TEMPORARY_PREFIX, locked
from tasks.manifest import MANIFEST, read_manifest
from tasks.remote import Remote, TakenError
from tasks.source_names import PUBLIC_CRAWLS, CrawlAddresses

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LIFE_LOCK = "flow-"
"""A flow run holds the lock of this name and its id while it lives."""
RUN_RECORD = "pretraining.json"
"""In a training run's folder: its MLflow run, corpus, model, recipe, and its outcome once the model is registered."""

_FLOCK = "hhqqi4x"
"""C's `struct flock` on 64-bit Linux: type, whence, start, length (0: to the end), process (0 in a request)."""


class InUseError(ValueError):
    """Another process holds the lock of this name."""


def checked_name(name: str, what: str = "corpus name") -> str:
    """`name`, if it can be a folder and a registry name; else ValueError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name!r} is no valid {what}: use up to 64 letters, digits, '.', '_', '-', a letter or digit first"
        )
    return name


def _lock_request(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True)
class Store:
    """Paths under the store's folder, its remote ("" where it has none), and where crawls are fetched from.

    Where there is a remote, what looks at published folders raises UnavailableError when it can't be reached.
    """

    root: Path
    remote: str = ""
    crawls: CrawlAddresses = PUBLIC_CRAWLS

    @classmethod
    def open(cls, path: str | Path, remote: str = "", crawls: CrawlAddresses = PUBLIC_CRAWLS) -> Store:
        """The store at `path`, made if it is not there. ValueError where that cannot be, or `remote` is no address.

        The remote is not looked at: `check_remote` does.
        """
        root = Path(path).expanduser().resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the store {root}: {error.strerror}; choose another with --store") from error
        if not os.access(root, os.W_OK):
            raise ValueError(f"the store {root} is not writable; choose another with --store")
        return cls(root, Remote.at(remote).address if remote else "", crawls)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def tokenizers(self) -> Path:
        return self.root / "tokenizers"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def corpora(self) -> Path:
        return self.root / "corpora"

    @property
    def _remote(self) -> Remote | None:
        return Remote(self.remote) if self.remote else None

    def _name_there(self, folder: Path) -> str:
        """A folder of this store, as it is called in the remote."""
        return folder.relative_to(self.root).as_posix()

    def check_remote(self) -> None:
        """ValueError, within seconds and in one line, where the remote can't be reached; nothing is written."""
        if self._remote:
            self._remote.check()

    def versions(self, name: str) -> list[int]:
        """Published versions of a corpus, here or in the remote, ascending; a folder without a manifest is not one."""
        folder = self.corpora / checked_name(name)
        found = {
            int(entry) for entry in _entries(folder) if entry.isdecimal() and (folder / entry / MANIFEST).is_file()
        }
        if self._remote:
            there = self._name_there(folder)
            for entry in self._remote.folders(there):
                if entry.isdecimal() and int(entry) not in found and self._remote.is_complete(f"{there}/{entry}"):
                    found.add(int(entry))
        return sorted(found)

    def names(self) -> list[str]:
        """Corpora with a published version, here or in the remote."""
        entries = {
            *_entries(self.corpora),
            *(self._remote.folders(self._name_there(self.corpora)) if self._remote else ()),
        }
        return sorted(entry for entry in entries if _NAME.fullmatch(entry) and self.versions(entry))

    def corpus(self, reference: str) -> Path:
        """Folder of `name` (its latest version) or `name@version`, fetched from the remote where it is not here.

        ValueError where there is none.
        """
        folder = self.version_folder(reference)
        self.fetch(folder)
        return folder

    def corpus_manifest(self, reference: str) -> dict[str, Any]:
        """The manifest of `name` or `name@version`; of a version in the remote without fetching it. ValueError."""
        folder = self.version_folder(reference)
        manifest = read_manifest(folder)
        if manifest is None:
            content = self.remote_manifest(folder)
            assert content is not None, f"{folder} was published a moment ago"
            manifest = json.loads(content)
        return manifest

    def version_folder(self, reference: str) -> Path:
        """Where `name` or `name@version` lies or will lie when it is fetched. ValueError where there is none."""
        name, _, version = reference.partition("@")
        versions = self.versions(checked_name(name))
        if not versions:
            known = ", ".join(self.names()) or "none yet: make one with `tokenmill refresh`"
            raise ValueError(f"there is no corpus {name!r} in {self.places}; there are: {known}")
        if not version:
            return self.corpora / name / str(versions[-1])
        if not version.isdecimal() or int(version) not in versions:
            raise ValueError(f"corpus {name!r} has no version {version!r}; it has {', '.join(map(str, versions))}")
        return self.corpora / name / str(int(version))

    @property
    def places(self) -> str:
        """Where is looked, in words."""
        return f"{self.root} or {redacted(self.remote)}" if self.remote else str(self.root)

    def fetch(self, folder: Path) -> bool:
        """Whether `folder`, published here or by another machine, is here and complete; fetched from there if need be.

        Parts that the folders beside it have, such as other versions, are linked.

        Another process that fetches it at the same time is waited for. ValueError where the remote's is damaged.
        """
        if (folder / MANIFEST).is_file():
            return True
        there = self._name_there(folder)
        if self._remote is None or not self._remote.is_complete(there):
            return False
        with locked(self.root / "locks" / f"fetch-{there.replace('/', '-')}.lock"):
            if not (folder / MANIFEST).is_file():
                self._remote.fetch(there, folder, _parts_beside(folder))
        return True

    def remote_folders(self, folder: Path) -> list[str]:
        """Names of what the remote has directly under a folder of this store, complete or not."""
        return self._remote.folders(self._name_there(folder)) if self._remote else []

    def remote_manifest(self, folder: Path) -> bytes | None:
        """The remote's manifest of a folder of this store, None where the remote has none, or there is no remote."""
        return self._remote.manifest(self._name_there(folder)) if self._remote else None

    def upload(self, folder: Path) -> None:
        """Copy a complete folder to the remote; nothing where there is none.

        Costs one look where it is there already; files that are there, of whatever folder or killed upload, are not
        sent again. Raises TakenError where another machine was first with other content: the name means that one now,
        and the folder here is removed.
        """
        if self._remote is None:
            return
        try:
            self._remote.upload(folder, self._name_there(folder))
        except TakenError as error:
            lost = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{uuid.uuid4().hex[:8]}")
            folder.rename(lost)
            shutil.rmtree(lost)
            raise TakenError(f"{error}: run the same again, it publishes the next version") from error

    def replace(self, folder: Path) -> None:
        """The remote's `folder` becomes what it is here now, of which the name stood for something else before.

        The name is never without a meaning in between, so no other machine can take it. Then what only the earlier
        content held is removed there. Another call completes what was killed. Nothing where there is no remote.
        """
        if self._remote is not None:
            self._remote.replace(folder, self._name_there(folder))

    def withdraw(self, folder: Path) -> None:
        """Remove `folder` from the remote, with what no other folder there holds; the folder here stays.

        Also what an unfinished upload has left of it. Another call completes what was killed. Nothing where it is not
        there, or there is no remote.
        """
        if self._remote is not None:
            self._remote.withdraw(self._name_there(folder))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` for this process; released by the system however the process ends.

        Raises InUseError at once where another process holds it. The lock belongs to the open file (F_OFD_SETLK), like
        that of `flock`, but can be asked for without being taken.
        """
        path = self._lock_file(name)
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK))
            except (BlockingIOError, PermissionError) as error:  # which of the two is the system's choice
                holder = os.pread(descriptor, 32, 0).decode() or "unknown"
                raise InUseError(
                    f"{name!r} is being written by another run (process {holder}); wait for it, or choose another name"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self, name: str) -> bool:
        """Whether some process holds `name` now. Asking takes nothing: neither a holder nor a taker can notice."""
        try:
            descriptor = os.open(self._lock_file(name), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock_request(fcntl.F_WRLCK))
        finally:
            os.close(descriptor)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def _lock_file(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"


def _parts_beside(folder: Path) -> dict[str, Path]:
    """Files of the complete folders beside `folder`, by the SHA-256 that their manifests state."""
    known: dict[str, Path] = {}
    for beside in (folder.parent / name for name in _entries(folder.parent)):
        if (beside / MANIFEST).is_file():  # of any kind: token shards state no parts
            parts = json.loads((beside / MANIFEST).read_bytes()).get("parts", ())
            known |= {part["sha256"]: beside / part["path"] for part in parts}
    return known


def _entries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
