"""datatrove's MinHash deduplication, step by step in this process: the reference of the benchmarks.

    signatures   Parquet -> one sorted file of signatures per band
    buckets      signatures -> pairs of documents with an equal band
    clusters     pairs -> the documents to remove
    filtered     Parquet -> Parquet without them

Its steps are called as its own executor calls them with one task (14 for the second step, one per band), without that
executor's logging and statistics files. The texts are normalised as ours are where it has the option: numbers are kept.
Shingles are hashed with SHA-1, one of its two functions; its default, xxhash, is not among our dependencies, and the
time goes into tokenisation.
"""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path

import pyarrow.parquet as pq
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.logging import logger
from datatrove.utils.text import TextNormConfig

from tasks.dedup.signature import MinHash

BUFFERED_SIGNATURES = 1 << 13
"""`lines_to_buffer`: the default of 5 reads a file 340 bytes at a time, which suits thousands of open files only."""


def equal_parameters(config: MinHash) -> MinhashConfig:
    return MinhashConfig(
        n_grams=config.shingle_words,
        num_buckets=config.num_bands,
        hashes_per_bucket=config.rows_per_band,
        norm_config=TextNormConfig(norm_numbers=False),
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )


class DatatroveDedup:
    """The four steps over the Parquet files of one folder."""

    def __init__(self, documents: Path, folder: Path, config: MinHash) -> None:
        logger.remove()
        self._documents, self._folder, self._config = documents, folder, equal_parameters(config)
        self._signature = MinhashDedupSignature(str(folder / "signatures"), self._config)
        self._signature.get_shingles("its tokenizer is loaded before the clock starts")

    def _reader(self) -> ParquetReader:
        return ParquetReader(str(self._documents), id_key="document_id")

    def signatures(self) -> None:
        self._signature.run(self._reader().run())

    def buckets(self) -> None:
        for band in range(self._config.num_buckets):
            MinhashDedupBuckets(
                str(self._folder / "signatures"),
                str(self._folder / "pairs"),
                config=self._config,
                lines_to_buffer=BUFFERED_SIGNATURES,
            ).run(rank=band, world_size=self._config.num_buckets)

    def clusters(self) -> None:
        cluster = MinhashDedupCluster(
            str(self._folder / "pairs"),
            str(self._folder / "removed"),
            config=self._config,
            lines_to_buffer=BUFFERED_SIGNATURES,
        )
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            cluster.run()

    def filtered(self) -> None:
        keep = MinhashDedupFilter(str(self._folder / "removed"))
        writer = ParquetWriter(str(self._folder / "kept"), compression="zstd", batch_size=64)
        for _ in writer.run(keep.run(self._reader().run())):
            pass

    def run(self) -> dict[str, float]:
        """All four, and the wall seconds of each."""
        seconds = {}
        for step in (self.signatures, self.buckets, self.clusters, self.filtered):
            start = time.perf_counter()
            step()
            seconds[step.__name__] = time.perf_counter() - start
        return seconds

    def kept_ids(self) -> list[str]:
        return sorted(
            id_ for path in (self._folder / "kept").glob("*.parquet") for id_ in pq.read_table(path)["id"].to_pylist()
        )
