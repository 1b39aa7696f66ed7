"""What a person at a terminal sees of a flow: one progress bar for each stage, and the tables at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class Console:
    """Progress on standard error; standard output is left to results."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """A `tasks.stages.Progress`: a bar a stage, closed when it is done."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(
                total=total, desc=f"{stage:<12}", file=sys.stderr, mininterval=0.5, dynamic_ncols=True, leave=True
            )
        if self._bar is None:
            return
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def say(self, text: str) -> None:
        """A line between the bars."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the current bar where it stands. The stage stays known, so a late report does not draw a second one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def funnel_lines(result: Mapping[str, Any]) -> list[str]:
    """The funnel as a table for people: records in, removed by stage and reason, kept."""
    records = result["records_in"]
    lines = [f"{'records in':<40}{records:>10,}"]
    for stage, reasons in result["removed"].items():
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            lines.append(f"  {stage + ': ' + reason:<38}{-count:>10,}{-count / max(records, 1):>9.1%}")
    kept = result["documents_kept"]
    lines.append(f"{'documents kept':<40}{kept:>10,}{kept / max(records, 1):>9.1%}")
    if (tokens := result.get("tokens")) is not None:
        lines.append(f"{'tokens':<40}{tokens:>10,}")
    return lines


console = Console()
"""The terminal of this process."""
