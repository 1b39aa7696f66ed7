"""Writing so that a reader sees the whole or nothing, whenever the writer is killed.

A file or folder is written under a temporary name beside its destination, flushed to disk, and renamed. What a killed
writer leaves begins with `.tmp-` and means nothing; `remove_leftovers` clears it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically and durably."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_file` for JSON, readable by people: sorted keys, indented."""
    write_file(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `destination` when the block ends without an error (`move_directory`)."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.parent / f"{TEMPORARY_PREFIX}{destination.name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        yield temporary
        move_directory(temporary, destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_directory(temporary: Path, destination: Path) -> bool:
    """Flush all files of a finished folder to disk and give it its name, in the same parent folder; whether it has it.

    Where `destination` exists by then (another process finished the same work first), that one stays: where equal
    names do not hold equal content, look at what is returned.
    """
    for path in temporary.rglob("*"):
        if path.is_dir():
            _sync_directory(path)
        elif path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())
    _sync_directory(temporary)
    try:
        temporary.rename(destination)
        moved = True
    except OSError:
        if not destination.is_dir():
            raise
        moved = False
    _sync_directory(destination.parent)
    return moved


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it; the system releases it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def link_file(source: Path, destination: Path) -> None:
    """The same immutable file under a second name: a hard link, or a copy where the file system has none."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def remove_leftovers(directory: Path) -> int:
    """Remove what killed writers left directly under `directory`; how many things that were."""
    leftovers = list(directory.glob(f"{TEMPORARY_PREFIX}*")) if directory.is_dir() else []
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)
