"""Which batch belongs to which step, where rollbacks have left some batches out.

Without any, step s (from 1) trains on batch s - 1. A rollback skips a window of batches, first to last: the steps after
it move on by as many.
"""

from __future__ import annotations

Windows = tuple[tuple[int, int], ...]
"""Batches first to last that were skipped; ascending, disjoint."""


def batch_of(step: int, skipped: Windows) -> int:
    """The batch, from 0, of a step, from 1."""
    batch = step - 1
    for first, last in skipped:
        if batch >= first:
            batch += last - first + 1
    return batch


def with_window(skipped: Windows, first: int, last: int) -> Windows:
    """The windows with one more; those that touch become one."""
    assert first <= last
    merged: list[tuple[int, int]] = []
    for window in sorted((*skipped, (first, last))):
        if merged and window[0] <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], window[1]))
        else:
            merged.append(window)
    return tuple(merged)


def num_skipped(skipped: Windows) -> int:
    """Batches in all windows."""
    return sum(last - first + 1 for first, last in skipped)
