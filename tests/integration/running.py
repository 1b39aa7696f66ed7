"""The `tokenmill` command as real processes: started, waited for, killed, and looked for afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

GONE_TIMEOUT_S = 30.0
_FOREIGN = ("PREFECT_", "MLFLOW_", "RAY_", "TOKENMILL_")  # what this test process was told must not reach the command


def command() -> list[str]:
    """The console script beside this interpreter, else its entry point."""
    script = Path(sys.executable).with_name("tokenmill")
    return [str(script)] if script.is_file() else [sys.executable, "-P", "-c", "from flows.cli import main; main()"]


def environment(**changes: str) -> dict[str, str]:
    """A user's environment, with nothing of the tests' own in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)} | changes


def tokenmill(
    *arguments: str, store: Path, cwd: Path, program: list[str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command on `store` to its end. A run that hangs is killed, and fails the test."""
    with started(*arguments, store=store, cwd=cwd, program=program) as process:
        output, errors = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextmanager
def started(
    *arguments: str, store: Path, cwd: Path, program: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command, running. However the block ends, no process of it is left.

    The store is named by the environment, which every process below inherits: `alive` finds them by it.
    """
    process = subprocess.Popen(
        [*(program or command()), *arguments],
        cwd=cwd,
        env=environment(TOKENMILL_STORE=str(store)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        wait_until(lambda: not alive(store), GONE_TIMEOUT_S, "a process of the run is left")


def succeeded(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object that a command which ended well printed last."""
    assert done.returncode == 0, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command ended that a user can mend."""
    assert done.returncode == 2, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    lines = [line for line in done.stderr.splitlines() if line.startswith("tokenmill: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str, poll_s: float = 0.1) -> None:
    """Wait for `condition`; AssertionError with `what` where it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} after {timeout_s:.0f} s"
        time.sleep(poll_s)


def alive(store: Path) -> dict[int, str]:
    """Command lines of the processes that work on this store, in whatever session; zombies have no environment."""
    mark = f"TOKENMILL_STORE={store}".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time (proc_pid_stat(5)) of every process that has not ended."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX":
            found[int(stat.parent.name)] = (int(fields[1]), fields[19])
    return found


def family(pid: int) -> dict[int, str]:
    """`pid` and every process below it, with the time each started."""
    processes = _processes()
    found, waiting = {}, [pid]
    while waiting:
        member = waiting.pop()
        if member in processes:
            found[member] = processes[member][1]
        waiting += [child for child, (parent, _) in processes.items() if parent == member]
    return found


def kill(process: subprocess.Popen[str], store: Path, *, everything: bool) -> None:
    """SIGKILL to the command alone, or to everything of it at once as when power fails; nothing of it is left."""
    members = family(process.pid)
    for pid in members if everything else [process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # ended on its own between the two lines
            continue
    process.wait()

    def left() -> list[int]:
        now = _processes()
        return [pid for pid, start in members.items() if pid in now and now[pid][1] == start] + list(alive(store))

    wait_until(lambda: not left(), GONE_TIMEOUT_S, "a process of the killed run is left")


def table(version: Path, name: str) -> list[dict[str, Any]]:
    """Rows of "documents", "ledger" or "edits" of a corpus version."""
    return [row for file in sorted((version / name).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def assert_adds_up(result: dict[str, Any], num_records: int) -> None:
    """Every record has exactly one ledger row, and the kept ones are the documents."""
    ledger, documents = table(Path(result["path"]), "ledger"), table(Path(result["path"]), "documents")
    assert len(ledger) == len({row["record_id"] for row in ledger}) == result["records_in"] == num_records
    kept = {row["record_id"] for row in ledger if row["outcome"] == "kept"}
    assert kept == {row["document_id"] for row in documents}
    assert len(kept) == len(documents) == result["documents_kept"]
    removed = sum(count for reasons in result["removed"].values() for count in reasons.values())
    assert result["documents_kept"] + removed == num_records
