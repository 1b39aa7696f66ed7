"""MinHash signatures: documents per second of `write_signatures` and of datatrove's `MinhashDedupSignature`.

    python tests/benchmarks/bench_dedup.py [--documents documents.parquet] [--repeats 5]

Both read the same texts and write their signature files, with the same bands, rows and shingle length, in one process
and taking turns; ours also reads the Parquet file, and hashes texts for the exact level. Without `--documents`, the
texts are the main contents of the annotated web pages in the shared data. datatrove hashes shingles with SHA-1, one
of its two functions, since xxhash is not among our dependencies; its time goes into tokenisation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.logging import logger

from tasks.dedup.clusters import write_signatures
from tasks.dedup.signature import MinHash

WEB_PAGES = Path(__file__).resolve().parents[2] / "../shared/data/web/pages.gold.jsonl.gz"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def web_texts() -> list[str]:
    if not WEB_PAGES.exists():
        raise SystemExit(f"no {WEB_PAGES}; name a Parquet file with a column `text` by --documents")
    with gzip.open(WEB_PAGES, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["main_content"] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="MinHash signatures against datatrove's")
    parser.add_argument("--documents", type=Path, help="Parquet file with a column `text`")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    texts = pq.read_table(arguments.documents)["text"].to_pylist() if arguments.documents else web_texts()
    num_words = sum(len(text.split()) for text in texts)
    print(f"{len(texts)} documents, {num_words / len(texts):.0f} words each on average")

    config = MinHash()
    theirs_config = MinhashConfig(
        n_grams=config.shingle_words,
        num_buckets=config.num_bands,
        hashes_per_bucket=config.rows_per_band,
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )
    logger.remove()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = [str(number) for number in range(len(texts))]
        table = pa.table({"document_id": ids, "text": texts, "date": [""] * len(texts)})
        pq.write_table(table, folder / "documents.parquet")
        theirs = MinhashDedupSignature(str(folder / "theirs"), theirs_config)
        theirs.get_shingles("its tokenizer is loaded before the first turn")

        def run_ours() -> None:
            write_signatures(folder / "documents.parquet", folder / "ours.parquet", config)

        def run_theirs() -> None:
            theirs.run(iter([Document(text=text, id=id_) for id_, text in zip(ids, texts, strict=True)]), rank=0)

        turns = [(seconds(run_ours), seconds(run_theirs)) for _ in range(arguments.repeats)]

    for who, times in zip(("tokenmill", "datatrove"), zip(*turns, strict=True), strict=True):
        print(f"{who}: {len(texts) / statistics.median(times):8.0f} documents/s (median of {len(turns)})")
    ratios = [theirs_s / ours_s for ours_s, theirs_s in turns]
    print(f"ratio: {statistics.median(ratios):.1f} (median of {len(turns)}; {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
