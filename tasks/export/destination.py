"""Where an export goes: a folder that is not there yet, made whole or not at all, and never over anything else.

It is written beside its destination, in `.tmp-NAME-export-HEX`. Meanwhile its writer holds a lock (flock(2)) on that
folder, which the system releases however the process ends: an unlocked one is what a killed export has left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.atomic import TEMPORARY_PREFIX, move_directory

_SMALL_FILES_BYTES = 64 << 20  # tokenizer, card, configurations: room to spare
_NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.ENOTSUP})  # of folders, on NFS and some others


def check_destination(destination: Path) -> None:
    """Raise ValueError where something is at `destination`, or no folder can be made there."""
    if _is_there(destination):
        raise ValueError(f"{destination} is there already: name another folder for the export, or remove it")
    there = _existing(destination)
    if not there.is_dir():
        raise ValueError(f"{destination} can't be a folder: {there} is a file")
    trial = there / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:  # permissions alone do not tell: of /proc they say yes
        trial.mkdir()
        trial.rmdir()
        why = ""
    except OSError as error:
        why = error.strerror or str(error)
    if why:  # not raised from the error: as far as that goes, no store's disk is full
        raise ValueError(f"no folder can be made in {there} ({why}): name another --output")


def check_room(weights_bytes: int, destination: Path) -> None:
    """Raise ValueError where an export with so many bytes of weights is more than the disk has room for."""
    there = _existing(destination)
    needed_bytes, free_bytes = weights_bytes + _SMALL_FILES_BYTES, shutil.disk_usage(there).free
    if free_bytes < needed_bytes:
        raise ValueError(
            f"the export takes {needed_bytes / 1e6:,.0f} MB and {free_bytes / 1e6:,.0f} MB are free"
            f" in {there}: make room there, or name another --output"
        )


@contextmanager
def new_export(destination: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `destination` when the block ends without an error.

    What killed exports to the same place have left is removed first. Raises ValueError where something has come to be
    at `destination` meanwhile; that stays as it is.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(destination)
    temporary, lock = _locked_folder(destination)
    try:
        yield temporary
        if _is_there(destination) or not _moved(temporary, destination):
            raise ValueError(
                f"{destination} has come into being meanwhile: the export was thrown away; name another folder"
            )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _locked_folder(destination: Path) -> tuple[Path, int]:
    """A new temporary folder, and the descriptor that holds its lock."""
    while True:
        temporary = destination.parent / f"{TEMPORARY_PREFIX}{destination.name}-export-{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        try:
            lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another export took it for a leftover before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # where there are no locks nobody removes a folder either
                os.close(lock)
                raise
        if temporary.is_dir():
            return temporary, lock
        os.close(lock)  # taken for a leftover while we waited for the lock


def _remove_leftovers(destination: Path) -> None:
    """Remove the temporary folders of exports to `destination` that nobody is writing any more."""
    ours = re.compile(re.escape(f"{TEMPORARY_PREFIX}{destination.name}-export-") + "[0-9a-f]{8}")
    for path in destination.parent.iterdir():
        if not ours.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # its writer has just finished, or it is another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            if not isinstance(error, BlockingIOError) and error.errno not in _NO_LOCKS:
                raise
        finally:
            os.close(lock)


def _moved(temporary: Path, destination: Path) -> bool:
    try:
        return move_directory(temporary, destination)
    except NotADirectoryError:  # rename(2): a file or a link has its name
        return False


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _existing(destination: Path) -> Path:
    """The nearest folder above that is there."""
    return next(parent for parent in destination.parents if parent.exists())
