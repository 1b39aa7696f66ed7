"""The rows of a task's files as examples: read, held against their hash, and checked before any model sees them.

A file is JSON lines, plain or gzip, in UTF-8. What is wrong with a row is said with file, line and field. Each kind of
task needs its fields, under whatever keys the pack names:

    multiple_choice   query, choices (at least two), gold (the number of the right choice, from 0)
    last_word         context, word
    minimal_pairs     good, bad (two sentences)
    perplexity        text
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["multiple_choice", "last_word", "minimal_pairs", "perplexity"]

FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "multiple_choice": ("query", "choices", "gold"),
    "last_word": ("context", "word"),
    "minimal_pairs": ("good", "bad"),
    "perplexity": ("text",),
}
"""What a row of each kind has to hold."""


class RowError(ValueError):
    """A row that is no example: which file, which line, which field."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")


@dataclass(frozen=True, slots=True)
class Example:
    """One checked row."""

    id: str  # of the row's content, unique within a task
    text: str  # all that a model would have to have seen to know the example: what contamination looks for
    row: Mapping[str, Any]  # the fields of its kind, as `FIELDS` names them
    part: str  # the file's name without its endings: a phenomenon of BLiMP
    file: Path
    line: int  # from 1


def checked_bytes(file: Path, sha256: str) -> bytes:
    """The content of a file. Raises ValueError where there is none, or where its SHA-256 is another."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}: give the folder that holds the pack's data")
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{file} is not the file that the pack describes: its SHA-256 is {found}, the pack says {sha256};"
            " fetch the file again, or give a changed one a new version of the pack"
        )
    return content


def read_examples(
    files: Sequence[tuple[Path, str]], kind: Kind, keys: Mapping[str, str], *, exact: bool = False
) -> Iterator[Example]:
    """The examples of a task's files (path and SHA-256), in order. `keys` says under which key a field stands.

    Texts lose the white space around them, but for what perplexity is measured on and where they are `exact`: a prompt
    ends where its question does (as llm-foundry's `strip_data`).

    Raises ValueError for the first file or row that is not as it has to be.
    """
    seen: Counter[str] = Counter()
    for file, sha256 in files:
        part = file.name.partition(".")[0]
        num_rows = 0
        for line, row in _rows(file, checked_bytes(file, sha256)):
            num_rows += 1
            fields = _fields(file, line, kind, keys, row, exact or kind == "perplexity")
            row_id = _row_id(row)
            seen[row_id] += 1
            if seen[row_id] > 1:
                row_id = f"{row_id}-{seen[row_id]}"
            yield Example(row_id, _text(kind, fields), fields, part, file, line)
        if not num_rows:
            raise ValueError(f"{file} holds no rows; a task needs at least one example")


def _row_id(row: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the row's JSON, with sorted keys and without spaces."""
    canonical = json.dumps(row, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def _rows(file: Path, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and rows; empty lines are left out."""
    raw = io.BytesIO(content)
    lines = gzip.GzipFile(fileobj=raw) if file.name.endswith(".gz") else raw
    number = 0
    try:
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise RowError(file, number, f"byte {error.start} is no UTF-8") from error
            except (ValueError, RecursionError) as error:  # also of a number of 5,000 digits
                raise RowError(file, number, f"it is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise RowError(file, number, f"a row has to be a JSON object, not {type(row).__name__}")
            yield number, row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is damaged behind line {number}: {error}") from error


def _fields(
    file: Path, line: int, kind: Kind, keys: Mapping[str, str], row: Mapping[str, Any], exact: bool
) -> dict[str, Any]:
    """The fields of the kind, checked."""

    def value(field: str) -> Any:
        key = keys.get(field, field)
        if key not in row:
            raise RowError(file, line, f"the field {key!r} ({field} of a {kind} task) is missing; it has {sorted(row)}")
        return row[key]

    def text(field: str, found: Any) -> str:
        if not isinstance(found, str):
            raise RowError(file, line, f"{field} is {type(found).__name__}, not a text")
        if not found.strip():
            raise RowError(file, line, f"{field} is empty")
        try:
            found.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError(file, line, f"character {error.start} of {field} is half a character") from error
        return found if exact else found.strip()

    if kind != "multiple_choice":
        return {field: text(field, value(field)) for field in FIELDS[kind]}
    choices, gold = value("choices"), value("gold")
    if not isinstance(choices, list) or len(choices) < 2:
        raise RowError(file, line, "choices has to be a list of at least two texts")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise RowError(file, line, f"gold is {gold!r}; it has to be the number of a choice, 0 to {len(choices) - 1}")
    query = text("query", value("query"))
    return {"query": query, "choices": [text("a choice", choice) for choice in choices], "gold": gold}


def _text(kind: Kind, fields: Mapping[str, Any]) -> str:
    if kind == "multiple_choice":
        return "\n".join([fields["query"], *fields["choices"]])
    if kind == "last_word":
        return f"{fields['context']} {fields['word']}"
    return "\n".join(fields[field] for field in FIELDS[kind])
