"""Run a command that cannot outlive the process that started it: `python -P -m infra.tied COMMAND...`.

Standard input is the tie: a pipe whose other end the starter holds. It closes when the starter closes it and also when
the starter dies, SIGKILL included. Then the command gets SIGTERM, and GRACE_S later whatever is left of it SIGKILL.

This process is a child subreaper (prctl(2)): orphans among the command's descendants become its children. So it finds
those too that have moved to a session of their own, as Prefect's flow runs and Ray's daemons do. The folder of Ray's
sessions, with its sockets and logs, is theirs alone and goes with them.

Exit code: the command's own; 128 + signal where a signal ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

GRACE_S = 10.0
_POLL_S = 0.1
_RAY_FOLDER = "RAY_TMPDIR"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def main(command: list[str]) -> int:
    """Run `command` until it ends or the tie closes; no descendant is left behind either way."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # what ends us is the tie; a handler, unlike
        signal.signal(number, lambda *_: None)  # SIG_IGN, is not passed on to the command
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with _ray_folder():
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_launcher)
        exit_code: int | None = None
        while exit_code is None and not select.select([sys.stdin], [], [], _POLL_S)[0]:
            exit_code = _reap().get(started.pid)
        return _end_descendants(started.pid, exit_code)


@contextlib.contextmanager
def _ray_folder() -> Iterator[None]:
    """Where the command's local Ray clusters keep their sessions, in RAY_TMPDIR; one that the user has set stays.

    In /tmp, where Ray would have them, and with a short name: a socket's path holds 107 bytes (unix(7)), of which Ray
    takes ~70.
    """
    if _RAY_FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tokenmill-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ[_RAY_FOLDER] = folder
        yield


def _die_with_launcher() -> None:
    """In the child, before exec: the last resort where this process itself is killed."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _end_descendants(command: int, exit_code: int | None) -> int:
    """SIGTERM to the command alone, so that it can end its own children in its own way; then to all; then SIGKILL."""
    deadline = time.monotonic() + GRACE_S
    if exit_code is None:
        _send({command}, signal.SIGTERM)
    orphans_told = False
    while descendants := _descendants():
        if time.monotonic() > deadline:
            _send(descendants, signal.SIGKILL)
        elif exit_code is not None and not orphans_told:
            _send(descendants, signal.SIGTERM)
            orphans_told = True
        time.sleep(_POLL_S)
        exit_code = _reap().get(command, exit_code)
    assert exit_code is not None, "the command is a descendant until it has been reaped"
    return exit_code if exit_code >= 0 else 128 - exit_code


def _reap() -> dict[int, int]:
    """Exit codes, by process id, of the children and adopted orphans that have ended."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # there are none
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _descendants() -> set[int]:
    """Every process below this one, zombies included, from /proc/*/stat (proc_pid_stat(5))."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # ended while we looked
            continue
        parent = int(text.rpartition(")")[2].split()[1])  # the name before it may hold anything
        children[parent].append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children[waiting.pop()]:
            found.add(pid)
            waiting.append(pid)
    return found


def _send(processes: set[int], number: signal.Signals) -> None:
    for pid in processes:
        try:
            os.kill(pid, number)
        except ProcessLookupError:  # ended meanwhile
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
