"""Corpus versions as files, of documents that a test names: parts, ledger and manifest as they are published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import write_json
from tasks.bucket import buckets
from tasks.manifest import SCHEMA_VERSION
from tasks.tables import DOCUMENTS, LEDGER, write_rows


def document_id(name: str | int) -> str:
    """An id as the reader makes them: a hash, and an occurrence number."""
    return f"{hashlib.sha256(str(name).encode()).hexdigest()[:32]}-0"


@dataclass(frozen=True)
class Published:
    """A document that a version keeps."""

    text: str
    url: str = ""
    language: str = "en"


@dataclass(frozen=True)
class Removed:
    """A record that a version has removed."""

    stage: str
    reason: str
    survivor_id: str | None = None
    url: str = ""


Rows = Mapping[str, Published | Removed]


def write_version(
    corpora: Path, name: str, number: int, rows: Rows, *, num_buckets: int = 4, recipe: str = "fineweb"
) -> Path:
    """The folder of version `name`@`number` with these records by id."""
    folder = corpora / name / str(number)
    parts = []
    for kind in ("documents", "ledger"):
        (folder / kind).mkdir(parents=True)
        for bucket in buckets(num_buckets):
            low, high = bucket.bounds()
            within = {key: rows[key] for key in sorted(rows) if low <= key < high}
            table = _documents(within) if kind == "documents" else _ledger(within)
            path = folder / bucket.part(kind)
            write_rows(path, DOCUMENTS if kind == "documents" else LEDGER, table)
            parts.append(
                {
                    "path": bucket.part(kind),
                    "rows": len(table),
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
    kept = {key: row for key, row in rows.items() if isinstance(row, Published)}
    removed: dict[str, dict[str, int]] = {}
    for row in rows.values():
        if isinstance(row, Removed):
            reasons = removed.setdefault(row.stage, {})
            reasons[row.reason] = reasons.get(row.reason, 0) + 1
    text_bytes = sum(len(row.text.encode()) for row in kept.values())
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": number,
        "digest": hashlib.sha256(str(sorted(kept.items())).encode()).hexdigest(),
        "created": f"2026-11-{number:02d}T00:00:00Z",
        "recipe": {"name": recipe},
        "records_in": len(rows),
        "documents_kept": len(kept),
        "removed": removed,
        "text_bytes": text_bytes,
        "estimated_tokens": text_bytes // 4,
        "parts": parts,
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def moved(rows: Rows, **changes: Published | Removed | None) -> dict[str, Published | Removed]:
    """The same records, but for those named by their short names: another state, or None where they are gone."""
    result = dict(rows)
    for name, state in changes.items():
        if state is None:
            del result[document_id(name)]
        else:
            result[document_id(name)] = state
    return result


def _documents(rows: Rows) -> list[dict[str, Any]]:
    return [
        {
            "document_id": key,
            "url": row.url,
            "date": "2026-11-01T00:00:00Z",
            "text": row.text,
            "language": row.language,
            "language_score": 0.9,
            "source": "test",
            "source_file": "test.warc.gz",
            "source_offset": 0,
            "text_sha256": hashlib.sha256(row.text.encode()).hexdigest(),
            "cluster_id": key,
            "cluster_size": 1,
        }
        for key, row in rows.items()
        if isinstance(row, Published)
    ]


def _ledger(rows: Rows) -> list[dict[str, Any]]:
    entries = []
    for key, row in rows.items():
        entry: dict[str, Any] = dict.fromkeys(LEDGER.names)
        entry |= {"record_id": key, "source": "test", "source_file": "test.warc.gz", "source_offset": 0, "url": row.url}
        if isinstance(row, Published):
            entry |= {"stage": "publish", "outcome": "kept"}
        else:
            entry |= {"stage": row.stage, "outcome": "removed", "reason": row.reason, "survivor_id": row.survivor_id}
        entries.append(entry)
    return entries
