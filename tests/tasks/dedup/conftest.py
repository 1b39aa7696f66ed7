"""A whole deduplication in a temporary folder, for the tests of every step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dedup.clusters import DedupReport, band_edges, exact_edges, resolve_clusters, write_signatures
from tasks.dedup.signature import MinHash

Shard = Sequence[tuple[str, str, str]]  # (document_id, date, text)


@dataclass(frozen=True)
class Deduplicated:
    report: DedupReport
    rows: list[dict[str, Any]]
    file_bytes: bytes

    @property
    def removed(self) -> dict[str, str]:
        return {row["document_id"]: row["survivor_id"] for row in self.rows if not row["kept"]}


def write_shard(shard: Shard, path: Path) -> Path:
    ids, dates, texts = zip(*shard, strict=True) if shard else ((), (), ())
    columns = {"document_id": ids, "date": dates, "text": texts, "source": ("s",) * len(shard)}
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
    return path


def write_all_edges(signature_files: Sequence[Path], folder: Path, num_bands: int) -> list[Path]:
    edge_files = [folder / f"edges_{band}.parquet" for band in range(num_bands)]
    for band, path in enumerate(edge_files):
        band_edges(signature_files, band, path)
    exact_edges(signature_files, folder / "exact.parquet")
    return [*edge_files, folder / "exact.parquet"]


def _deduplicate(shards: Sequence[Shard], config: MinHash) -> Deduplicated:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        signature_files = []
        for number, shard in enumerate(shards):
            documents_file = write_shard(shard, folder / f"documents_{number}.parquet")
            signature_files.append(folder / f"signatures_{number}.parquet")
            write_signatures(documents_file, signature_files[-1], config)
        edge_files = write_all_edges(signature_files, folder, config.num_bands)
        report = resolve_clusters(signature_files, edge_files, folder / "clusters.parquet")
        rows = pq.read_table(folder / "clusters.parquet").to_pylist()
        return Deduplicated(report, rows, (folder / "clusters.parquet").read_bytes())


@pytest.fixture(scope="session")
def deduplicate() -> Callable[[Sequence[Shard], MinHash], Deduplicated]:
    return _deduplicate


@pytest.fixture(scope="session")
def shard_writer() -> Callable[[Shard, Path], Path]:
    return write_shard


@pytest.fixture(scope="session")
def edge_writer() -> Callable[[Sequence[Path], Path, int], list[Path]]:
    return write_all_edges
