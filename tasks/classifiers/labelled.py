"""Labelled texts: what a classifier is to learn, from wherever people or models have labelled it.

    rows of files -> examples (text, positive or not, source, group) -> distinct lines, but for contradictions

and the background: ordinary texts without labels, on which the threshold is chosen and the false alarms are counted.

`gather` holds all distinct texts, and a line for each: some 2 kB for a page of 500 words, ten times its length for a
tweet. What it gives depends on the rows alone, not on their order or the number of files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from pydantic import Field, model_validator

from tasks.classifiers.bundle import DataFacts
from tasks.classifiers.normalise import normalised
from tasks.classifiers.table_rows import RowError, check_rows, files_sha256, find_files, read_rows
from tasks.group_counts import registered_domain
from tasks.rule import Configuration

T = TypeVar("T")

TEXTS_PER_BATCH = 1024
_SHOWN_VALUES = 10


class _Source(Configuration):
    """What both kinds have."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", description="What it is called in figures and the card")
    paths: tuple[str, ...] = Field(
        min_length=1, description="JSONL, CSV or Parquet files, or globs of such; .gz and .zst too; paths or URLs"
    )
    text: str = Field("text", min_length=1, description="The column that holds the text")
    licence: str = Field("unknown", description="Under which the texts and labels may be used")
    origin: str = Field("unknown", description="Where they come from: authors, year, address")


class LabelledSource(_Source):
    """Files of texts with labels."""

    label: str = Field("label", min_length=1, description="The column that holds the label")
    source: str = Field("", description="The column that says where a row is from, for figures by source; else `name`")
    group: str = Field(
        "",
        description="The column whose rows stay on one side where its value is equal, in whichever table: the page that"
        " pieces are cut from, a thread, an author. A row without a value is on its own",
    )
    positive: tuple[str, ...] = Field(min_length=1, description="Values of the label that mean the positive class")
    negative: tuple[str, ...] = Field((), description="Values that mean the other one; none: every other value does")

    @model_validator(mode="after")
    def _values_are_apart(self) -> LabelledSource:
        if both := set(self.positive) & set(self.negative):
            raise ValueError(f"the label value {sorted(both)[0]!r} of {self.name} is given for both classes")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        return tuple(dict.fromkeys(filter(None, (self.text, self.label, self.source, self.group))))


