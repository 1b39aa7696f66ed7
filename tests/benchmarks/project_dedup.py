"""On paper: what deduplication costs at a size that was not run, from what `scale_dedup` has measured.

    python -m tests.benchmarks.project_dedup documents-1000000-0.json signatures-10000000-0.json

A stage's cost per document is a part that grows with the text and a part that does not. The second is what the run
with signatures alone shows (for members and resolve; edges and components see no text), the first is the rest. Added
is what neither run has: passes over files of edges where they exceed one process's memory, and opening a member file
and a decision file for each pair of a bucket and a partition. Texts are `--words` long instead of 150.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.made_texts import PASSAGE_WORDS, PASSAGES
from tests.benchmarks.measured_map import StageCost

KEYS_PER_DOCUMENT, KEY_BYTES = 16, 12
"""14 bands, text, URL; read through mapped files, which no counter of read bytes sees."""
PAIR_S = 0.001
"""CPU time to open one bucket's member file and read one partition's share, beyond the rows' own cost."""
NUM_PASSES, PASS_US, PASS_BYTES = 6, 0.4, 14
"""Of the alternating stars (made signatures, 1/64 of the edges in memory): passes; per document and pass."""


@dataclass(frozen=True, slots=True)
class Projected:
    """CPU hours, and terabytes read and written."""

    cpu_h: float
    read_tb: float
    written_tb: float

    @classmethod
    def of(cls, num_documents: int, cpu_us: float, read_bytes: float, written_bytes: float) -> Projected:
        """From figures per document."""
        billions = num_documents / 1e9
        return cls(cpu_us / 3.6 * billions, read_bytes / 1e3 * billions, written_bytes / 1e3 * billions)


class PerDocument:
    """Measured costs of a run by stage: CPU microseconds, bytes read and written."""

    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_bytes())
        self._size = found["num_documents"]
        self._costs = {name: StageCost(**cost) for name, cost in found["costs"].items()}

    def __call__(self, stage: str) -> tuple[float, float, float]:
        cost, size = self._costs[stage], self._size
        return cost.cpu_s * 1e6 / size, cost.read_bytes / size, cost.written_bytes / size


def project(
    with_texts: PerDocument, without: PerDocument, num_documents: int, num_buckets: int, words: int
) -> dict[str, Projected]:
    growth = words / (PASSAGES * PASSAGE_WORDS)
    pairs_us = num_buckets**2 * PAIR_S * 1e6 / num_documents

    def mixed(stage: str) -> list[float]:
        pairs = zip(with_texts(stage), without(stage), strict=True)
        return [fixed + max(0.0, whole - fixed) * growth for whole, fixed in pairs]

    index_us, index_read, index_written = with_texts("index")
    edges_us, _, edges_written = without("edges")
    members, resolve = mixed("members"), mixed("resolve")
    settle_us, settle_read, settle_written = (figure * growth for figure in with_texts("settle"))
    figures: dict[str, Sequence[float]] = {
        "index": (index_us * growth, index_read * growth, index_written),
        "edges": (edges_us, KEYS_PER_DOCUMENT * KEY_BYTES, edges_written),
        "components": (NUM_PASSES * PASS_US, NUM_PASSES * PASS_BYTES, NUM_PASSES * PASS_BYTES),
        "members": members,
        "resolve": (resolve[0] + pairs_us, *resolve[1:]),
        "settle": (settle_us + pairs_us, settle_read, settle_written),
    }
    return {stage: Projected.of(num_documents, *per_document) for stage, per_document in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Deduplication on paper")
    parser.add_argument("with_texts", type=Path, help="a result of scale_dedup --documents")
    parser.add_argument("without", type=Path, help="a result of scale_dedup --signatures")
    parser.add_argument("--documents", type=int, default=10**9)
    parser.add_argument("--words", type=int, default=500, help="of a document")
    parser.add_argument("--num-buckets", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cores", type=int, default=64, help="of a node")
    parser.add_argument("--gigabytes-per-second", type=float, default=1.0, help="that a node reads and writes together")
    arguments = parser.parse_args()
    stages = project(
        PerDocument(arguments.with_texts),
        PerDocument(arguments.without),
        arguments.documents,
        arguments.num_buckets,
        arguments.words,
    )
    total = Projected(*(sum(getattr(cost, name) for cost in stages.values()) for name in Projected.__slots__))
    print("| stage | CPU hours | TB read | TB written | computing, h | moving, h |\n|---|---|---|---|---|---|")
    for stage, cost in {**stages, "all": total}.items():
        computing_h = cost.cpu_h / (arguments.nodes * arguments.cores)
        moving_h = (cost.read_tb + cost.written_tb) * 1e3 / arguments.gigabytes_per_second / arguments.nodes / 3600
        print(
            f"| {stage} | {cost.cpu_h:.1f} | {cost.read_tb:.2f} | {cost.written_tb:.2f} "
            f"| {computing_h:.2f} | {moving_h:.2f} |"
        )


if __name__ == "__main__":
    main()
