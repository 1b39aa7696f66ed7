"""From extracted to screened documents: what happens to one shard in the stages of language, quality and toxicity.

Every function reads files, writes `documents.parquet`, `ledger.parquet` and `edits.parquet` into a new folder, and
returns a report. Each document of its input ends in exactly one of the first two.

The rules that it applies are imported by their own stages alone: a changed rule makes nothing else anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tasks.document import QUARANTINE_REASONS, Decision, Document, Drop, Rewrite, ShardReport
from tasks.model_files import models_in
from tasks.rule import Rule
from tasks.tables import EDITS, LEDGER, TEXTS, TableWriter, clean, document_of, read_row_groups, read_rows, text_row

if TYPE_CHECKING:
    from tasks.language import LanguageRule

DOCUMENTS_FILE, LEDGER_FILE, EDITS_FILE = "documents.parquet", "ledger.parquet", "edits.parquet"
CHARS_AT_ONCE = 400_000
"""Of the documents that a rule decides together, but for the last one: with more a page takes no less time, and
memory grows, with the toxicity rule by some 50 bytes a character (of short lines)."""
MAX_DETAIL_CHARS = 200
"""Of a rule's detail in the ledger. Rules give it whole: cut first, half an address would not be recognised as one."""


class ShardOutput:
    """The three files of a shard's output, and the counts of its report."""

    def __init__(self, directory: Path, stage: str, hide: Callable[[str], str] = str) -> None:
        """`hide` is what `Rule.hide` is, of all rules of the stage: ledger and edits show pieces of texts."""
        self._stage, self._hide = stage, hide
        self._documents = TableWriter(directory / DOCUMENTS_FILE, TEXTS)
        self._ledger = TableWriter(directory / LEDGER_FILE, LEDGER)
        self._edits = TableWriter(directory / EDITS_FILE, EDITS)
        self._removed: dict[str, int] = {}

    def keep(self, document: Document) -> None:
        self._documents.write(text_row(document))

    def drop(self, document: Document, drop: Drop, stage: str | None = None) -> None:
        """`document` is as it was when it was dropped."""
        stage = stage or self._stage
        key = f"{stage}/{drop.reason}"
        self._removed[key] = self._removed.get(key, 0) + 1
        self._ledger.write(
            {
                "record_id": document.document_id,
                "source": document.source,
                "source_file": document.source_file,
                "source_offset": document.source_offset,
                "url": document.url,
                "stage": stage,
                "outcome": "quarantined" if drop.reason in QUARANTINE_REASONS else "removed",
                "reason": drop.reason,
                "value": drop.value,
                "threshold": drop.threshold,
                "detail": self._detail(document.text, drop.detail) if drop.detail else None,
                "survivor_id": None,
            }
        )

    def edit(self, document: Document, rule: str, rewrite: Rewrite) -> None:
        """`document` is as it was before it was rewritten.

        What is hidden is found in the whole texts: what a number is, the line before it may say.
        """
        shown = [edit for edit in rewrite.edits if edit.kind != "masked"]  # those hide what they stand for themselves
        before = self._hide(document.text) if shown else document.text
        after = self._hide(rewrite.text) if any(edit.replacement.strip() for edit in shown) else rewrite.text
        moved_chars = 0
        for edit in rewrite.edits:
            removed, replacement = edit.removed, edit.replacement
            if edit.kind != "masked":
                start_after = edit.start + moved_chars
                removed = before[edit.start : edit.start + len(removed)]
                replacement = after[start_after : start_after + len(replacement)]
            moved_chars += len(replacement) - len(removed)
            self._edits.write(
                {
                    "document_id": document.document_id,
                    "stage": self._stage,
                    "rule": rule,
                    "kind": edit.kind,
                    "reason": edit.reason,
                    "start": edit.start,
                    "removed": removed,
                    "replacement": replacement,
                }
            )

    def _detail(self, text: str, detail: str) -> str:
        """A rule's detail, which may be a piece of the text: hidden as within the text, then cut.

        Of a record without a text it says what was wrong with it and where its bytes are, and stays whole.
        """
        if not text:
            return clean(detail)
        start = text.find(detail)
        if start >= 0:
            detail = self._hide(text)[start : start + len(detail)]
        return clean(self._hide(detail))[:MAX_DETAIL_CHARS]

    def report(self) -> ShardReport:
        kept, removed = self._documents.num_rows, self._ledger.num_rows
        return ShardReport(kept + removed, kept, dict(sorted(self._removed.items())), self._edits.num_rows)

    def __enter__(self) -> ShardOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in (self._documents, self._ledger, self._edits):
            writer.__exit__(kind, error, trace)