class BackgroundSource(_Source):
    """Files of ordinary texts, one document each, in none of which the classifier should find anything."""

    url: str = Field(
        "",
        description="The column of the documents' addresses: those of one registered domain stay in one half, so that"
        " false alarms are counted on sites that the threshold was not chosen on. Empty: it is not known",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        return tuple(filter(None, (self.text, self.url)))


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text: as it was, as the model reads it, and what it is."""

    text: str
    line: str
    positive: bool
    source: str
    group: str = ""
    """Rows of one group are on one side; empty for a row of no group."""

    @property
    def key(self) -> bytes:
        """SHA-256 of the line: what it is ordered and divided by."""
        return hashlib.sha256(self.line.encode()).digest()


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How many rows of a source have a value for their label, and what that was taken for."""

    source: str
    label: str
    positive: bool
    num_rows: int

    def __str__(self) -> str:
        return f"{self.label!r} {'positive' if self.positive else 'negative'} {self.num_rows:,}"


@dataclass(frozen=True)
class Gathered:
    """Distinct labelled texts and background documents, by their keys."""

    examples: tuple[Example, ...]
    background: tuple[Example, ...]
    """With their source's name, and their site as the group; `positive` says nothing here."""
    num_repeated: int
    """Rows beyond the first of each distinct line."""
    num_contradicting: int
    """Distinct lines that came with both labels, and are left out."""
    num_empty: int
    """Rows of whose text the normaliser leaves nothing."""
    labels: tuple[LabelCount, ...]
    data: tuple[DataFacts, ...]

    @property
    def sha256(self) -> str:
        """Of all texts and labels, whatever files they came in."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(example.key + bytes([example.positive]))
            digest.update(f"{example.source}\0{example.group}\0".encode())
        digest.update(b"background")
        for document in self.background:
            digest.update(f"{document.text}\0{document.group}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def check_sources(labelled: Sequence[LabelledSource], background: Sequence[BackgroundSource]) -> None:
    """Look at the first row of every file. Raises ValueError where a file, a column or a text is missing."""
    columns = [(source.paths, source.columns) for source in labelled]
    columns += [(source.paths, source.columns) for source in background]
    for paths, names in columns:
        for path in find_files(paths):
            check_rows(path, names)


class LabelledRow(NamedTuple):
    """A row, read."""

    text: str
    label: str
    positive: bool
    source: str
    group: str


def read_labelled(source: LabelledSource) -> Iterator[LabelledRow]:
    """Each row, file by file.

    Raises ValueError for what `read_rows` can't read, an empty text or label, and a label that neither class names.
    """
    for path in find_files(source.paths):
        seen: dict[str, None] = {}  # in the order in which they came
        for number, row in read_rows(path, source.columns):
            text, value = _text(path, number, row[source.text], source.text), _value(path, number, row, source.label)
            seen[value] = None
            if not value and value not in (*source.positive, *source.negative):
                problem = f"the label in {source.label!r} is empty: fill it in, or remove the row"
                raise RowError(path, number, f"{problem} (a text without a label is no negative one)")
            if value in source.positive:
                positive = True
            elif value in source.negative or not source.negative:
                positive = False
            else:
                shown = ", ".join(map(repr, list(seen)[:_SHOWN_VALUES]))
                raise RowError(
                    path,
                    number,
                    f"the label {value!r} is given for neither class; seen so far: {shown}. Add it to positive or"
                    " negative",
                )
            origin, group = _value(path, number, row, source.source), _value(path, number, row, source.group)
            yield LabelledRow(text, value, positive, origin or source.name, group)


class BackgroundRow(NamedTuple):
    """An ordinary document, read."""

    text: str
    site: str
    """The registered domain it is from; empty where that is not known."""


def read_background(source: BackgroundSource) -> Iterator[BackgroundRow]:
    """Each row, file by file. Raises ValueError as `read_labelled`."""
    for path in find_files(source.paths):
        for number, row in read_rows(path, source.columns):
            site = registered_domain(_value(path, number, row, source.url))
            yield BackgroundRow(_text(path, number, row[source.text], source.text), site)


def gather(labelled: Sequence[LabelledSource], background: Sequence[BackgroundSource], normaliser: str) -> Gathered:
    """Read everything.

    Raises ValueError as the reading does, for a value of the label that no row has, and where a class has no text.
    """
    facts: list[DataFacts] = []
    examples: dict[str, Example] = {}
    contradicting: set[str] = set()
    labels: Counter[tuple[str, str, bool]] = Counter()
    num_empty = 0
    for source in labelled:
        num_texts = 0
        for rows in _batches(read_labelled(source)):
            num_texts += len(rows)
            labels.update((source.name, row.label, row.positive) for row in rows)
            lines = normalised(normaliser, [row.text for row in rows])
            for row, line in zip(rows, lines, strict=True):
                if not line:
                    num_empty += 1
                    continue
                example = Example(row.text, line, row.positive, row.source, row.group)
                known = examples.setdefault(line, example)
                if known.positive != row.positive:
                    contradicting.add(line)
                examples[line] = min(known, example, key=_by_text)
        facts.append(_facts(source, num_texts))
    counts = tuple(LabelCount(*value, num) for value, num in sorted(labels.items(), key=_by_number))
    _check_values(labelled, counts)
    documents: dict[str, Example] = {}
    for ordinary in background:
        num_texts = 0
        for pages in _batches(read_background(ordinary)):
            num_texts += len(pages)
            for page, line in zip(pages, normalised(normaliser, [page.text for page in pages]), strict=True):
                if line:
                    document = Example(page.text, line, False, ordinary.name, page.site)
                    documents[line] = min(documents.get(line, document), document, key=_by_text)
        facts.append(_facts(ordinary, num_texts))
    num_rows = sum(fact.num_texts for fact in facts[: len(labelled)])
    kept = [example for line, example in examples.items() if line not in contradicting]
    for positive, what in ((True, "positive"), (False, "negative")):
        if not any(example.positive == positive for example in kept):
            raise ValueError(
                f"none of {len(kept):,} distinct labelled texts is {what} ({len(contradicting):,} with both labels were"
                f" left out): check the label's column and its values (rows: {shown_labels(counts)})"
            )
    return Gathered(
        examples=tuple(sorted(kept, key=lambda example: example.key)),
        background=tuple(sorted(documents.values(), key=lambda document: document.key)),
        num_repeated=num_rows - num_empty - len(examples),
        num_contradicting=len(contradicting),
        num_empty=num_empty,
        labels=counts,
        data=tuple(facts),
    )


def _check_values(labelled: Sequence[LabelledSource], counts: Sequence[LabelCount]) -> None:
    """One that is misspelt would make negative texts of positive ones, or the other way round."""
    there = {count.label for count in counts}
    for source in labelled:
        for values, what in ((source.positive, "positive"), (source.negative, "negative")):
            if missing := [value for value in values if value not in there]:
                raise ValueError(
                    f"no row has the label {missing[0]!r}, which is given as {what}: correct it or leave it out"
                    f" (rows: {shown_labels(counts)})"
                )


def shown_labels(counts: Sequence[LabelCount]) -> str:
    """The values of the labels with what they were taken for, the most frequent ones."""
    more = len(counts) - _SHOWN_VALUES
    return ", ".join(map(str, counts[:_SHOWN_VALUES])) + (f", and {more:,} other values" if more > 0 else "") or "none"


def _by_number(counted: tuple[tuple[str, str, bool], int]) -> tuple[int, tuple[str, str, bool]]:
    """The most frequent first."""
    value, num_rows = counted
    return -num_rows, value


def _by_text(example: Example) -> tuple[str, str, str]:
    """Which of several texts with one line stands for them: no matter which came first."""
    return example.text, example.source, example.group


def _facts(source: LabelledSource | BackgroundSource, num_texts: int) -> DataFacts:
    return DataFacts(
        name=source.name,
        sha256=files_sha256(find_files(source.paths)),
        num_texts=num_texts,
        licence=source.licence,
        origin=source.origin,
    )


def _text(path: str, row: int, value: Any, column: str) -> str:
    value = _decoded(path, row, value, column)
    if not isinstance(value, str) or not value.strip():
        found = "is empty" if value is None or isinstance(value, str) else f"is no text but {type(value).__name__}"
        raise RowError(path, row, f"the text in {column!r} {found}: fill it in, or remove the row")
    return value


def _value(path: str, number: int, row: Mapping[str, Any], column: str) -> str:
    """What a column says as it is written in a form: true and false as in JSON, no white space around. Empty without
    a column."""
    value = _decoded(path, number, row[column], column) if column else None
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    try:
        text.encode()
    except UnicodeEncodeError as error:  # of a text it is no matter; this is a name, which cards and hashes hold
        raise RowError(path, number, f"{column!r} holds half a character ({text!r}): mend the row") from error
    return text


def _decoded(path: str, row: int, value: Any, column: str) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RowError(path, row, f"the text in {column!r} is no UTF-8 ({error.reason}): mend the row") from error


def _batches(rows: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(rows, TEXTS_PER_BATCH)):
        yield batch
