"""What a takedown has found and done, as plain values for a record, and as Markdown for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.markdown import markdown_cell, markdown_table
from tasks.takedown import TakedownSearch
from tasks.tombstones import Scope

MAX_SHOWN = 20
"""Entries of a list that people are shown; the record has all."""


def found_report(search: TakedownSearch, lineage: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """Everything that was found. `lineage` is `infra.lineage.Lineage` as plain values."""
    targets = search.targets(scope)
    documents = [
        {
            "document_id": record.record_id,
            "url": record.url,
            "source_file": record.source_file,
            "asked": record.asked,
            "goes": record.record_id in targets,
            "versions": {reference: state.words for reference, state in record.versions.items()},
        }
        for record in search.records.values()
    ]
    sources = Counter(record.source_file for record in targets.values())
    return {
        "query": search.query.model_dump(mode="json"),
        "scope": scope,
        "num_asked": len(search.asked),
        "num_copies": len(search.copies),
        "num_targets": len(targets),
        "documents": documents,
        "corpora": search.names(scope),
        "sources": dict(sorted(sources.items())),
        **lineage,
    }


def takedown_markdown(report: Mapping[str, Any]) -> str:
    """The report for a page: found, used by, done, left to a person. Everything from pages is escaped."""
    sections = [_head(report), _documents(report), _uses(report), _done(report), _left(report)]
    return "\n\n".join(section for section in sections if section)


def takedown_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for a terminal, in a few lines."""
    lines = [
        f"{report['num_asked']:,} documents asked for, {report['num_copies']:,} copies of them;"
        f" {report['num_targets']:,} {'are gone' if report['applied'] else 'would go'}"
    ]
    for document in report["documents"][:MAX_SHOWN]:
        latest = {reference.partition("@")[0]: (reference, words) for reference, words in document["versions"].items()}
        state = "; ".join(f"{reference}: {words}" for reference, words in latest.values())
        role = "asked for" if document["asked"] else "copy" if document["goes"] else "copy, stays (--only)"
        lines.append(f"  {document['document_id']}  {_printable(document['url'])}  {state}  ({role})")
    lines += _more(report["documents"])
    lines += [f"  held by {reference}" for reference in report["held_by"]]
    lines += [f"  token shards {folder['name']}: {_splits(folder)}" for folder in report["tokens"][:MAX_SHOWN]]
    lines += [f"  run {run['name']}: {run['relation']}" for run in report["runs"][:MAX_SHOWN]]
    lines += [f"  model {model['reference']}: {model['relation']}" for model in report["models"][:MAX_SHOWN]]
    lines += [f"published {version['corpus']}" for version in report.get("versions", ())]
    if (purged := report.get("purged")) is not None:
        lines.append(
            f"purged {', '.join(purged['versions']) or 'no version'}, {len(purged['tokens'])} folders of token shards,"
            f" {len(purged['stage_outputs'])} stage outputs, {len(purged['reports'])} reports"
        )
    if report["applied"]:
        quoting = sum(run["relation"] == "published" for run in report["runs"])
        if quoting:
            lines.append(f"left: cards and samples of {quoting:,} runs in MLflow and Prefect may quote them")
        if report["sources"]:
            lines.append(
                f"left: {len(report['sources']):,} source files hold them: no version takes them in again, but a"
                " refresh that reads these files anew has them in work/ meanwhile"
            )
        lines.append(f"record: {report['audit']}")
    elif report["num_targets"]:
        lines.append("nothing was changed: --apply takes them down, and what else resembles them as closely as a copy")
    else:
        lines.append("no corpus of this store knows any of it: nothing was changed")
    return lines


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _more(entries: Sequence[object]) -> list[str]:
    return [f"  and {len(entries) - MAX_SHOWN:,} more"] if len(entries) > MAX_SHOWN else []


