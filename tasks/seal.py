"""What a manifest says of one bucket: its files by hash, and the figures that add up to those of the version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.atomic import write_json
from tasks.bucket import KEYS, Bucket
from tasks.dedup.index import INDEX_FILE, KEYS_FILE
from tasks.document import ShardReport
from tasks.funnel import DEDUP_STAGES, TAKEDOWN
from tasks.manifest import file_sha256
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.settle import ORIGINALS_FILE, LedgerError, aligned
from tasks.tables import LEDGER

NUM_LARGEST_CLUSTERS = 20
_SEAL_FILE = "seal.json"
_TEXTS_PER_BATCH = 1024


@dataclass(frozen=True)
class SealBucket:
    """A finished bucket: the folders of its tables and of its index, and the same of the base."""

    bucket: Bucket
    tables: Path
    index: Path
    base: Path | None
    """Folder of the version that was built onto."""
    base_parts: Mapping[str, Mapping[str, Any]]
    """What the base's manifest says of the bucket's files, by path."""

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every file of the bucket by the path that it has in a version."""
        tables = {"documents": DOCUMENTS_FILE, "originals": ORIGINALS_FILE, "ledger": LEDGER_FILE, "edits": EDITS_FILE}
        for kind, name in tables.items():
            yield self.bucket.part(kind), self.tables / name
        yield self.bucket.part("index"), self.index / INDEX_FILE
        yield self.bucket.part(KEYS), self.index / KEYS_FILE


def read_seal(directory: Path) -> dict[str, Any]:
    """What `seal_bucket` wrote: "parts", each with "from_base", and the bucket's figures."""
    seal: dict[str, Any] = json.loads((directory / _SEAL_FILE).read_bytes())
    return seal


def _num_rows(path: Path) -> int:
    if path.suffix == ".npy":
        return len(np.load(path, mmap_mode="r", allow_pickle=False))
    return int(pq.read_metadata(path).num_rows)


def _text_bytes(documents: Path) -> int:
    with pq.ParquetFile(documents) as file:
        batches = file.iter_batches(_TEXTS_PER_BATCH, columns=["text"])
        return sum(pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0 for batch in batches)


def _part(item: SealBucket, path: str, file: Path) -> dict[str, Any]:
    """The manifest's entry of one file; a file that is the base's, by name or by content, is not looked at twice."""
    before = item.base_parts.get(path)
    known = item.base / path if item.base is not None and before is not None else None
    if known is not None and before is not None and (file.samefile(known) or file_sha256(file) == before["sha256"]):
        return {**before, "from_base": True}
    entry = {
        "path": path,
        "rows": _num_rows(file),
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
        "from_base": False,
    }
    return entry | ({"text_bytes": _text_bytes(file)} if file.name == DOCUMENTS_FILE else {})


def _clusters(documents: Path) -> dict[str, Any]:
    sizes = pq.read_table(documents, columns=["cluster_id", "cluster_size"], filters=pc.field("cluster_size") > 1)
    order = [("cluster_size", "descending"), ("cluster_id", "ascending")]
    largest = sizes.sort_by(order).slice(0, NUM_LARGEST_CLUSTERS)
    return {
        "num_clusters": len(sizes),
        "largest_clusters": [
            {"cluster_id": row["cluster_id"], "num_documents": row["cluster_size"]} for row in largest.to_pylist()
        ],
    }


def _moved(before: pa.Table, ledger: pa.Table) -> dict[str, int]:
    """How many of the base's documents have another state now, by kind of change."""
    now = aligned(before["record_id"], ledger, "record_id")
    is_duplicate = [pc.is_in(table["stage"], value_set=pa.array(DEDUP_STAGES)) for table in (before, now)]
    is_kept = [pc.equal(table["outcome"], "kept") for table in (before, now)]
    is_taken_down = [pc.equal(table["stage"], TAKEDOWN) for table in (before, now)]
    changes = {
        "superseded": pc.and_(is_kept[0], is_duplicate[1]),
        "revived": pc.and_(is_duplicate[0], is_kept[1]),
        "taken_down": pc.and_(pc.invert(is_taken_down[0]), is_taken_down[1]),
    }
    return {name: pc.sum(change).as_py() or 0 for name, change in changes.items()}


def seal_bucket(item: SealBucket, directory: Path) -> ShardReport:
    """Hash the bucket's files, count what its ledger says, and check that the ledger and the documents agree.

    Raises LedgerError where the kept ledger rows are not the documents. Memory: some columns of the ledger.
    """
    columns = ["record_id", "stage", "outcome", "reason"]
    ledger = pq.read_table(item.tables / LEDGER_FILE, columns=columns)
    documents = pq.read_table(item.tables / DOCUMENTS_FILE, columns=["document_id"])["document_id"]
    if not ledger.filter(pc.equal(ledger["outcome"], "kept"))["record_id"].equals(documents):
        raise LedgerError(f"bucket {item.bucket.index}: the kept ledger rows are not the documents")
    before = LEDGER.empty_table().select(columns)
    if item.base is not None:
        before = pq.read_table(item.base / item.bucket.part("ledger"), columns=columns)
    seal = {
        "parts": [_part(item, path, file) for path, file in item.files()],
        "num_indexed": _num_rows(item.index / INDEX_FILE),
        **_clusters(item.tables / DOCUMENTS_FILE),
        **_moved(before, ledger),
    }
    write_json(directory / _SEAL_FILE, seal)
    counts = ledger.filter(pc.not_equal(ledger["outcome"], "kept")).group_by(["stage", "reason"])
    removed = {f"{row['stage']}/{row['reason']}": row["reason_count"] for row in _counted(counts)}
    return ShardReport(len(ledger), len(documents), removed, _num_rows(item.tables / EDITS_FILE))


def _counted(groups: pa.TableGroupBy) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = groups.aggregate([("reason", "count")]).to_pylist()
    return rows
