"""Deduplication from ten thousand to ten million documents: time and memory per document and stage.

    python -m tests.benchmarks.scale_dedup --documents 10000,100000,1000000 --signatures 10000000 --store FOLDER

Texts are made from real pages' paragraphs (made_texts), signatures from counters (made_signatures). Each size is a
store of its own under FOLDER, and runs the pipeline's stages in two spawned processes. What a stage costs is written to
FOLDER/<size>-<turn>.json as it goes: a run that was stopped goes on where it was, and a size that is done is printed.
The store of a size is removed when it is done, unless `--keep` says otherwise.

The number of buckets grows with the root of the size: 4, 16, 64 and 128 for ten thousand to ten million documents.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.atomic import write_json
from tasks.dedup.config import Deduplication
from tasks.deduplicate import deduplicate
from tasks.refresh import Refresh
from tests.benchmarks.made_version import MODULES, deduplicated, gathered, gathered_signatures, planned
from tests.benchmarks.measured_map import MeasuredMap, StageCost, forget_peak_memory, peak_memory_bytes

NUM_WORKERS = 2
DOCUMENTS_PER_PAIR = 200
"""Every partition reads its share of every bucket's members: a pair is a file to open, and should be worth it."""
SMALL, NUM_TURNS = 50_000, 5
"""Sizes that take seconds are measured five times, since anything else that runs shows; the median counts."""
SECONDS_BETWEEN_NOTES = 10


@dataclass
class Measurement:
    """One size, as far as it has run. The driver's share is what it does beside waiting for shards."""

    path: Path
    num_documents: int
    num_buckets: int
    fingerprint: str
    """Of the last stage, and so of the code of all."""
    costs: dict[str, StageCost] = field(default_factory=dict)
    stage_bytes: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    driver_cpu_s: float = 0.0
    driver_peak_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    is_done: bool = False

    @classmethod
    def at(cls, path: Path, num_documents: int, num_buckets: int, fingerprint: str) -> Measurement:
        """As it was left there, or from the beginning: costs of another program or size are not added to."""
        empty = cls(path, num_documents, num_buckets, fingerprint)
        if not path.exists():
            return empty
        found: dict[str, Any] = json.loads(path.read_bytes())
        if any(found[name] != getattr(empty, name) for name in ("num_documents", "num_buckets", "fingerprint")):
            print(f"{path.name} is of another size or program: measured anew", flush=True)
            return empty
        costs = {name: StageCost(**cost) for name, cost in found.pop("costs").items()}
        return cls(**{**found, "path": path, "costs": costs})

    def save(self) -> None:
        write_json(self.path, {**asdict(self), "path": self.path.name})

    @property
    def cpu_s(self) -> float:
        return sum(cost.cpu_s for cost in self.costs.values()) + self.driver_cpu_s


def measure(measurement: Measurement, refresh: Refresh) -> None:
    """Run one size to its end, from where it is."""
    with_texts = refresh.recipe.deduplication.min_jaccard > 0
    with MeasuredMap(NUM_WORKERS, MODULES, on_progress=Notes("input: ")) as making:
        make = gathered if with_texts else gathered_signatures
        documents = make(refresh, measurement.num_documents, making)

    notes = Notes("")

    def on_progress(stage: str, done: int, total: int) -> None:
        measurement.wall_s = wall_s + time.perf_counter()
        measurement.driver_cpu_s = driver_cpu_s + time.process_time()
        measurement.driver_peak_bytes = max(measurement.driver_peak_bytes, peak_memory_bytes())
        if notes(stage, done, total):
            measurement.save()

    with MeasuredMap(NUM_WORKERS, MODULES, measurement.costs, on_progress) as shard_map:
        forget_peak_memory()
        wall_s = measurement.wall_s - time.perf_counter()
        driver_cpu_s = measurement.driver_cpu_s - time.process_time()
        if with_texts:
            dedup, settled = deduplicated(refresh, documents, shard_map)
            measurement.counts = {"kept": settled.report.kept}
        else:
            dedup = deduplicate(refresh, documents, shard_map)
        measurement.counts |= {"decided": dedup.resolved.report.records_in, **dedup.resolved.report.removed}
        on_progress("all", 1, 1)
    for stage in measurement.costs:
        files = refresh.stages[stage].directory(refresh.store.work).rglob("*")
        measurement.stage_bytes[stage] = sum(file.stat().st_size for file in files if file.is_file())
    measurement.is_done = True
    measurement.save()


