"""What a corpus version is, in figures: the digest of its documents, and how large they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BYTES_PER_TOKEN = 4
"""Of English text under a vocabulary of some 50,000 (GPT-2's has 4.4 on web text); a small vocabulary has less."""


def corpus_sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """What a version's manifest says of how large it is; one of an earlier program says less."""
    return {name: manifest[name] for name in ("documents_kept", "text_bytes", "estimated_tokens") if name in manifest}


def corpus_digest(document_files: Iterable[Path]) -> str:
    """SHA-256 over (document id, URL, date, text hash, language) of all rows, in the order of ids.

    `document_files` are the buckets in order. Nothing of files, row groups, places or runs enters it.
    """
    digest = hashlib.sha256()
    previous = ""
    columns = ["document_id", "url", "date", "text_sha256", "language"]
    for path in document_files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=columns):
                for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    assert row[0] > previous, f"documents out of order at {row[0]}"
                    previous = row[0]
                    digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
