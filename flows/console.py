"""What a person at a terminal sees of a flow: one progress bar for each stage, and the tables at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from tasks.funnel import funnel_rows

_LINE_INTERVAL_S = 10.0  # where there is no terminal: in a log


class Console:
    """Progress on standard error; standard output is left to results."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""
        self._said_s = 0.0
        self._ended = False

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """A bar a stage, closed when it is done; where there is no terminal, a line now and then."""
        if stage != self._stage:
            self.close()
            self._stage, self._ended, self._said_s = stage, False, time.monotonic()
            if sys.stderr.isatty():
                self._bar = tqdm(
                    total=total, desc=f"{stage:<12}", file=sys.stderr, mininterval=0.5, dynamic_ncols=True, leave=True
                )
        if self._ended:  # a late report draws no second bar
            return
        self._ended = done >= total
        if self._bar is None:
            if self._ended or time.monotonic() - self._said_s >= _LINE_INTERVAL_S:
                self._said_s = time.monotonic()
                print(f"{stage:<12} {done:,}/{total:,}{'  ' + note if note else ''}", file=sys.stderr, flush=True)
            return
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._ended:
            self.close()

    def say(self, text: str) -> None:
        """A line between the bars."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the current bar where it stands. The stage stays known, so a late report does not draw a second one."""
        self._ended = True
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def funnel_lines(result: Mapping[str, Any]) -> list[str]:
    """The funnel as a table for people: records in, removed by stage and reason, kept."""
    records = result["records_in"]
    lines = [f"{'records in':<40}{records:>10,}"]
    for stage, reason, count in funnel_rows(result["removed"]):
        lines.append(f"  {stage + ': ' + reason:<38}{-count:>10,}{-count / max(records, 1):>9.1%}")
    kept = result["documents_kept"]
    lines.append(f"{'documents kept':<40}{kept:>10,}{kept / max(records, 1):>9.1%}")
    if (tokens := result.get("tokens")) is not None:
        lines.append(f"{'tokens':<40}{tokens:>10,}")
    return lines


console = Console()
"""The terminal of this process."""
