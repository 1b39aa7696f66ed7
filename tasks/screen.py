"""From extracted to screened documents: what happens to one shard in the stages of language, quality and toxicity.

Every function reads files, writes `documents.parquet`, `ledger.parquet` and `edits.parquet` into a new folder, and
returns a report. Each document of its input ends in exactly one of the first two.

The rules that it applies are imported by their own stages alone: a changed rule makes nothing else anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tasks.document import QUARANTINE_REASONS, Decision, Document, Drop, Keep, Rewrite, ShardReport
from tasks.model_files import models_in
from tasks.rule import Rule
from tasks.tables import EDITS, LEDGER, TEXTS, TableWriter, clean, document_of, read_rows, text_row

if TYPE_CHECKING:
    from tasks.language import LanguageRule

DOCUMENTS_FILE, LEDGER_FILE, EDITS_FILE = "documents.parquet", "ledger.parquet", "edits.parquet"
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


@functools.lru_cache(maxsize=64)
def _built(kind: type[Rule], configuration: str) -> Callable[[Document], Decision]:
    return kind.model_validate_json(configuration).build()


def built(rule: Rule) -> Callable[[Document], Decision]:
    """The rule's function, built once for each process: models and lists are loaded once."""
    return _built(type(rule), rule.model_dump_json())


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
        steps = [(str(getattr(rule, "kind", type(rule).__name__)), built(rule)) for rule in rules]
        for row in read_rows(shard / DOCUMENTS_FILE):
            document = document_of(row)
            verdict: Decision = Keep()
            for name, step in steps:
                verdict = step(document)
                if isinstance(verdict, Rewrite):
                    output.edit(document, name, verdict)
                    document = replace(document, text=clean(verdict.text))
                    if not document.text.strip():
                        verdict = Drop("empty", detail=f"nothing left after {name}")
                if isinstance(verdict, Drop):
                    break
            if isinstance(verdict, Drop):
                output.drop(document, verdict)
            else:
                output.keep(document)
        return output.report()
