"""The whole chain of deduplication in a folder, from texts to decisions; and what it must decide, by the definition."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dedup.components import connected_components, touched_components
from tasks.dedup.config import Deduplication
from tasks.dedup.edges import write_edges
from tasks.dedup.exact import url_key
from tasks.dedup.index import INDEX_FILE, KEYS_FILE, TOUCHED_FILE, open_index, write_index
from tasks.dedup.members import write_members
from tasks.dedup.resolve import ResolveReport, resolve_partition
from tasks.dedup.signature import MinHash, bands, shingles, signatures
from tasks.ports import InProcessMap
from tasks.tables import TEXTS

Decision = dict[str, Any]  # a row of DECISIONS without its document_id


@dataclass(frozen=True)
class Page:
    document_id: str
    text: str
    date: str = ""
    url: str = ""
    taken_down: str = ""


@dataclass(frozen=True)
class Version:
    """What is known after a refresh: the folder of its files, all its pages, and who was decided how."""

    directory: Path
    pages: Mapping[str, Page]
    decisions: Mapping[str, Decision]
    reports: Sequence[ResolveReport]

    @property
    def removed(self) -> dict[str, str | None]:
        """The survivor of each document that is not kept."""
        return {name: row["survivor_id"] for name, row in self.decisions.items() if not row["kept"]}

    @property
    def kept(self) -> set[str]:
        return self.pages.keys() - self.removed.keys()


def write_texts(pages: Sequence[Page], path: Path) -> Path:
    """A file of documents as the screening stages hand them on, sorted by id."""
    rows = [
        {"document_id": page.document_id, "url": page.url, "date": page.date, "text": page.text}
        for page in sorted(pages, key=lambda page: page.document_id)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=TEXTS), path)
    return path


def deduplicate(
    directory: Path,
    new: Sequence[Page],
    config: Deduplication,
    *,
    base: Version | None = None,
    newly: Mapping[str, str] | None = None,
    num_buckets: int = 1,
    num_partitions: int = 1,
    max_edges: int = 1 << 22,
) -> Version:
    """One refresh into `directory`: `new` pages onto `base`, whose documents in `newly` are taken down from now on.

    Of the base, all texts are given on but those of documents that went by takedown, as in a corpus version.
    """
    buckets = [directory / f"bucket-{bucket}" for bucket in range(num_buckets)]
    for number, bucket in enumerate(buckets):
        bucket.mkdir(parents=True)
        own = [page for page in new if zlib.crc32(page.document_id.encode()) % num_buckets == number]
        write_texts(own, bucket / "new.parquet")
        base_index = base.directory / bucket.name / INDEX_FILE if base else None
        scopes = {page.document_id: page.taken_down for page in own}
        write_index(
            base_index,
            None,
            bucket / "new.parquet",
            bucket,
            config.minhash,
            lambda document_id, _, scopes=scopes: scopes[document_id],
            newly or {},
        )

    starts = open_index([bucket / INDEX_FILE for bucket in buckets]).starts
    runs = [bucket / KEYS_FILE for bucket in buckets]
    edges = [directory / f"edges-{partition}.npy" for partition in range(num_partitions)]
    for partition, path in enumerate(edges):
        write_edges(runs, starts, partition, num_partitions, path)
    (directory / "labels").mkdir()
    labels = connected_components(edges, starts, directory / "labels", InProcessMap(), max_edges=max_edges)
    touched_file = directory / "touched.npy"
    touched_components(labels, [bucket / TOUCHED_FILE for bucket in buckets], starts, touched_file)

    members = []
    for bucket, first_node in zip(buckets, starts, strict=False):
        texts = [base.directory / bucket.name / "texts.parquet"] if base else []
        members.append(bucket / "members.parquet")
        write_members(
            bucket / INDEX_FILE,
            int(first_node),
            directory / "labels",
            touched_file if base else None,
            [*texts, bucket / "new.parquet"],
            members[-1],
            config,
            num_partitions,
        )
    decisions: dict[str, Decision] = dict(base.decisions) if base else {}
    reports = []
    for partition in range(num_partitions):
        path = directory / f"decisions-{partition}.parquet"
        reports.append(resolve_partition(members, partition, path, config))
        decisions |= {row.pop("document_id"): row for row in pq.read_table(path).to_pylist()}

    pages = {**(base.pages if base else {}), **{page.document_id: page for page in new}}
    pages = {name: replace(page, taken_down=(newly or {}).get(name, page.taken_down)) for name, page in pages.items()}
    for number, bucket in enumerate(buckets):
        own = [page for page in pages.values() if zlib.crc32(page.document_id.encode()) % num_buckets == number]
        left = [page for page in own if decisions.get(page.document_id, KEPT_ALONE)["stage"] != "takedown"]
        write_texts(left, bucket / "texts.parquet")
    return Version(directory, pages, decisions, reports)


# --- the definition, over all pairs -----------------------------------------------------------------------------------

KEPT_ALONE: Decision = dict.fromkeys(("survivor_id", "stage", "reason", "value", "threshold")) | {"cluster_size": 1}


@functools.cache
def _facts(text: str, minhash: MinHash) -> tuple[frozenset[int], Any, Any]:
    signature = signatures([text], minhash)
    return frozenset(shingles(text, minhash).tolist()), signature[0], bands(signature, minhash)[0]


def true_jaccard(left: str, right: str, minhash: MinHash) -> float:
    ours, theirs = _facts(left, minhash)[0], _facts(right, minhash)[0]
    return len(ours & theirs) / len(ours | theirs)


def by_definition(pages: Sequence[Page], config: Deduplication) -> dict[str, Decision]:
    """The decision on every page: one after the other, each against all survivors so far."""

    def order(page: Page) -> tuple[Any, ...]:
        return (-len(page.text) if config.order == "longest" else 0, page.date, page.document_id)

    def resembling(page: Page, others: Sequence[Page], estimated: bool) -> Iterator[tuple[Page, float]]:
        _, signature, keys = _facts(page.text, config.minhash)
        for other in others:
            _, other_signature, other_keys = _facts(other.text, config.minhash)
            estimate = float(np.mean(signature == other_signature))
            value = estimate if estimated else true_jaccard(page.text, other.text, config.minhash)
            if (keys == other_keys).any() and value >= config.min_jaccard:
                yield other, value

    def standing_for(page: Page, others: Sequence[Page], takedown: bool) -> Decision | None:
        whole = [other for other in others if other.taken_down != "document"]
        for other in (other for other in whole if other.text == page.text):
            return _removed(other, "exact_dedup", "exact_duplicate", 1.0)
        if takedown or config.canonical_url:
            for other in (other for other in others if url_key(other.url) == url_key(page.url) is not None):
                return _removed(other, "url_dedup", "canonical_url", None)
        for other, value in resembling(page, whole, estimated=takedown or config.min_jaccard == 0):
            return _removed(other, "near_dedup", "near_duplicate", value, config.min_jaccard or None)
        return None

    taken_down = sorted((page for page in pages if page.taken_down), key=order)
    decisions = {page.document_id: _removed(None, "takedown", "taken_down", None) for page in taken_down}
    survivors: list[Page] = []
    for page in sorted((page for page in pages if not page.taken_down), key=order):
        if decision := standing_for(page, taken_down, takedown=True):
            decisions[page.document_id] = decision | {"stage": "takedown", "reason": "taken_down_copy"}
        elif decision := standing_for(page, survivors, takedown=False):
            decisions[page.document_id] = decision
        else:
            survivors.append(page)
    for page in survivors:
        size = 1 + sum(decision["survivor_id"] == page.document_id for decision in decisions.values())
        decisions[page.document_id] = {
            **KEPT_ALONE,
            "kept": True,
            "survivor_id": page.document_id,
            "cluster_size": size,
        }
    return decisions


def _removed(by: Page | None, stage: str, reason: str, value: float | None, threshold: float | None = None) -> Decision:
    survivor_id = by.document_id if by else None
    return {
        "kept": False,
        "survivor_id": survivor_id,
        "cluster_size": None,
        "stage": stage,
        "reason": reason,
        "value": value,
        "threshold": threshold,
    }
