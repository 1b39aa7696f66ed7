"""The file that stands for a shard during deduplication: who its documents are and how they look, without any text.

A Parquet file with one row per document, in the shard's order: `document_id`, `date`, `text_sha256` (32 bytes),
`band_00` ... (64-bit band keys) and `signature` (little-endian 64-bit hashes, back to back). Its footer holds the
configuration and a digest of the rows, by which later steps notice that they were given other files, or the same
files in another order, than the steps before them.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.exact import text_sha256
from tasks.dedup.signature import Hashes, MinHash, bands, signatures

DOCUMENTS_PER_BATCH = 512
"""Documents whose texts are in memory at the same time."""

CONFIG_KEY = b"tokenmill.minhash"
ROWS_KEY = b"tokenmill.rows_sha256"


class SignatureFileError(ValueError):
    """A file handed to deduplication is not what the step needs: which file, what is wrong, what to do."""


def band_column(band: int) -> str:
    return f"band_{band:02d}"


def signature_schema(config: MinHash) -> pa.Schema:
    return pa.schema(
        [
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("date", pa.string(), nullable=False),
            pa.field("text_sha256", pa.binary(32), nullable=False),
            *(pa.field(band_column(band), pa.uint64(), nullable=False) for band in range(config.num_bands)),
            pa.field("signature", pa.binary(8 * config.num_hashes), nullable=False),
        ]
    )


def write_signatures(documents_file: Path, output_file: Path, config: MinHash) -> int:
    """Write the signatures of a shard's `documents.parquet` (`document_id`, `text`, `date`); returns how many.

    Raises `SignatureFileError` where a column is missing, has nulls, or a document_id occurs twice in the shard.
    """
    documents = pq.ParquetFile(documents_file)
    missing = {"document_id", "text", "date"} - set(documents.schema_arrow.names)
    if missing:
        raise SignatureFileError(f"{documents_file}: no column {', '.join(sorted(missing))}; is it a documents file?")
    seen: set[str] = set()
    digest = hashlib.sha256()
    schema = signature_schema(config)
    with pq.ParquetWriter(output_file, schema, compression="zstd", use_dictionary=False) as writer:
        for batch in documents.iter_batches(DOCUMENTS_PER_BATCH, columns=["document_id", "text", "date"]):
            for name in ("document_id", "text", "date"):
                if batch.column(name).null_count:
                    raise SignatureFileError(f"{documents_file}: column {name} has nulls; every document needs it")
            ids, texts, dates = (batch.column(name).to_pylist() for name in ("document_id", "text", "date"))
            for document_id in ids:
                if document_id in seen:
                    raise SignatureFileError(f"{documents_file}: document_id {document_id} occurs twice")
                seen.add(document_id)
            hashes = [text_sha256(text) for text in texts]
            for document_id, date, text_hash in zip(ids, dates, hashes, strict=True):
                digest.update(f"{document_id}\0{date}\0".encode() + text_hash)
            found = signatures(texts, config)
            keys = bands(found, config)
            columns = [
                pa.array(ids, pa.string()),
                pa.array(dates, pa.string()),
                pa.array(hashes, pa.binary(32)),
                *(pa.array(keys[:, band]) for band in range(config.num_bands)),
                _to_binary(found),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
        writer.add_key_value_metadata({CONFIG_KEY: _describe(config), ROWS_KEY: digest.hexdigest().encode()})
    return len(seen)


def _describe(config: MinHash) -> bytes:
    """Everything that determines a signature besides the text."""
    return json.dumps({**config.model_dump(), "unicode": unicodedata.unidata_version}, sort_keys=True).encode()


def _to_binary(hashes: Hashes) -> pa.Array:
    data = pa.py_buffer(hashes.astype("<u8").tobytes())
    return pa.Array.from_buffers(pa.binary(8 * hashes.shape[1]), len(hashes), [None, data])


def binary_to_hashes(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """A column of fixed-size binary as 64-bit numbers, of shape (rows, bytes / 8)."""
    num_bytes = column.type.byte_width
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[chunk.offset * num_bytes :][: len(chunk) * num_bytes]
        for chunk in chunks
        if len(chunk)
    ]
    data = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    return data.view("<u8").astype(np.uint64, copy=False).reshape(len(column), num_bytes // 8)


@dataclass(frozen=True, slots=True)
class SignatureFiles:
    """Several signature files as one table, whose rows are numbered through in the order of the files.

    `starts` has one more entry than there are files: file `i` holds rows `starts[i]` up to `starts[i + 1]`.
    """

    paths: tuple[Path, ...]
    starts: NDArray[np.int64]
    config: MinHash
    identity: str  # digest over the files' rows in their order

    @property
    def num_documents(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all files."""
        return pa.chunked_array([chunk for path in self.paths for chunk in _read(path, [name])[name].chunks])

    def take(self, rows: NDArray[np.int64], names: Sequence[str]) -> Iterator[tuple[slice, pa.Table]]:
        """The given rows, which must ascend: file by file, the part of `rows` that lies in it, and the values."""
        assert np.all(rows[1:] > rows[:-1])
        cuts = np.searchsorted(rows, self.starts)
        for path, start, first, last in zip(self.paths, self.starts, cuts, cuts[1:], strict=False):
            if last > first:
                yield slice(int(first), int(last)), _read(path, names).take(pa.array(rows[first:last] - start))


def _read(path: Path, names: Sequence[str]) -> pa.Table:
    return pq.ParquetFile(path).read(columns=list(names))


def open_signature_files(paths: Sequence[Path]) -> SignatureFiles:
    """Read the footers. Raises `SignatureFileError` where files are missing or were written with other settings."""
    if not paths:
        raise SignatureFileError("no signature files were given; write_signatures makes one for each shard")
    identity = hashlib.sha256()
    starts = [0]
    described: Any = None
    for path in paths:
        footer = pq.read_metadata(path)
        metadata: dict[bytes, bytes] = footer.metadata or {}
        if CONFIG_KEY not in metadata or ROWS_KEY not in metadata:
            raise SignatureFileError(f"{path}: not a signature file, or from an interrupted write; write it again")
        if described is not None and metadata[CONFIG_KEY] != described:
            raise SignatureFileError(
                f"{path}: written with {metadata[CONFIG_KEY].decode()}, but {paths[0]} with {described.decode()}; "
                "signatures compare only if both agree, write all shards again with one configuration"
            )
        described = metadata[CONFIG_KEY]
        identity.update(metadata[ROWS_KEY])
        starts.append(starts[-1] + footer.num_rows)
    settings = json.loads(described)
    del settings["unicode"]
    return SignatureFiles(tuple(paths), np.array(starts, np.int64), MinHash(**settings), identity.hexdigest())
