"""Index files of documents that have signatures but no texts: what ten million documents give to group and to resolve.

Which documents are copies of which is planned as for the made texts: 10 % exact, 20 % near, Zipf's law for how many of
one original. A near copy has each hash of its original with a probability drawn from .74 to .92, its Jaccard similarity
with it; so it shares a band with it as often as the S-curve says. All hashes are counters mixed to 64 bits, so that any
document's signature is found from its number alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.index import INDEX_FILE, KEYS_FILE, TOUCHED_FILE, index_schema
from tasks.dedup.keys import row_keys, sorted_run
from tasks.dedup.signature import GOLDEN_GAMMA, Hashes, MinHash, mix
from tests.benchmarks.made_texts import EXACT, NEAR, planned_copies

SIMILARITY = (0.74, 0.92)
DOCUMENTS_PER_BATCH = 1024

_ID, _ID_TAIL, _HASH, _TEXT, _SIMILARITY, _KEEPS, _DAY = range(7)  # streams of numbers


def _numbers(stream: int, numbers: NDArray[np.int64]) -> Hashes:
    """One number out of 64 random bits for each document."""
    return mix(numbers.astype(np.uint64) * np.uint64(GOLDEN_GAMMA) + np.uint64(stream << 56))


def _uniform(bits: Hashes) -> NDArray[np.float64]:
    return np.asarray(bits >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class MadeSignatures:
    original: NDArray[np.int64]
    kind: NDArray[np.int8]
    config: MinHash

    @classmethod
    @functools.lru_cache(maxsize=1)
    def plan(cls, num_documents: int, config: MinHash) -> MadeSignatures:
        return cls(*planned_copies(num_documents, np.random.Generator(np.random.PCG64(1))), config)

    def signatures(self, numbers: NDArray[np.int64]) -> Hashes:
        hashes = np.arange(1, self.config.num_hashes + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
        own = mix(_numbers(_HASH, numbers)[:, None] + hashes)
        originals = mix(_numbers(_HASH, self.original[numbers])[:, None] + hashes)
        similarity = SIMILARITY[0] + (SIMILARITY[1] - SIMILARITY[0]) * _uniform(_numbers(_SIMILARITY, numbers))
        keeps = _uniform(mix(_numbers(_KEEPS, numbers)[:, None] + hashes)) < similarity[:, None]
        kind = self.kind[numbers][:, None]
        return np.where((kind == EXACT) | ((kind == NEAR) & keeps), originals, own)

    def write_bucket(self, index: int, num_buckets: int, directory: Path) -> int:
        """Write the index files of one bucket; how many documents it has."""
        ids = _numbers(_ID, np.arange(len(self.original)))
        numbers = np.flatnonzero(ids // np.uint64(2**64 // num_buckets) == index)
        numbers = numbers[np.argsort(ids[numbers])]
        schema, runs = index_schema(self.config), []
        with pq.ParquetWriter(directory / INDEX_FILE, schema, compression="none") as writer:
            for first in range(0, len(numbers), DOCUMENTS_PER_BATCH):
                batch = numbers[first : first + DOCUMENTS_PER_BATCH]
                signatures = self.signatures(batch)
                texts = _numbers(_TEXT, np.where(self.kind[batch] == EXACT, self.original[batch], batch))
                writer.write_table(self._rows(batch, signatures, texts))
                no_urls = np.zeros(len(batch), dtype=np.uint64)
                runs.append(row_keys(signatures, texts, no_urls, no_urls > 0, self.config, first))
        np.save(directory / KEYS_FILE, sorted_run(np.concatenate(runs)))
        np.save(directory / TOUCHED_FILE, np.arange(len(numbers), dtype=np.int64))
        return len(numbers)

    def _rows(self, numbers: NDArray[np.int64], signatures: Hashes, texts: Hashes) -> pa.Table:
        ids = zip(_numbers(_ID, numbers).tolist(), _numbers(_ID_TAIL, numbers).tolist(), strict=True)
        days = np.datetime64("2025-01-01") + (_numbers(_DAY, numbers) % np.uint64(365)).astype(np.int64)
        sha256 = np.repeat(texts[:, None], 4, axis=1)
        return pa.table(
            {
                "document_id": [f"{head:016x}{tail:016x}-0" for head, tail in ids],
                "date": days.astype(str).tolist(),
                "num_chars": np.full(len(numbers), 900),
                "url_key": pa.nulls(len(numbers), pa.binary(16)),
                "text_sha256": [row.tobytes() for row in sha256],
                "taken_down": [""] * len(numbers),
                "signature": [row.tobytes() for row in signatures.astype("<u8")],
            },
            schema=index_schema(self.config),
        )
