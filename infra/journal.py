"""An append-only file of what has still to be sent, and how far the receiver has confirmed it.

    journal.jsonl    one JSON object a line, in the order in which they were written
    confirmed        how many bytes of it have been confirmed
    files/           what entries name by a path in this folder
    rejected.jsonl   what the receiver refused, each with the reason

A line that a killed writer has left half-written is cut off. Lines that were sent, but not confirmed before a kill, are
pending again: the receiver must stand to get them twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import TEMPORARY_PREFIX
from tasks.store import InUseError

_FILE, _CONFIRMED, _FILES, _REJECTED = "journal.jsonl", "confirmed", "files", "rejected.jsonl"


@dataclass(frozen=True)
class Line:
    """An entry, and where it ends in the file, in bytes."""

    entry: Mapping[str, Any]
    end: int


class Journal:
    """The journal in `folder`, made where there is none. One process holds it; its threads may share it.

    Raises InUseError where it is held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor = _held(folder / _FILE)
        self._writing = threading.Lock()
        self.refusals: list[str] = []  # reasons, of this process
        self._size = _whole_lines(folder / _FILE)
        os.ftruncate(self._descriptor, self._size)
        try:
            self._confirmed = min(int((folder / _CONFIRMED).read_bytes() or b"0"), self._size)
        except FileNotFoundError:
            self._confirmed = 0

    @property
    def end(self) -> int:
        """Where the next entry will begin, in bytes."""
        return self._size

    @property
    def confirmed(self) -> int:
        """Everything before this byte has been confirmed."""
        return self._confirmed

    @property
    def is_empty(self) -> bool:
        """Whether nothing is pending."""
        return self._confirmed == self._size

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry. It outlives this process at once; a power failure may take the last half minute."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with self._writing:
            unwritten = memoryview(line)
            while unwritten:
                unwritten = unwritten[os.write(self._descriptor, unwritten) :]
            self._size += len(line)

    def pending(self, max_lines: int) -> list[Line]:
        """The first entries that have not been confirmed."""
        lines: list[Line] = []
        end, size = self._confirmed, self._size
        with (self.folder / _FILE).open("rb") as file:
            file.seek(end)
            while end < size and len(lines) < max_lines:
                line = file.readline()
                end += len(line)
                lines.append(Line(json.loads(line), end))
        return lines

    def confirm(self, line: Line) -> None:
        """The receiver has this entry, or has refused it, and all before it. Its file is not needed any more."""
        temporary = self.folder / f"{TEMPORARY_PREFIX}{_CONFIRMED}"
        temporary.write_bytes(str(line.end).encode())
        temporary.replace(
            self.folder / _CONFIRMED
        )  # not flushed: a power failure costs a second delivery, if it is lost
        self._confirmed = line.end
        if staged := line.entry.get("staged"):
            shutil.rmtree((self.folder / staged).parent, ignore_errors=True)

    def stage(self, name: str) -> tuple[Path, str]:
        """A path called `name` for a file or folder that an entry will bring along, and what the entry calls it."""
        staged = f"{_FILES}/{uuid.uuid4().hex}/{name}"
        path = self.folder / staged
        path.parent.mkdir(parents=True)
        return path, staged

    def reject(self, line: Line, reason: str) -> None:
        """Keep an entry that the receiver refused, and why."""
        self.refusals.append(reason)
        with (self.folder / _REJECTED).open("a") as file:
            file.write(json.dumps({"reason": reason, "entry": line.entry}, ensure_ascii=False) + "\n")

    @property
    def rejected_file(self) -> Path:
        return self.folder / _REJECTED

    def close(self) -> None:
        """Let go of it; what is pending stays for whoever opens it next. Where nothing is, only refusals stay."""
        with self._writing:
            if self.is_empty:
                (self.folder / _FILE).unlink()  # first: the rest means nothing without it
                (self.folder / _CONFIRMED).unlink(missing_ok=True)
                (self.folder / f"{TEMPORARY_PREFIX}{_CONFIRMED}").unlink(missing_ok=True)
                shutil.rmtree(self.folder / _FILES, ignore_errors=True)
                if not self.rejected_file.exists():
                    shutil.rmtree(self.folder)
            os.close(self._descriptor)
            self._descriptor = -1  # its number may soon be another file's


def has_journal(folder: Path) -> bool:
    """Whether a journal is there; of one that was closed with nothing pending only refusals are left."""
    return (folder / _FILE).is_file()


def _held(path: Path) -> int:
    """`path`, opened and locked; made where there is none."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except FileNotFoundError:  # its holder has removed the folder in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise InUseError(f"{path} is being written or sent by another process: wait for it to end") from error
        os.close(descriptor)  # its holder has removed it in between


def _whole_lines(path: Path) -> int:
    """How long the file is up to its last line break, in bytes."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            line_break = file.read(end - start).rfind(b"\n")
            if line_break >= 0:
                return start + line_break + 1
            end = start
    return 0
