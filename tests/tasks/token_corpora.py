"""Small corpus versions in the shape that publishing gives them, and maps that tell what was run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.ports import InProcessMap
from tasks.store import Store
from tests.data.prose import prose

T = TypeVar("T")
R = TypeVar("R")

NUM_BUCKETS = 4
TEXTS: Mapping[str, str] = {
    f"{bucket}{number:031x}-0": prose(f"{bucket}/{number}", 4) for bucket in range(NUM_BUCKETS) for number in range(10)
}
"""By document id, whose first digit is the bucket."""


def make_corpus(
    store: Store, version: int = 1, texts: Mapping[str, str] = TEXTS, name: str = "small", cluster_size: int = 1
) -> Path:
    """A version with these documents, each a cluster of its own, with copies that are gone."""
    folder = store.corpora / name / str(version)
    (folder / "documents").mkdir(parents=True)
    parts = []
    for bucket in range(NUM_BUCKETS):
        ids = sorted(document_id for document_id in texts if document_id[0] == str(bucket))
        columns = {
            "document_id": ids,
            "cluster_id": ids,
            "url": [f"http://example.org/{document_id}" for document_id in ids],
            "source": ["test"] * len(ids),
            "text": [texts[document_id] for document_id in ids],
            "text_sha256": [hashlib.sha256(texts[document_id].encode()).hexdigest() for document_id in ids],
        }
        part = folder / "documents" / f"bucket-{bucket:03d}.parquet"
        table = pa.table(columns, schema=pa.schema([(column, pa.string()) for column in columns]))
        pq.write_table(table.append_column("cluster_size", pa.array([cluster_size] * len(ids), pa.int64())), part)
        parts.append({"path": f"documents/{part.name}", "sha256": hashlib.sha256(part.read_bytes()).hexdigest()})
    manifest = {"schema_version": SCHEMA_VERSION, "name": name, "version": version, "digest": digest_of(texts)}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"parts": parts}))
    return folder


def digest_of(texts: Mapping[str, str]) -> str:
    """The digest that `make_corpus` gives to a version."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


class CountingMap(InProcessMap):
    """Remembers how many shards were run of each stage."""

    def __init__(self) -> None:
        self.ran: dict[str, int] = {}

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        self.ran[name] = self.ran.get(name, 0) + len(items)
        return super().map(function, items, name=name, on_done=on_done)


class IdleMap:
    """A `ShardMap` for where nothing is left to be done."""

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        raise AssertionError(f"{name} was run again")
