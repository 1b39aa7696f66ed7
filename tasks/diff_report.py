"""What changed between two versions, for people: as Markdown, and as one HTML page that needs nothing else.

Everything that came from a page (URLs, domains, languages, reasons, texts) is escaped, and shown without control
characters or marks that turn the direction of what follows. No address is a link.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from tasks.atomic import write_file
from tasks.diff import KindDiff, VersionDiff
from tasks.diff_moves import Kind
from tasks.diff_samples import DiffSample
from tasks.markdown import markdown_cell, markdown_code, markdown_table

KIND_TITLES: dict[Kind, str] = {
    "added": "Added",
    "revived": "Revived",
    "changed": "Changed",
    "superseded": "Superseded",
    "removed": "Removed",
    "taken_down": "Taken down",
}
KIND_MEANINGS: dict[Kind, str] = {
    "added": "Unknown to the earlier version",
    "revived": "Removed in the earlier version, published in the later",
    "changed": "Another text under the same document, or another document under the same URL",
    "superseded": "Now the duplicate of another document",
    "removed": "Now removed by a rule, or no longer in the input",
    "taken_down": "Now removed by a takedown; no text of it is shown",
}
_MARKDOWN_DOMAINS = 10
_MARKDOWN_SAMPLES = 3
_SIGNS: dict[Kind, str] = {"added": "+", "revived": "+", "superseded": "-", "removed": "-", "taken_down": "-"}


def signed(kind: Kind, count: int) -> str:
    """A count with what it does to the number of documents: `+12`, `-3`, `5`."""
    return f"{_SIGNS.get(kind, '') if count else ''}{count:,}"


def words(name: str) -> str:
    """The name of a stage or reason as people read it."""
    return name.replace("_", " ")


def printable(text: str) -> str:
    """`text` without control characters and marks of direction, which become spaces; line breaks stay."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def report_file(root: Path, diff: VersionDiff) -> Path:
    """Where a store keeps the page of two versions."""
    return root / "reports" / f"{diff.before.reference}--{diff.after.reference}.html"


def write_report(diff: VersionDiff, file: Path) -> Path:
    """Write the HTML page atomically, and make its folder. Returns `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, diff_html(diff).encode())
    return file


def diff_html(diff: VersionDiff) -> str:
    """One page without scripts, for any width, light or dark."""
    parts = [(kind, part) for kind, part in diff.kinds.items() if part.documents]
    return _template().render(diff=diff, parts=parts, titles=KIND_TITLES, meanings=KIND_MEANINGS)


@functools.cache
def _template() -> Template:
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"printable": printable, "words": words, "shares": _shares}
    environment.globals["signed"] = signed
    return environment.get_template("diff_report.html.jinja")


def _shares(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Each row with its last number's percentage of the largest one."""
    largest = max((row[-1] for row in rows), default=1)
    return ((*row, f"{100 * row[-1] / largest:.1f}") for row in rows)


def diff_markdown(diff: VersionDiff) -> str:
    """The same for Prefect's and MLflow's pages, with fewer domains and samples."""
    before, after = diff.before, diff.after
    moves = [(KIND_TITLES[kind], signed(kind, part.documents), _tokens(part)) for kind, part in diff.kinds.items()]
    sections = [
        f"## {before.reference} to {after.reference}",
        markdown_table(
            ["", "documents", "tokens, estimated"],
            [
                (before.reference, before.documents, before.estimated_tokens),
                *moves,
                (after.reference, after.documents, after.estimated_tokens),
                ("Unchanged", diff.unchanged, ""),
            ],
        ),
        f"{diff.num_buckets_read} of {diff.num_buckets} buckets differ.",
    ]
    if diff.exact_tokens:
        tokens = [
            (each.tokenizer_sha256[:12], words(each.split), each.before, each.after, f"{each.after - each.before:+,}")
            for each in diff.exact_tokens
        ]
        sections += ["### Tokens", markdown_table(["tokenizer", "split", "before", "after", "more"], tokens)]
    for kind, part in diff.kinds.items():
        if part.documents:
            sections += _kind_sections(kind, part)
    if any(then != now for _, _, then, now in diff.funnel):
        rows = [(words(stage), words(reason), then, now) for stage, reason, then, now in diff.funnel if then != now]
        columns = ["stage", "rule", before.reference, after.reference]
        sections += ["### Records removed, where the number differs", markdown_table(columns, rows)]
    return "\n\n".join(sections)


def _tokens(part: KindDiff) -> str:
    came, went = part.estimated_tokens_in, part.estimated_tokens_out
    return " ".join(f"{sign}{count:,}" for sign, count in (("+", came), ("-", went)) if count)


def _kind_sections(kind: Kind, part: KindDiff) -> Iterator[str]:
    yield f"### {KIND_TITLES[kind]}: {part.documents:,}"
    yield f"{KIND_MEANINGS[kind]}."
    yield markdown_table(["stage", "reason", "documents"], ((words(s), words(r), n) for s, r, n in part.reasons))
    yield markdown_table(["domain", "documents"], _with_others(part))
    yield markdown_table(["language", "documents"], ((language or "(none)", n) for language, n in part.languages))
    for sample in part.samples[:_MARKDOWN_SAMPLES]:
        yield from _sample_sections(sample)


def _with_others(part: KindDiff) -> list[tuple[str, int]]:
    shown, others = part.domains[:_MARKDOWN_DOMAINS], part.domains[_MARKDOWN_DOMAINS:]
    num_domains, documents = part.other_domains
    if others or num_domains:
        rest = sum(count for _, count in others) + documents
        return [*shown, (f"{len(others) + num_domains:,} others", rest)]
    return list(shown)


def _sample_sections(sample: DiffSample) -> Iterator[str]:
    facts = [sample.url, words(sample.reason), sample.document_id]
    yield "; ".join(markdown_cell(fact) for fact in facts if fact)
    if sample.difference:
        yield markdown_code(sample.difference)
        return
    if sample.text is not None:
        yield f"> {markdown_cell(sample.text) or '(empty)'}"
    if sample.other_id:
        yield f"In its place {markdown_cell(f'{sample.other_url} {sample.other_id}')}:"
        yield f"> {markdown_cell(sample.other_text) if sample.other_text else '(no text of it is in the version)'}"
