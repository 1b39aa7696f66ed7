"""The store: one folder that holds everything, and the names and locks in it.

corpora/<name>/<version>/     published corpus versions, immutable
work/<stage>/<fingerprint>/   outputs of stages, reused by fingerprint
tokens/<corpus>-<tokens>/     tokenizer and token shards
runs/<fingerprint>/           training runs: metrics, checkpoints
prefect/, mlflow/             the two databases, so that the history is the same from everywhere
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.manifest import MANIFEST

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InUseError(ValueError):
    """Another process holds the lock of this name."""


def checked_name(name: str, what: str = "corpus name") -> str:
    """`name`, if it can be a folder and a registry name; else ValueError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{name!r} is no valid {what}: use up to 64 letters, digits, '.', '_', '-', a letter or digit first"
        )
    return name


@dataclass(frozen=True)
class Store:
    """Paths under the store's folder."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store at `path`, made if it is not there. ValueError where that cannot be."""
        root = Path(path).expanduser().resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the store {root}: {error.strerror}; choose another with --store") from error
        if not os.access(root, os.W_OK):
            raise ValueError(f"the store {root} is not writable; choose another with --store")
        return cls(root)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def corpora(self) -> Path:
        return self.root / "corpora"

    def versions(self, name: str) -> list[int]:
        """Published versions of a corpus, ascending; a folder without a manifest is not one."""
        folder = self.corpora / checked_name(name)
        if not folder.is_dir():
            return []
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal() and (p / MANIFEST).is_file())

    def names(self) -> list[str]:
        if not self.corpora.is_dir():
            return []
        return sorted(p.name for p in self.corpora.iterdir() if _NAME.fullmatch(p.name) and self.versions(p.name))

    def corpus(self, reference: str) -> Path:
        """Folder of `name` (its latest version) or `name@version`. ValueError where there is none."""
        name, _, version = reference.partition("@")
        versions = self.versions(checked_name(name))
        if not versions:
            known = ", ".join(self.names()) or "none yet: make one with `tokenmill refresh`"
            raise ValueError(f"there is no corpus {name!r} in {self.root}; there are: {known}")
        if not version:
            return self.corpora / name / str(versions[-1])
        if not version.isdecimal() or int(version) not in versions:
            raise ValueError(f"corpus {name!r} has no version {version!r}; it has {', '.join(map(str, versions))}")
        return self.corpora / name / str(int(version))

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold `name` for this process; released by the system however the process ends.

        Raises InUseError at once where another process holds it.
        """
        folder = self.root / "locks"
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 32, 0).decode() or "unknown"
                raise InUseError(
                    f"{name!r} is being written by another run (process {holder}); wait for it, or choose another name"
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)