class Notes:
    """Says how far a stage is: at its end, and every ten seconds before."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._start, self._last = prefix, time.perf_counter(), 0.0

    def __call__(self, stage: str, done: int, total: int) -> bool:
        """Whether there was something to say."""
        now = time.perf_counter()
        if done < total and now - self._last < SECONDS_BETWEEN_NOTES:
            return False
        self._last = now
        print(f"  {now - self._start:6.0f} s  {self._prefix}{stage} {done}/{total}", flush=True)
        return True


def show(measurement: Measurement) -> None:
    """One line a stage; the driver's is what it does beside waiting for shards. Bytes are read, written, and left."""
    num_documents = measurement.num_documents
    print(f"{num_documents:,} documents, {measurement.num_buckets} buckets: {measurement.counts}")
    print("  stage         shards    wall s     CPU s  longest s  CPU us/doc  peak MB  read B/doc  written  left")
    costs, of_driver = measurement.costs, StageCost(cpu_s=measurement.driver_cpu_s)
    of_driver.peak_bytes = measurement.driver_peak_bytes
    of_driver.wall_s = measurement.wall_s - sum(cost.wall_s for cost in costs.values())
    of_all = StageCost()
    for name, cost in {**costs, "driver": of_driver, "all": of_all}.items():
        if cost is not of_all:
            of_all.add(cost)
            of_all.wall_s += cost.wall_s
        left = sum(measurement.stage_bytes.values()) if cost is of_all else measurement.stage_bytes.get(name, 0)
        print(
            f"  {name:12}{cost.shards:8}{cost.wall_s:10.1f}{cost.cpu_s:10.1f}{cost.longest_s:11.1f}"
            f"{cost.cpu_s / num_documents * 1e6:12.1f}{cost.peak_bytes / 1e6:9.0f}"
            f"{cost.read_bytes / num_documents:12.0f}{cost.written_bytes / num_documents:9.0f}"
            f"{left / num_documents:6.0f}"
        )


def flatness(measurements: list[Measurement]) -> str:
    """The dearest document over the cheapest, by wall time and by CPU time."""
    wall = [measurement.wall_s / measurement.num_documents for measurement in measurements]
    cpu = [measurement.cpu_s / measurement.num_documents for measurement in measurements]
    return f"cost per document, largest over smallest: wall {max(wall) / min(wall):.2f}, CPU {max(cpu) / min(cpu):.2f}"


def sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def num_buckets_for(num_documents: int) -> int:
    """The largest power of two that leaves `DOCUMENTS_PER_PAIR` to each pair of a bucket and a partition."""
    return 1 << (math.isqrt(num_documents // DOCUMENTS_PER_PAIR).bit_length() - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Deduplication at several sizes: time and memory by stage")
    parser.add_argument("--documents", type=sizes, default=[], help="sizes with texts, with commas between")
    parser.add_argument("--signatures", type=sizes, default=[], help="sizes with signatures alone")
    parser.add_argument("--store", type=Path, required=True, help="folder for stores and results")
    parser.add_argument("--num-buckets", type=int, help="the same for all sizes")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    for kind, wanted, config in (
        ("documents", arguments.documents, Deduplication()),
        ("signatures", arguments.signatures, Deduplication(min_jaccard=0)),
    ):
        measurements = []
        for size in wanted:
            num_buckets = arguments.num_buckets or num_buckets_for(size)
            turns = []
            for turn in range(NUM_TURNS if size <= SMALL else 1):
                store = arguments.store / f"{kind}-{size}-{turn}"
                refresh = planned(store, num_buckets, config)
                fingerprint = refresh.stages["settle"].fingerprint
                measurement = Measurement.at(store.with_suffix(".json"), size, num_buckets, fingerprint)
                if not measurement.is_done:
                    print(f"{store.name}:", flush=True)
                    measure(measurement, refresh)
                if not arguments.keep:
                    shutil.rmtree(store, ignore_errors=True)
                turns.append(measurement)
            measurements.append(sorted(turns, key=lambda turn: turn.cpu_s)[len(turns) // 2])
            show(measurements[-1])
        if len(measurements) > 1:
            print(flatness(measurements))


if __name__ == "__main__":
    main()
