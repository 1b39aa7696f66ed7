"""Documents shown as examples of what changed: the beginnings of their texts, and how a text differs from another.

No text of what was taken down is read.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow.dataset as ds

from tasks.bucket import Bucket
from tasks.diff_moves import Move, Version

_EXCERPT_CHARS = 200
_DIFFERENCE_CHARS = 4_000  # of each text, from shortly before the first difference
_LINE_CHARS = 100
_DIFFERENCE_LINES = 24
_RUN_LINES = 6  # of one run of lines that left, or that came
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class DiffSample:
    """One document. `other_id` is its survivor, or the document that had its URL before; "" where there is neither."""

    document_id: str
    url: str
    stage: str
    reason: str
    text: str | None  # its first characters; None where no version holds it, or it was taken down
    other_id: str = ""
    other_url: str = ""
    other_text: str | None = None
    difference: tuple[str, ...] = ()  # lines that begin with " ", "-", "+"; of what changed


def with_texts(moves: Sequence[Move], before: Version, after: Version) -> tuple[DiffSample, ...]:
    """The documents of these moves as samples, in the same order."""
    shown = [move for move in moves if move.kind != "taken_down"]
    then = _documents(before, [move.document_id for move in shown] + [move.survivor_id for move in shown])
    now = _documents(after, [move.document_id for move in shown] + [move.survivor_id for move in shown])
    samples = []
    for move in moves:
        facts = (move.document_id, move.url, move.stage, move.reason)
        if move.kind == "taken_down":
            samples.append(DiffSample(*facts, text=None))
            continue
        _, text = now.get(move.document_id) or then[move.document_id]
        other_id = move.survivor_id
        if move.kind == "changed":
            url, other = then[other_id or move.document_id]
            difference = _difference(other, text)
            samples.append(DiffSample(*facts, _excerpt(text), other_id, url, _excerpt(other), difference))
        else:
            url, other = now.get(other_id, ("", ""))
            samples.append(DiffSample(*facts, _excerpt(text), other_id, url, _excerpt(other) if other else None))
    return tuple(samples)


def _documents(version: Version, ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """URL and text of documents, of those that the version publishes."""
    by_bucket: dict[int, list[str]] = {}
    for document_id in filter(None, ids):
        by_bucket.setdefault(int(document_id[:4], 16) * version.num_buckets >> 16, []).append(document_id)
    columns = {name: ds.field(name) for name in ("document_id", "url", "text")}
    found: dict[str, tuple[str, str]] = {}
    for index, wanted in by_bucket.items():
        bucket = Bucket(index, version.num_buckets)
        for row in version.rows("documents", bucket, columns, ds.field("document_id").isin(wanted)).to_pylist():
            found[row["document_id"]] = (row["url"] or "", row["text"])
    return found


def _excerpt(text: str) -> str:
    return f"{text[:_EXCERPT_CHARS].rstrip()} …" if len(text) > _EXCERPT_CHARS else text


def _difference(before: str, after: str) -> tuple[str, ...]:
    """The first differences, sentence by sentence: " " in both, "-" in the earlier, "+" in the later, "…" left out."""
    differing = (place for place, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    common = next(differing, min(len(before), len(after)))
    start = max(before.rfind("\n", 0, common) + 1, common - _EXCERPT_CHARS)
    then, now = (_sentences(text[start : start + _DIFFERENCE_CHARS]) for text in (before, after))
    lines: list[str] = []
    for group in difflib.SequenceMatcher(None, then, now, autojunk=False).get_grouped_opcodes(1):
        lines += ["…"] if lines else []
        for tag, then_from, then_to, now_from, now_to in group:
            if tag == "equal":
                lines += _marked(" ", then[then_from:then_to])
            else:
                lines += _marked("-", then[then_from:then_to]) + _marked("+", now[now_from:now_to])
    return tuple(lines[:_DIFFERENCE_LINES])


def _sentences(text: str) -> list[str]:
    """Lines, cut where sentences end and at a length: a paragraph is one line."""
    pieces = (piece for line in text.splitlines() for piece in _SENTENCE_END.split(line))
    return [part for piece in pieces for part in textwrap.wrap(piece, _LINE_CHARS)]


def _marked(mark: str, lines: Sequence[str]) -> list[str]:
    more = ["…"] if len(lines) > _RUN_LINES else []
    return [f"{mark}{line}" for line in lines[:_RUN_LINES]] + more
