"""MinHash signatures: documents per second of `write_index` and of datatrove's `MinhashDedupSignature`.

    python -m tests.benchmarks.bench_dedup [--documents documents.parquet] [--repeats 5]

Both read the same Parquet file in one process, taking turns, with the same bands, rows and shingle length, and write
their signatures sorted by band. Ours also hashes texts and addresses for the exact levels. Without `--documents`, the
texts are the main contents of the annotated web pages in the shared data.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.dedup.index import write_index
from tasks.dedup.signature import MinHash
from tasks.tables import TEXTS
from tasks.tombstones import Tombstones
from tests.benchmarks.datatrove_dedup import DatatroveDedup
from tests.benchmarks.made_texts import web_texts


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="MinHash signatures against datatrove's")
    parser.add_argument("--documents", type=Path, help="Parquet file with a column `text`")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    texts = pq.read_table(arguments.documents)["text"].to_pylist() if arguments.documents else web_texts()
    num_words = sum(len(text.split()) for text in texts)
    print(f"{len(texts)} documents, {num_words / len(texts):.0f} words each on average")

    config = MinHash()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = folder / "texts" / "documents.parquet"
        documents.parent.mkdir()
        rows = [
            {"document_id": f"{number:08d}", "url": f"https://site.example/{number}", "date": "", "text": text}
            for number, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=TEXTS), documents)
        theirs = DatatroveDedup(documents.parent, folder / "theirs", config)

        def run_ours() -> None:
            write_index(None, None, documents, folder, config, Tombstones().scope_of, {})

        turns = [(seconds(run_ours), seconds(theirs.signatures)) for _ in range(arguments.repeats)]

    for who, times in zip(("tokenmill", "datatrove"), zip(*turns, strict=True), strict=True):
        print(f"{who}: {len(texts) / statistics.median(times):8.0f} documents/s (median of {len(turns)})")
    ratios = [theirs_s / ours_s for ours_s, theirs_s in turns]
    print(f"ratio: {statistics.median(ratios):.1f} (median of {len(turns)}; {min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
