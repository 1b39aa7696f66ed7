"""From screened and deduplicated shards to a corpus version: documents, ledger, edits, manifest.

A document's bucket is the leading part of its id, which is a hash: buckets are even, their number is fixed, and reading
them in order is reading in the order of ids. So the digest is one pass with bounded memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.atomic import link_file, new_directory, write_json
from tasks.document import Document, ShardReport
from tasks.manifest import MANIFEST, SCHEMA_VERSION, file_sha256
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.store import Store, checked_name
from tasks.tables import DOCUMENTS, EDITS, LEDGER

_TABLES = {
    DOCUMENTS_FILE: (DOCUMENTS, "document_id"),
    LEDGER_FILE: (LEDGER, "record_id"),
    EDITS_FILE: (EDITS, "document_id"),
}
_BUCKET_FILE = "bucket.json"
_ROWS_PER_GROUP = 256
BYTES_PER_TOKEN = 4
"""Of English text under a vocabulary of some 50,000 (GPT-2's has 4.4 on web text); a small vocabulary has less."""


def corpus_sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """What a version's manifest says of how large it is; one of an earlier program says less."""
    return {name: manifest[name] for name in ("documents_kept", "text_bytes", "estimated_tokens") if name in manifest}


class LedgerError(RuntimeError):
    """The ledger does not hold exactly one row for each record: a fault of this software, never of the input."""


@dataclass(frozen=True)
class ScreenedShard:
    """One shard after the last screening stage: its documents, and the ledgers and edits of all its stages."""

    documents: Path
    stages: tuple[Path, ...]
    clusters: Path


def _sorted_table(table: pa.Table, key: str) -> pa.Table:
    order = [(key, "ascending")]
    if key == "document_id" and "start" in table.column_names:
        order += [("stage", "ascending"), ("rule", "ascending"), ("start", "ascending")]
    return table.sort_by(order)


def _write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=_ROWS_PER_GROUP)


def settle_shard(shard: ScreenedShard, directory: Path) -> ShardReport:
    """Apply the clusters to one shard: survivors become documents, the others ledger rows with their survivor."""
    texts = pq.read_table(shard.documents / DOCUMENTS_FILE)
    in_shard = pc.field("document_id").isin(texts["document_id"].combine_chunks())
    clusters = {row["document_id"]: row for row in pq.read_table(shard.clusters, filters=in_shard).to_pylist()}
    documents: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    removed: dict[str, int] = {}
    for row in texts.to_pylist():
        cluster = clusters.get(row["document_id"])
        entry: dict[str, Any] = dict.fromkeys(LEDGER.names)
        entry |= {name: row[name] for name in ("source", "source_file", "source_offset", "url")}
        entry["record_id"] = row["document_id"]
        if cluster is None or cluster["kept"]:
            row["text_sha256"] = Document(row["document_id"], row["text"], row["source"]).text_sha256
            row["cluster_id"] = row["document_id"]
            row["cluster_size"] = cluster["cluster_size"] if cluster else 1
            documents.append(row)
            entry |= {"stage": "publish", "outcome": "kept"}
        else:
            reason = "exact_duplicate" if cluster["stage"] == "exact_dedup" else "near_duplicate"
            entry |= {"stage": cluster["stage"], "outcome": "removed", "reason": reason}
            entry |= {name: cluster[name] for name in ("value", "threshold", "survivor_id")}
            key = f"{cluster['stage']}/{reason}"
            removed[key] = removed.get(key, 0) + 1
        ledger.append(entry)
    ledgers = [pq.read_table(stage / LEDGER_FILE) for stage in shard.stages]
    edits = [pq.read_table(stage / EDITS_FILE) for stage in shard.stages]
    tables = {
        DOCUMENTS_FILE: pa.Table.from_pylist(documents, schema=DOCUMENTS),
        LEDGER_FILE: pa.concat_tables([pa.Table.from_pylist(ledger, schema=LEDGER), *ledgers]),
        EDITS_FILE: pa.concat_tables([EDITS.empty_table(), *edits]),
    }
    for name, table in tables.items():
        _write(directory / name, _sorted_table(table, _TABLES[name][1]))
    return ShardReport(len(texts), len(documents), removed)


