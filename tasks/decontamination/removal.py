"""What is taken out of a text in which examples were found, and what an edit says of it.

Exactly what stands in an example goes, with the punctuation that has only these words to stand by, and the white space
that would be left over. What stays is neither glued together nor torn apart; whether words before and after a gap make
another example together is not looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tasks.decontamination.index import ExampleIndex, Found
from tasks.document import Edit
from tasks.filters.toxicity_pieces import removal_edits

MAX_NAMED = 3
"""Examples that an edit or a ledger row names, of those that stand there."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a text that is in examples from its first to its last word."""

    start_chars: int
    end_chars: int
    num_words: int
    names: str
    """Task and id of these examples."""


def named(index: ExampleIndex, found: Iterable[Found]) -> str:
    """`academic/arc_easy 0123456789abcdef`, of all that were found, in the order of these names; the first few."""
    names = sorted({" ".join(index.examples[each.example]) for each in found})
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def stretches(index: ExampleIndex, found: Iterable[Found]) -> list[Stretch]:
    """What was found of all examples, together where it shares words; in the order of the text."""
    groups: list[list[Found]] = []
    end = -1
    for each in sorted(found, key=lambda each: each.first_word):
        if each.first_word >= end:
            groups.append([])
        groups[-1].append(each)
        end = max(end, each.first_word + each.num_words)
    return [
        Stretch(
            group[0].start_chars,
            max(each.end_chars for each in group),
            max(each.first_word + each.num_words for each in group) - group[0].first_word,
            named(index, group),
        )
        for group in groups
    ]


def removals(text: str, contaminated: Sequence[Stretch]) -> tuple[Edit, ...]:
    """Edits that take the stretches out, one each, with the names of their examples as the reason."""
    pieces: list[tuple[int, int]] = []
    is_removed: list[bool] = []

    def add_between(start: int, end: int) -> None:
        between = text[start:end]
        if stripped := between.strip():
            first = start + len(between) - len(between.lstrip())
            pieces.append((first, first + len(stripped)))
            is_removed.append(False)

    position = 0
    for stretch in contaminated:
        start, end = _with_punctuation(text, stretch.start_chars, stretch.end_chars)
        add_between(position, start)
        pieces.append((start, end))
        is_removed.append(True)
        position = end
    add_between(position, len(text))
    edits = removal_edits(text, pieces, is_removed)
    return tuple(replace(edit, reason=stretch.names) for edit, stretch in zip(edits, contaminated, strict=True))


def _with_punctuation(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch with the punctuation between it and the white space at each of its ends, if there is nothing else."""
    first, last = start, end
    while first and _is_punctuation(text[first - 1]):
        first -= 1
    while last < len(text) and _is_punctuation(text[last]):
        last += 1
    if first and not text[first - 1].isspace():
        first = start
    if last < len(text) and not text[last].isspace():
        last = end
    return first, last


def _is_punctuation(char: str) -> bool:
    return not (char.isalnum() or char.isspace())
