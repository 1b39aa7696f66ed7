"""What contamination looks for: the examples of task packs, and texts of a user's own, as passages.

An example may stand in a corpus in several forms, so it has several passages, and is there if one of them is:

    multiple_choice   the query, each choice, and the query with each choice after it; a query with labels at the
                      beginning of lines ("Passage: ... Question: ...") is several, as it stands elsewhere without them
    last_word         the context with its word
    minimal_pairs     each of the two sentences
    perplexity        the text
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.evaluation.pack_rows import Example, Kind, read_examples
from tasks.evaluation.task_pack import TaskPack

_LABEL = re.compile(r"^\s*[A-Z]\w*:\s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sought:
    """One example, as it is looked for."""

    task: str
    """`academic/arc_easy`; of a file of texts, its name."""
    example_id: str
    passages: tuple[str, ...]


def sought_in_packs(packs: Iterable[TaskPack]) -> Iterator[Sought]:
    """Every example of the packs. Raises ValueError for a file or row that is not as its pack says."""
    for pack in packs:
        for task in pack.tasks:
            for example in task.examples():
                yield Sought(f"{pack.name}/{task.name}", example.id, passages(task.kind, example))


def sought_in_texts(files: Iterable[Path]) -> Iterator[Sought]:
    """Every row of files of JSON lines, plain or gzip, whose field `text` has it.

    Raises ValueError, with file and line, for a row without.
    """
    for file in files:
        for example in read_examples([(file, texts_sha256(file))], "perplexity", {}):
            yield Sought(file.name, example.id, passages("perplexity", example))


def texts_sha256(file: Path) -> str:
    """Of a file of texts, as it is now. Raises ValueError where there is none."""
    if not file.is_file():
        raise ValueError(f"there is no file of texts {file}; give its whole path")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def passages(kind: Kind, example: Example) -> tuple[str, ...]:
    """The texts of which any in a corpus is the example; see above."""
    row = example.row
    match kind:
        case "multiple_choice":
            parts = [part for part in _LABEL.split(row["query"]) if part.strip()] or [row["query"]]
            return (*parts, *row["choices"], *(f"{parts[-1]} {choice}" for choice in row["choices"]))
        case "last_word":
            return (f"{row['context']} {row['word']}",)
        case "minimal_pairs":
            return (row["good"], row["bad"])
        case "perplexity":
            return (row["text"],)
