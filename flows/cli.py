"""The `tokenmill` command: a thin front to the flows. Heavy imports happen only where they are used.

Exit codes: 0 done; 2 something the user can mend, said in one line; 1 a fault of this software; 130 interrupted; 141
where nobody reads the output any more.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from flows.arguments import option_of, parser
from flows.user_error import user_line

if TYPE_CHECKING:
    import argparse

    from tasks.store import Store

_INTERRUPTED = "interrupted; run the same command again to go on from where it stopped"
_RUNS = frozenset(
    {
        "preview",
        "refresh",
        "pretrain",
        "plan",
        "evaluate",
        "pipeline",
        "train-classifier",
        "ablate",
        "reconcile",
        "takedown",
    }
)  # they start servers or other processes, and most Ray
_SUPERVISED_VARIABLE = "TOKENMILL_SUPERVISED"
_MIN_FREE_BYTES = 64 << 20  # the two histories of a new store take 10 MB; Prefect's server tries for 2 minutes
_STOPPED = frozenset({"TerminationSignal", "CancelledRun"})  # Prefect's own names, which are not imported for this


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    if options.command in _RUNS and not os.environ.get(_SUPERVISED_VARIABLE):
        sys.exit(_supervise(given))
    try:
        code = _run(options)
        sys.stdout.flush()  # here, where it is said what may go wrong with it
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ in _STOPPED:
            if not os.environ.get(_SUPERVISED_VARIABLE):
                _complain(_INTERRUPTED if options.command in _RUNS else "interrupted")
            sys.exit(130)
        if isinstance(error, BrokenPipeError) and options.command not in _RUNS:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains as it ends
            sys.exit(128 + signal.SIGPIPE)
        line = user_line(error, partial(option_of, options))
        if line is None:
            raise
        _complain(line)
        if options.debug:
            traceback.print_exception(error)
        code = 2
    sys.exit(code)


def _run(options: argparse.Namespace) -> int:
    if options.command in _RUNS:
        from flows.run_commands import COMMANDS
    else:
        from flows.store_commands import COMMANDS
    return COMMANDS[options.command](options, _enter(options))


def _enter(options: argparse.Namespace) -> Store:
    """The store, with this process made its driver; the parser has resolved what depends on the user's folder."""
    from infra.settings import enter, open_store

    store = open_store(options.store or "")
    enter(store)
    if options.command in _RUNS:
        if shutil.disk_usage(store.root).free < _MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {_MIN_FREE_BYTES >> 20} MiB are free in {store.root}")
        _interrupt_once(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    elif options.command == "export":  # its unfinished folder, as large as the model, goes with it
        _interrupt_once(signal.SIGINT, signal.SIGTERM)
    return store


def _supervise(arguments: list[str]) -> int:
    """Run the command in a process below a supervisor, so that nothing outlives it: no Ray daemon, no server.

    However this process or that one ends, `infra.tied` ends what they started. A signal to stop is passed on once.
    """
    import subprocess

    python = [sys.executable, "-P"]
    process = subprocess.Popen(
        [*python, "-m", "infra.tied", *python, "-c", "from flows.cli import main; main()", *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, _SUPERVISED_VARIABLE: "1"},
    )
    tie = process.stdin
    assert tie is not None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        tie.close()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    code = process.wait()
    if code == 130 or (stopped and code != 0):
        _complain(_INTERRUPTED)
        return 130
    return code


def _interrupt_once(*numbers: signal.Signals) -> None:
    """Any of these signals becomes one KeyboardInterrupt; what comes after it does not disturb the cleaning up."""

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda *_: None)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _complain(line: str) -> None:
    if "flows.console" in sys.modules:  # a progress bar has no end of line yet
        sys.modules["flows.console"].console.close()
    print(f"tokenmill: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