def _splits(folder: Mapping[str, Any]) -> str:
    shares = folder["splits"].items()
    return ", ".join(f"{part['num_documents']:,} in {split} ({part['num_tokens']:,} tokens)" for split, part in shares)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    every = list(rows)
    if not every:
        return ""
    more = f"\n\nand {len(every) - MAX_SHOWN:,} more: the record has all" if len(every) > MAX_SHOWN else ""
    return f"### {title}\n\n{markdown_table(columns, every[:MAX_SHOWN])}{more}"


def _head(report: Mapping[str, Any]) -> str:
    wanted = [value for kind in ("urls", "domains", "documents") for value in report["query"][kind]]
    what = "Taken down" if report["applied"] else "To be taken down"
    shown = ", ".join(markdown_cell(value) for value in wanted[:MAX_SHOWN])
    reason = f"\n\nReason: {markdown_cell(report['reason'])}" if report["reason"] else ""
    return (
        f"## {what}: {shown}\n\n{report['num_asked']:,} documents asked for, {report['num_copies']:,} copies of them,"
        f" {report['num_targets']:,} in all to go.{reason}"
    )


def _documents(report: Mapping[str, Any]) -> str:
    rows = [
        (
            document["document_id"],
            document["url"],
            "asked for" if document["asked"] else "copy" if document["goes"] else "copy, stays",
            "; ".join(f"{reference}: {words}" for reference, words in document["versions"].items()),
        )
        for document in report["documents"]
    ]
    return _table("Documents", ["document", "URL", "", "in"], rows)


def _uses(report: Mapping[str, Any]) -> str:
    sections = [
        f"Held by {', '.join(map(markdown_cell, report['held_by']))}." if report["held_by"] else "",
        _table("Token shards", ["folder", "of", "holds"], [(f["name"], _of(f), _splits(f)) for f in report["tokens"]]),
        _table("Tokenizers", ["tokenizer", "SHA-256"], [(t["name"], t["sha256"]) for t in report["tokenizers"]]),
        _table("Runs", ["run", "", "corpus"], [(r["name"], r["relation"], r["corpus"]) for r in report["runs"]]),
        _table(
            "Models", ["model", "", "corpus"], [(m["reference"], m["relation"], m["corpus"]) for m in report["models"]]
        ),
    ]
    return "\n\n".join(section for section in sections if section)


def _of(folder: Mapping[str, Any]) -> str:
    return ", ".join(folder["corpora"])


def _done(report: Mapping[str, Any]) -> str:
    if not report["applied"]:
        return "### Done\n\nNothing was changed."
    lines = [f"- published {version['corpus']}" for version in report["versions"]]
    lines += [f"- noted on model {markdown_cell(reference)}" for reference in report["models_tagged"]]
    if (purged := report["purged"]) is not None:
        lines += [f"- purged from {reference}" for reference in purged["versions"]]
        for kind, what in (("tokens", "token shards"), ("stage_outputs", "stage outputs"), ("reports", "reports")):
            if purged[kind]:
                lines.append(f"- removed {len(purged[kind]):,} {what}")
    return f"### Done (record {report['audit']})\n\n" + ("\n".join(lines) or "- nothing was left to do")


def _left(report: Mapping[str, Any]) -> str:
    """What no takedown touches."""
    lines = [
        f"- {markdown_cell(source)} still holds {count:,}: no version takes them in again, but a refresh that reads it"
        " anew has them in work/ meanwhile"
        for source, count in list(report["sources"].items())[:MAX_SHOWN]
    ]
    lines += [
        f"- model {markdown_cell(model['reference'])} was {model['relation']} them: a person decides what becomes of it"
        for model in report["models"][:MAX_SHOWN]
        if model["relation"] != "evaluated on"
    ]
    lines += [
        f"- the run {markdown_cell(run['name'])} published them: its card and samples may quote them"
        for run in report["runs"][:MAX_SHOWN]
        if run["relation"] == "published"
    ]
    return "### Left\n\n" + "\n".join(lines) if lines else ""
