"""Where checkpoints lie: a folder of this machine's file system, or one behind any URL that fsspec can write to.

Object stores have no rename, so nothing here relies on one: a checkpoint's files are written under their final names,
and the last, small file makes them a checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tasks.atomic import write_file


class Place(Protocol):
    """A folder, which need not exist. Raises ValueError or OSError where the storage refuses or keeps failing."""

    @property
    def address(self) -> str:
        """Its path or URL."""

    def child(self, name: str) -> Place:
        """The folder `name` in it."""

    def names(self) -> list[str]:
        """Names of all that is directly in it, sorted."""

    def sizes_bytes(self) -> dict[str, int]:
        """The files directly in it."""

    def read(self, name: str) -> bytes | None:
        """A small file's content, None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file: a reader sees all of it or none, and when this returns it is there to stay."""

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A path to write a large file to; at the end of the block it is in this folder, to stay."""

    def fetched(self, name: str, scratch: Path) -> Path:
        """A path to read a large file from; where that takes a copy, it is made in `scratch`."""

    def remove_file(self, name: str) -> None:
        """Remove a file; nothing where there is none."""

    def remove(self) -> None:
        """Remove the folder and all that is in it."""


def place(address: str | Path) -> Place:
    """The folder at a path or URL; not looked at yet. Raises ValueError for a URL that can't be one."""
    text = str(address)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return LocalPlace(Path(text))
    from tasks.checkpoints.remote_place import RemotePlace  # brings the object stores' libraries

    return RemotePlace.at(text)


def parent_and_name(folder: str | Path) -> tuple[str, str]:
    """A folder's address taken apart at its last name."""
    parent, _, name = str(folder).rstrip("/").rpartition("/")
    return parent, name


class LocalPlace:
    """A folder of the file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def address(self) -> str:
        return str(self._path)

    def child(self, name: str) -> LocalPlace:
        return LocalPlace(self._path / name)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self._path.iterdir()) if self._path.is_dir() else []

    def sizes_bytes(self) -> dict[str, int]:
        if not self._path.is_dir():
            return {}
        return {entry.name: entry.stat().st_size for entry in self._path.iterdir() if entry.is_file()}

    def read(self, name: str) -> bytes | None:
        file = self._path / name
        return file.read_bytes() if file.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        self._make()
        write_file(self._path / name, content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        self._make()
        yield self._path / name
        _flush(self._path / name)

    def fetched(self, name: str, scratch: Path) -> Path:
        return self._path / name

    def remove_file(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        if self._path.is_dir():
            shutil.rmtree(self._path)

    def _make(self) -> None:
        """The folder, and its name in the folder above, on the disk."""
        if not self._path.is_dir():
            self._path.mkdir(parents=True, exist_ok=True)
            _flush(self._path.parent)


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
