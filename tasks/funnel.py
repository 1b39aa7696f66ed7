"""The funnel in the order in which records leave it, wherever it was stored."""

from __future__ import annotations

from collections.abc import Mapping

TAKEDOWN = "takedown"
DEDUP_STAGES = ("url_dedup", "exact_dedup", "near_dedup", "paragraph_dedup")
"""Stages that remove a document because of another one that stays: its survivor."""
STAGES = (
    *("url_filter", "read", "extract", "language", "quality", "toxicity", "decontaminate", "share"),
    TAKEDOWN,
    *DEDUP_STAGES,
)
"""Stages of the ledger that remove records, in the order of the work."""


def funnel_rows(removed: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, int]]:
    """Stage, reason and records, the most first within a stage."""
    return [
        (stage, reason, count)
        for stage in sorted(removed, key=STAGES.index)
        for reason, count in sorted(removed[stage].items(), key=lambda item: (-item[1], item[0]))
    ]
