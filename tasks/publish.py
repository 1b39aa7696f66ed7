"""From finished buckets to a corpus version: all of it appears at once, what is as it was in the base as a link."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.atomic import link_file, new_directory, write_json
from tasks.bucket import PART_KINDS
from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.seal import NUM_LARGEST_CLUSTERS, SealBucket, read_seal
from tasks.store import Store, checked_name

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


def _largest_clusters(seals: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    clusters = [cluster for seal in seals for cluster in seal["largest_clusters"]]
    return sorted(clusters, key=lambda each: (-each["num_documents"], each["cluster_id"]))[:NUM_LARGEST_CLUSTERS]


def publish_version(
    store: Store, name: str, sealed: Sequence[tuple[SealBucket, Path]], facts: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Make the next version of corpus `name` from finished buckets and their seals. Caller holds the lock.

    `facts` are the manifest's further entries: recipe, inputs, funnel, fingerprints. Where the store has a remote
    location, the version is copied there too.
    """
    versions = store.versions(checked_name(name))
    version = versions[-1] + 1 if versions else 1
    destination = store.corpora / name / str(version)
    if destination.exists():  # without a manifest: what somebody left there is no version, and must not pass for one
        shutil.rmtree(destination)
    seals = [read_seal(folder) for _, folder in sealed]
    before = store.corpus_manifest(f"{name}@{versions[-1]}") if versions else None
    parts: list[dict[str, Any]] = []
    with new_directory(destination) as directory:
        for kind in PART_KINDS:
            (directory / kind).mkdir()
        for (item, _), seal in zip(sealed, seals, strict=True):
            files = dict(item.files())
            for part in seal["parts"]:
                path = part["path"]
                source = item.base / path if part["from_base"] and item.base is not None else files[path]
                link_file(source, directory / path)
                parts.append(part)
        parts.sort(key=lambda part: (PART_KINDS.index(part["path"].split("/")[0]), part["path"]))
        num_linked = sum(part.pop("from_base") for part in parts)
        text_bytes = sum(part.get("text_bytes", 0) for part in parts)
        estimated_tokens = text_bytes // BYTES_PER_TOKEN
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": version,
            "digest": corpus_digest(directory / part["path"] for part in parts if part["path"].startswith("documents")),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "parts": parts,
            "parts_linked": num_linked,
            "parts_written": len(parts) - num_linked,
            **{name: sum(seal[name] for seal in seals) for name in ("superseded", "revived", "taken_down")},
            "clusters": {
                "num_documents": sum(seal["num_indexed"] for seal in seals),
                "num_clusters": sum(seal["num_clusters"] for seal in seals),
                "largest_clusters": _largest_clusters(seals),
            },
            "text_bytes": text_bytes,
            "estimated_tokens": estimated_tokens,
            "new_estimated_tokens": max(0, estimated_tokens - (before.get("estimated_tokens", 0) if before else 0)),
            **facts,
        }
        write_json(directory / MANIFEST, manifest)
    store.upload(destination)
    return destination, manifest
