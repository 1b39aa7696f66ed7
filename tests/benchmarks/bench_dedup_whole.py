"""The whole deduplication: documents per second of ours and of datatrove's four steps, at equal parameters.

    python -m tests.benchmarks.bench_dedup_whole [--documents 4000] [--repeats 3]

Both take the same Parquet files (one process each, taking turns) and write Parquet files without the duplicates: 14
bands of 8 rows, word 5-grams, 64-bit hashes. Ours are the pipeline's stages from gathered documents to settled ones, in
two configurations: with verification off, which is what datatrove does, and with the default. They also write the
index, the originals of the removed documents and a ledger that names each one's survivor, which the reference has not.

How many documents stay differs for two reasons. The hash functions are others, and pairs near the threshold share a
band by chance. And datatrove keeps one document of each connected component, ours one for each document that no
survivor resembles: where b resembles a, and c only b, c stays. What ours would keep by components is printed, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.atomic import link_file
from tasks.dedup.components import find_labels
from tasks.dedup.config import Deduplication
from tasks.dedup.index import INDEX_FILE, open_index
from tasks.deduplicate import DedupOutput
from tasks.ports import InProcessMap
from tasks.refresh import Refresh
from tasks.screen import DOCUMENTS_FILE
from tasks.stages import StageOutput
from tests.benchmarks.datatrove_dedup import DatatroveDedup
from tests.benchmarks.made_version import deduplicated, gathered, kept_ids, planned

NUM_BUCKETS = 1


@dataclass
class Turns:
    """What one side took in each of its turns, and what it kept in the last."""

    seconds: list[float] = field(default_factory=list)
    num_kept: int = 0
    note: str = ""


def run_ours(turns: Turns, folder: Path, documents: StageOutput, config: Deduplication) -> None:
    refresh = planned(folder, NUM_BUCKETS, config)
    start = time.perf_counter()
    dedup, settled = deduplicated(refresh, documents, InProcessMap())
    turns.seconds.append(time.perf_counter() - start)
    turns.num_kept = len(kept_ids(settled))
    turns.note = f"; by connected components {num_components(refresh, dedup)}"


def num_components(refresh: Refresh, dedup: DedupOutput) -> int:
    """How many connected components the documents form; one that shares no key with another is one itself."""
    num_documents = int(open_index([shard / INDEX_FILE for shard in dedup.index.shards]).starts[-1])
    (labels,) = (refresh.store.work / "components").glob("*/components/labels")
    return len(np.unique(find_labels(labels).of_range(0, num_documents)))


def run_theirs(turns: Turns, folder: Path, documents: Path, config: Deduplication) -> None:
    reference = DatatroveDedup(documents, folder, config.minhash)
    seconds = reference.run()
    turns.seconds.append(sum(seconds.values()))
    turns.num_kept = len(reference.kept_ids())
    turns.note = "".join(f"; {step} {step_s:.2f} s" for step, step_s in seconds.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole deduplication against datatrove's")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    configs = {
        "verification off": Deduplication(min_jaccard=0, canonical_url=False),
        "the default": Deduplication(),
    }
    ours, theirs = {name: Turns() for name in configs}, Turns()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        refresh = planned(folder / "made", NUM_BUCKETS, configs["the default"])
        documents = gathered(refresh, arguments.documents, InProcessMap())
        (folder / "texts").mkdir()
        for index, shard in enumerate(documents.shards):
            link_file(shard / DOCUMENTS_FILE, folder / "texts" / f"{index}.parquet")
        for repeat in range(arguments.repeats):
            for name, config in configs.items():
                run_ours(ours[name], folder / f"{name}-{repeat}", documents, config)
            run_theirs(theirs, folder / f"datatrove-{repeat}", folder / "texts", configs["the default"])

    print(f"{arguments.documents} documents of 150 words; median of {arguments.repeats} turns")
    for name, turns in {**{f"tokenmill, {name}": turns for name, turns in ours.items()}, "datatrove": theirs}.items():
        per_second = arguments.documents / statistics.median(turns.seconds)
        print(f"{name}: {per_second:.0f} documents/s, {turns.num_kept} stay{turns.note}")
    for name, turns in ours.items():
        ratios = [theirs_s / ours_s for ours_s, theirs_s in zip(turns.seconds, theirs.seconds, strict=True)]
        print(f"ratio, {name}: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