Decide = Callable[[Document], Decision]
DecideBatch = Callable[[Sequence[Document]], list[Decision]]


@functools.lru_cache(maxsize=64)
def _built(kind: type[Rule], configuration: str) -> Decide:
    return kind.model_validate_json(configuration).build()


@functools.lru_cache(maxsize=64)
def _built_batch(kind: type[Rule], configuration: str) -> DecideBatch | None:
    return kind.model_validate_json(configuration).build_batch()


def built(rule: Rule) -> Decide:
    """The rule's function, built once for each process: models and lists are loaded once."""
    return _built(type(rule), rule.model_dump_json())


def built_batch(rule: Rule) -> DecideBatch | None:
    """The rule's function on many documents, likewise; None where it has none."""
    return _built_batch(type(rule), rule.model_dump_json())


def language_shard(shard: Path, directory: Path, *, language: LanguageRule, models: Path | None = None) -> ShardReport:
    """Identify each document's language and keep those that the recipe asks for. `models` is the store's folder."""
    with models_in(models), ShardOutput(directory, "language") as output:
        identify = language.build_identified()
        for row in read_rows(shard / DOCUMENTS_FILE):
            document, verdict = identify(document_of(row))
            if isinstance(verdict, Drop):
                output.drop(document, verdict)
            else:
                output.keep(document)
        return output.report()


def rules_shard(
    shard: Path, directory: Path, *, stage: str, rules: tuple[Rule, ...], models: Path | None = None
) -> ShardReport:
    """Apply filters and formatters in order; the first that drops a document ends its way.

    `models` is the store's folder.
    """

    def hide(text: str) -> str:
        for rule in rules:
            text = rule.hide(text)
        return text

    with models_in(models), ShardOutput(directory, stage, hide) as output:
        apply_rules = _applied(rules)
        for rows in read_row_groups(shard / DOCUMENTS_FILE):
            ways = [_Way(document_of(row)) for row in rows]
            apply_rules(ways)
            for way in ways:
                for name, before, rewrite in way.rewrites:
                    output.edit(before, name, rewrite)
                if way.drop is None:
                    output.keep(way.document)
                else:
                    output.drop(way.document, way.drop)
        return output.report()


@dataclass
class _Way:
    """A document on its way through the rules of a stage."""

    document: Document
    drop: Drop | None = None
    """Ends the way."""
    rewrites: list[tuple[str, Document, Rewrite]] = field(default_factory=list)
    """Each with its rule's kind, and the document as it was before."""

    def take(self, kind: str, decision: Decision) -> None:
        if isinstance(decision, Rewrite):
            self.rewrites.append((kind, self.document, decision))
            self.document = replace(self.document, text=clean(decision.text))
            if not self.document.text.strip():
                decision = Drop("empty", detail=f"nothing left after {kind}")
        if isinstance(decision, Drop):
            self.drop = decision


def _applied(rules: Sequence[Rule]) -> Callable[[Sequence[_Way]], None]:
    """All rules in order. Those that decide one by one follow each other for each document, whose features they share;
    one that decides many at once is given all that are left."""
    parts: list[Callable[[Sequence[_Way]], None]] = []
    alone: list[tuple[str, Decide]] = []
    for rule in rules:
        kind = str(getattr(rule, "kind", type(rule).__name__))
        decide_batch = built_batch(rule)
        if decide_batch is not None:
            parts.append(functools.partial(_take_at_once, kind, decide_batch))
            alone = []
            continue
        if not alone:
            parts.append(functools.partial(_take_one_by_one, alone))
        alone.append((kind, built(rule)))

    def apply(ways: Sequence[_Way]) -> None:
        for part in parts:
            part([way for way in ways if way.drop is None])

    return apply


def _take_at_once(kind: str, decide: DecideBatch, ways: Sequence[_Way]) -> None:
    for some in _of_size(ways):
        for way, decision in zip(some, decide([way.document for way in some]), strict=True):
            way.take(kind, decision)


def _of_size(ways: Sequence[_Way]) -> Iterator[list[_Way]]:
    """In order; each but the last one just reaches `CHARS_AT_ONCE`."""
    some: list[_Way] = []
    num_chars = 0
    for way in ways:
        some.append(way)
        num_chars += len(way.document.text)
        if num_chars >= CHARS_AT_ONCE:
            yield some
            some, num_chars = [], 0
    if some:
        yield some


def _take_one_by_one(steps: Sequence[tuple[str, Decide]], ways: Sequence[_Way]) -> None:
    for way in ways:
        for kind, decide in steps:
            way.take(kind, decide(way.document))
            if way.drop is not None:
                break
