"""From equal keys to edges: one file of edges per band, and one for equal texts, each made independently.

Each step loads one key per document over all shards, nothing else: 8 bytes a document for a band, 32 for the exact
level, two to three times that while sorting. Documents are named by their row number over all signature files; the
edge file records which files those were, in which order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.signature import Hashes
from tasks.dedup.signature_file import (
    SignatureFileError,
    SignatureFiles,
    band_column,
    binary_to_hashes,
    open_signature_files,
)

IDENTITY_KEY = b"tokenmill.signatures"
LEVEL_KEY = b"tokenmill.level"
EXACT_LEVEL = "exact"


def equal_rows(keys: Hashes) -> NDArray[np.int64]:
    """Edges of shape (edges, 2) between rows of `keys`, of shape (rows, words), that are equal in all words.

    Every row of a group of equal rows is joined to the group's first row, so there are fewer edges than rows; which
    member the others hang on is of no consequence for the connected components.
    """
    order = np.lexsort(keys.T[::-1])  # stable: equal rows stay in the order of their numbers
    ordered = keys[order]
    starts_group = np.ones(len(keys), dtype=bool)
    starts_group[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first_of_group = order[starts_group][np.cumsum(starts_group) - 1]
    return np.stack([first_of_group[~starts_group], order[~starts_group]], axis=1).astype(np.int64)


def band_edges(signature_files: Sequence[Path], band: int, output_file: Path) -> int:
    """Write the edges between documents whose keys in this band are equal; returns how many.

    Raises `SignatureFileError` for files that do not belong together and for a band that they do not have.
    """
    files = open_signature_files(signature_files)
    if not 0 <= band < files.config.num_bands:
        raise SignatureFileError(f"band {band}: the signatures have bands 0 to {files.config.num_bands - 1}")
    keys = files.column(band_column(band)).to_numpy()
    return _write_edges(equal_rows(keys[:, None]), files, band_column(band), output_file)


def exact_edges(signature_files: Sequence[Path], output_file: Path) -> int:
    """Write the edges between documents whose texts are equal, by SHA-256; returns how many.

    Raises `SignatureFileError` for files that do not belong together.
    """
    files = open_signature_files(signature_files)
    keys = binary_to_hashes(files.column("text_sha256"))
    return _write_edges(equal_rows(keys), files, EXACT_LEVEL, output_file)


def _write_edges(edges: NDArray[np.int64], files: SignatureFiles, level: str, output_file: Path) -> int:
    table = pa.table({"first": edges[:, 0], "second": edges[:, 1]})
    table = table.replace_schema_metadata({IDENTITY_KEY: files.identity, LEVEL_KEY: level})
    pq.write_table(table, output_file, compression="zstd")
    return len(edges)


def read_edges(edge_files: Sequence[Path], files: SignatureFiles) -> NDArray[np.int64]:
    """All distinct edges, of shape (edges, 2).

    Raises `SignatureFileError` where an edge file was made from other signature files, or from the same ones in
    another order (its row numbers would name other documents), and where a level is missing or occurs twice.
    """
    levels: list[str] = []
    codes = np.empty(0, dtype=np.int64)  # first * documents + second: most pairs meet in several bands, kept once
    for path in edge_files:
        table = pq.ParquetFile(path).read()
        metadata = table.schema.metadata or {}
        if metadata.get(IDENTITY_KEY, b"").decode() != files.identity:
            raise SignatureFileError(
                f"{path}: not made from these signature files in this order, so its rows name others; make it again"
            )
        levels.append(metadata[LEVEL_KEY].decode())
        codes = np.union1d(codes, table["first"].to_numpy() * files.num_documents + table["second"].to_numpy())
    expected = [EXACT_LEVEL, *(band_column(band) for band in range(files.config.num_bands))]
    if sorted(levels) != sorted(expected):
        raise SignatureFileError(f"edge files for {sorted(levels)} were given; needed, once each: {sorted(expected)}")
    return np.stack(np.divmod(codes, max(files.num_documents, 1)), axis=1)
