"""The rule of the stage `decontaminate`: documents without the examples that models are evaluated on.

Source: GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C), which removes every 13-gram of a benchmark from its
training text, with 200 characters on both sides, and drops what would be in more than ten pieces. Here exactly what
stands in an example goes, whichever sentence that is a part of, and a document that is examples for a good part goes as
a whole. Other than there, an n-gram of many documents is removed from all of them; the report on a corpus that was not
decontaminated (tasks.decontamination.report) says beforehand which these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.decontamination.index import MIN_WORDS, NGRAM_WORDS, ExampleIndex, Found
from tasks.decontamination.sought import sought_in_packs, sought_in_texts
from tasks.decontamination.words import words_of
from tasks.document import Decision, Document, Drop, Edit, Keep, Rewrite
from tasks.evaluation.task_pack import SHIPPED_PACKS, TaskPack, load_pack
from tasks.filters.toxicity_pieces import removal_edits
from tasks.formatters.edits import apply_edits
from tasks.manifest import file_sha256
from tasks.rule import Rule

MAX_NAMED = 3
"""Examples that an edit or a ledger row names, of those that stand there."""


class Decontamination(Rule):
    """Removes from a document what is also in an example of a task pack, or drops such a document.

    Reasons of a Drop: contaminated (detail: task and example), contaminated_share (value: words in examples, of all;
    detail: the same), empty (also where nothing is left). Edits: span_removed, with task and example as the reason:
    `academic/arc_easy 0123456789abcdef`.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    packs: tuple[str, ...] = Field(
        (),
        description="Task packs: a shipped one's name (basics), the whole path of a pack's folder or YAML file, or"
        " either with the folder of its data, as in academic=/data/eval. Every worker has to see these paths.",
    )
    texts: tuple[str, ...] = Field(
        (), description='Whole paths of further files to look for: JSON lines, plain or gzip, with a field "text".'
    )
    action: Literal["remove_span", "drop"] = Field(
        "remove_span", description="What becomes of a document with an example in it: kept without it, or dropped."
    )
    ngram_words: int = Field(
        NGRAM_WORDS, ge=5, le=100, description="Words in a row, as in an example, that are contamination (GPT-3: 13)."
    )
    min_words: int = Field(
        MIN_WORDS,
        ge=3,
        description="A question, answer or sentence of fewer words than that is looked for as a whole if it has so many"
        " (GPT-3: 8).",
    )
    max_removed_fraction: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="With remove_span: a document of which a larger share of the words is in examples is dropped. Our"
        " own choice.",
    )

    @field_validator("packs", "texts")
    @classmethod
    def _are_whole_paths(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            pack, _, data = name.partition("=")
            if any(not path.startswith("/") for path in (pack, data) if path and path not in SHIPPED_PACKS):
                raise ValueError(f"{name!r} has to be a whole path: workers run in folders of their own")
        return names

    @model_validator(mode="after")
    def _looks_for_something_shorter(self) -> Decontamination:
        if self.min_words > self.ngram_words:
            raise ValueError(f"min_words={self.min_words} is more than ngram_words={self.ngram_words}")
        return self

    @property
    def is_on(self) -> bool:
        return bool(self.packs or self.texts)

    def task_packs(self) -> tuple[TaskPack, ...]:
        """Raises ValueError for a pack that is not there or not whole."""
        packs = []
        for name in self.packs:
            pack, _, data = name.partition("=")
            packs.append(load_pack(pack, Path(data) if data else None))
        return tuple(packs)

    def files(self) -> tuple[Path, ...]:
        """The files of examples; which of their fields are looked for, a pack's hash says (`looked_for`)."""
        of_packs = (file for pack in self.task_packs() for task in pack.tasks for file, _ in task.files)
        return (*of_packs, *map(Path, self.texts))

    def looked_for(self) -> tuple[str, ...]:
        """Hashes of the packs and files, sorted: all that `packs` and `texts` mean, wherever they lie."""
        return tuple(sorted({*(pack.sha256 for pack in self.task_packs()), *map(file_sha256, map(Path, self.texts))}))

    def build(self) -> Callable[[Document], Decision]:
        """Raises ValueError, with file and line, for a row that is no example."""
        sought = (*sought_in_packs(self.task_packs()), *sought_in_texts(map(Path, self.texts)))
        index = ExampleIndex(sought, ngram_words=self.ngram_words, min_words=self.min_words)

        def decide(document: Document) -> Decision:
            text = document.text
            if not text.strip():
                return Drop("empty")
            found = index.find(text)
            if not found:
                return Keep()
            if self.action == "drop":
                return Drop("contaminated", detail=_named(index, found))
            stretches = _united(found)
            num_words = sum(last - first for first, last in (_words(each) for each in stretches))
            fraction = num_words / len(words_of(text))
            if fraction > self.max_removed_fraction:
                return Drop("contaminated_share", fraction, self.max_removed_fraction, _named(index, found))
            edits = _removals(text, [(_span(text, each), _named(index, each)) for each in stretches])
            left = apply_edits(text, edits)
            return Rewrite(left, edits) if left.strip() else Drop("empty")

        return decide


def _named(index: ExampleIndex, found: Iterable[Found]) -> str:
    """`academic/arc_easy 0123456789abcdef`, of all that were found, in order of their names; the first few."""
    names = sorted({" ".join(index.examples[each.example]) for each in found})
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _united(found: Iterable[Found]) -> list[list[Found]]:
    """What was found of all examples, together where it shares words; in the order of the text."""
    stretches: list[list[Found]] = []
    end = -1
    for each in sorted(found, key=lambda each: (each.first_word, each.num_words, each.example)):
        if each.first_word >= end:
            stretches.append([])
        stretches[-1].append(each)
        end = max(end, each.first_word + each.num_words)
    return stretches


def _words(stretch: Sequence[Found]) -> tuple[int, int]:
    """The first word of a stretch, and the one behind it."""
    return stretch[0].first_word, max(each.first_word + each.num_words for each in stretch)


def _span(text: str, stretch: Sequence[Found]) -> tuple[int, int]:
    """What is removed of a stretch: its words, and the punctuation at both ends that has only them to stand by."""
    start, end = stretch[0].start_chars, max(each.end_chars for each in stretch)
    first, last = start, end
    while first and not (text[first - 1].isspace() or _is_of_word(text[first - 1])):
        first -= 1
    while last < len(text) and not (text[last].isspace() or _is_of_word(text[last])):
        last += 1
    if first == 0 or text[first - 1].isspace():
        start = first
    if last == len(text) or text[last].isspace():
        end = last
    return start, end


def _is_of_word(char: str) -> bool:
    return char.isalnum()


def _removals(text: str, named: Sequence[tuple[tuple[int, int], str]]) -> tuple[Edit, ...]:
    """Edits that take out the spans, one each, with the white space that would be left over (`removal_edits`)."""
    pieces: list[tuple[int, int]] = []
    reasons: list[str | None] = []
    position = 0
    for (start, end), name in [*named, ((len(text), len(text)), "")]:
        between = text[position:start]
        if stripped := between.strip():
            first = position + len(between) - len(between.lstrip())
            pieces.append((first, first + len(stripped)))
            reasons.append(None)
        if name:
            pieces.append((start, end))
            reasons.append(name)
        position = end
    edits = removal_edits(text, pieces, [reason is not None for reason in reasons])
    names = [reason for reason in reasons if reason is not None]
    return tuple(replace(edit, reason=name) for edit, name in zip(edits, names, strict=True))