@dataclass(frozen=True)
class Bucket:
    """One part of a corpus version, and the settled shards it is gathered from."""

    index: int
    num_buckets: int
    shards: tuple[Path, ...]

    def bounds(self) -> tuple[str, str]:
        """Ids in this bucket: at least the first, below the second (16 bits of the id, as hexadecimal digits)."""
        width = 65536 // self.num_buckets
        end = (self.index + 1) * width
        return f"{self.index * width:04x}", f"{end:04x}" if end < 65536 else "g"


def publish_bucket(bucket: Bucket, directory: Path) -> ShardReport:
    """Gather one bucket's documents, ledger rows and edits from all shards, in the order of ids.

    Raises LedgerError where a record has two ledger rows, or a kept one no document.
    """
    low, high = bucket.bounds()
    gathered: dict[str, pa.Table] = {}
    for name, (schema, key) in _TABLES.items():
        within = (pc.field(key) >= low) & (pc.field(key) < high)
        parts = [pq.read_table(shard / name, filters=within) for shard in bucket.shards]
        gathered[name] = _sorted_table(pa.concat_tables([schema.empty_table(), *parts]), key)
        _write(directory / name, gathered[name])
    ledger, documents = gathered[LEDGER_FILE], gathered[DOCUMENTS_FILE]
    kept = ledger.filter(pc.equal(ledger["outcome"], "kept"))["record_id"]
    if len(pc.unique(ledger["record_id"])) != len(ledger):
        raise LedgerError(f"bucket {bucket.index}: a record has more than one ledger row")
    if not kept.equals(documents["document_id"]):
        raise LedgerError(f"bucket {bucket.index}: the kept ledger rows are not the documents")
    text_bytes = pc.sum(pc.binary_length(documents["text"])).as_py() or 0
    write_json(directory / _BUCKET_FILE, {"text_bytes": text_bytes})
    return ShardReport(len(ledger), len(documents), edits=len(gathered[EDITS_FILE]))


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


def check_adds_up(num_records: int, reports: Sequence[ShardReport]) -> None:
    """Every record counted by the independent pass has its ledger row, or LedgerError."""
    rows = sum(report.records_in for report in reports)
    if rows != num_records:
        raise LedgerError(f"the input holds {num_records} records, the ledger {rows} rows: nothing was published")


def publish_version(
    store: Store, name: str, buckets: Sequence[Path], facts: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Make the next version of corpus `name` from published buckets: all of it appears at once. Caller holds the lock.

    `facts` are the manifest's further entries: recipe, inputs, funnel, fingerprints. Where the store has a remote
    location, the version is copied there too.
    """
    versions = store.versions(checked_name(name))
    version = versions[-1] + 1 if versions else 1
    destination = store.corpora / name / str(version)
    if destination.exists():  # without a manifest: what somebody left there is no version, and must not pass for one
        shutil.rmtree(destination)
    digest = corpus_digest(bucket / DOCUMENTS_FILE for bucket in buckets)
    text_bytes = sum(json.loads((bucket / _BUCKET_FILE).read_bytes())["text_bytes"] for bucket in buckets)
    before = store.corpus_manifest(f"{name}@{versions[-1]}") if versions else None
    estimated_tokens = text_bytes // BYTES_PER_TOKEN
    with new_directory(destination) as directory:
        parts = []
        for file_name in _TABLES:
            folder = directory / Path(file_name).stem
            folder.mkdir()
            for index, bucket in enumerate(buckets):
                part = folder / f"bucket-{index:03d}.parquet"
                link_file(bucket / file_name, part)
                parts.append(
                    {
                        "path": str(part.relative_to(directory)),
                        "rows": pq.read_metadata(part).num_rows,
                        "bytes": part.stat().st_size,
                        "sha256": file_sha256(bucket / file_name),
                    }
                )
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": version,
            "digest": digest,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "parts": parts,
            "text_bytes": text_bytes,
            "estimated_tokens": estimated_tokens,
            "new_estimated_tokens": max(0, estimated_tokens - (before.get("estimated_tokens", 0) if before else 0)),
            **facts,
        }
        write_json(directory / MANIFEST, manifest)
    store.upload(destination)
    return destination, manifest
