"""Errors that the user can mend, as one line. Imports nothing heavy: the command line needs it before anything else."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from tasks.ports import ShardError


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and every one that it was raised from or while handling."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _disk_is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return getattr(error, "sqlite_errorcode", None) == 13  # SQLITE_FULL (sqlite3.h)


def user_line(error: BaseException, named: Callable[[str, str], str] = lambda model, field: field) -> str | None:
    """One line, where the error is one that the user can mend; None for a fault of ours.

    `named` says what the user knows a field of the flows' parameters by, given the name of its model.
    """
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        first_name, *more = map(str, first["loc"]) if first["loc"] else ("",)
        name = named(error.title, first_name)
        is_option = name.startswith("--")  # which may be repeated: what was typed has no number
        field = (
            " ".join([name, *(each for each in more if not each.isdigit())]) if is_option else ".".join([name, *more])
        )
        if first["type"] == "literal_error":
            return f"{field}: there is no {first['input']!r}; there is {first['ctx']['expected']}"
        if first["type"] == "value_error":  # a sentence of ours, before which pydantic puts words of its own
            return f"{field}: {first['ctx']['error']}".removeprefix(": ")
        return f"{field}: {first['msg']}"
    if any(_disk_is_full(each) for each in causes(error)):  # what could not be recorded hides what went wrong
        return "the disk is full: free some space (or choose another --store) and run the same command again"
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())
    if error.__cause__ is not None and isinstance(error, ShardError):
        cause = user_line(error.__cause__)
        return None if cause is None else f"{cause} ({str(error).split(':')[0]})"
    return None
