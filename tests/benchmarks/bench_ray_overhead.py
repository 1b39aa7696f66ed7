"""What Ray Train, MLflow and TensorBoard cost a training: steps a second of `tokenmill pretrain` and of the bare loop.

    python -m tests.benchmarks.bench_ray_overhead [--block-s 60] [--pairs 5] [--model 10m]

The same network is trained on the same shards in two ways, which take turns in blocks:

    bare         `tasks.training.train` in one process, and nothing beside it
    tokenmill    `tokenmill pretrain`: Prefect's server and flow, Ray Train, MLflow's record, TensorBoard

Each block is a process of its own, which goes on from the checkpoint that the last block of its way has left. What it
takes to start, and its first steps, are not counted but stated apart. Then a third process looks at the rows that the
loop writes, by its own clock, for the length of the block: what a user gets, whoever takes the time. Within a block no
checkpoint is made and nothing is evaluated: the loop does both alike in either way.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.follow import Tail
from tasks.metrics_file import METRICS_FILE
from tasks.mixture import MixtureSource
from tasks.recipes.pretraining import PretrainRecipe
from tasks.store import RUN_RECORD
from tasks.tokenizer import TOKENIZER_FILE
from tasks.training import RUN_FILE, TrainJob
from tests.benchmarks.report import report
from tests.data.prose import write_warc

PROJECT = Path(__file__).resolve().parents[2]
WANTED_RATIO = 0.97
FIRST_STEPS = 5
"""Of each block, not counted: caches, threads and the allocator find their sizes."""
_POLL_S = 0.005
_START_TIMEOUT_S, _END_TIMEOUT_S = 300.0, 120.0
_CLI = "import sys; from flows.cli import main; sys.exit(main())"
_BARE = """
import os, signal, sys, torch
from tasks.training import TrainJob, train
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
torch.set_num_threads(os.cpu_count())
train(TrainJob.model_validate_json(sys.argv[1]), should_stop=lambda: bool(told))
"""


@dataclass(frozen=True)
class Block:
    """One process of one way."""

    start_s: float  # until its first step was done
    num_steps: int
    wall_s: float  # of these steps

    @property
    def steps_per_s(self) -> float:
        return self.num_steps / self.wall_s


class _Steps:
    """The steps that a run takes, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], store: Path, log: Path) -> None:
        self._process, self._store, self._log = process, store, log
        self._tail: Tail | None = None
        self.seen = 0

    def wait_for(self, num_steps: int, timeout_s: float) -> float:
        """The time at which so many have been seen."""
        deadline = time.perf_counter() + timeout_s
        while self.seen < num_steps:
            if self._process.poll() is not None:
                said = self._log.read_text(errors="replace")[-2000:]
                raise SystemExit(
                    f"the training ended with {self._process.returncode} in the middle of a block:\n{said}"
                )
            if time.perf_counter() > deadline:
                raise SystemExit(f"step {num_steps} of a block was not reached in {timeout_s:.0f} s")
            time.sleep(_POLL_S)
            self._look()
        return time.perf_counter()

    def _look(self) -> None:
        if self._tail is None:
            file = next(self._store.glob(f"**/{METRICS_FILE}"), None)
            if file is None:
                return
            self._tail = Tail(file)
        self.seen += len(self._tail.lines())


def timed(words: Sequence[str], store: Path, environment: Mapping[str, str], block_s: float) -> Block:
    """Start a training that writes below `store`, look at it for `block_s` seconds, and end it at a checkpoint."""
    earlier = sum(file.read_bytes().count(b"\n") for file in store.glob(f"**/{METRICS_FILE}"))
    began = time.perf_counter()
    said = store.parent / f"{store.name}.log"
    with said.open("ab") as log:
        process = subprocess.Popen(list(words), cwd=store.parent, env=dict(environment), stdout=log, stderr=log)
    try:
        steps = _Steps(process, store, said)
        first = steps.wait_for(earlier + 1, _START_TIMEOUT_S)
        counted_from = steps.wait_for(earlier + 1 + FIRST_STEPS, _START_TIMEOUT_S)
        before = steps.seen
        time.sleep(block_s)
        steps._look()
        until = steps.wait_for(steps.seen + 1, _START_TIMEOUT_S)
        process.send_signal(signal.SIGTERM)
        process.wait(_END_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Block(first - began, steps.seen - before, until - counted_from)


def prepared(folder: Path, environment: Mapping[str, str]) -> None:
    """A corpus in the store."""
    pages = write_warc(folder / "pages.warc.gz", 300)
    words = [sys.executable, "-P", "-c", _CLI, "refresh", "--source", str(pages), "--name", "web"]
    subprocess.run(words, cwd=folder, env=dict(environment), check=True, capture_output=True)


def bare_job(store: Path, run_dir: Path) -> TrainJob:
    """The job of the run in the store, in another folder."""
    run = next(store.glob(f"runs/*/{RUN_FILE}")).parent
    tokens = Path(json.loads((run / RUN_RECORD).read_bytes())["tokens"])
    recipe = json.loads((run / RUN_FILE).read_bytes())["recipe"]
    return TrainJob(
        corpora=(MixtureSource(corpus="web", tokens_dir=tokens),),
        tokenizer_file=tokens / TOKENIZER_FILE,
        run_dir=run_dir,
        recipe=PretrainRecipe.model_validate(recipe),
        resume=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="`tokenmill pretrain` against the bare training loop")
    parser.add_argument("--block-s", type=float, default=60.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="10m")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {
        "model": arguments.model,
        "total_tokens": 10**12,  # never reached
        "checkpoint_every_steps": 10**9,
        "evaluate_every_steps": 10**9,
    }
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, bare = folder / "store", folder / "bare"
        environment["TOKENMILL_STORE"] = str(store)
        prepared(folder, environment)
        pretrain = [sys.executable, "-P", "-c", _CLI, "pretrain", "--corpus", "web", "--recipe", "smoke"]
        pretrain += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        timed(pretrain, store, environment, 0.0)  # trains the tokenizer, and packs: only then there is a job to take
        bare.mkdir()
        loop = [sys.executable, "-P", "-c", _BARE, bare_job(store, bare).model_dump_json()]
        pairs: list[tuple[Block, Block]] = []
        for number in range(arguments.pairs):
            ways = [(loop, bare), (pretrain, store)]
            if number % 2:
                ways.reverse()
            blocks = [timed(words, place, environment, arguments.block_s) for words, place in ways]
            pairs.append((blocks[1], blocks[0]) if number % 2 else (blocks[0], blocks[1]))
            print(f"pair {number + 1} of {arguments.pairs}", file=sys.stderr)
    ratios = [ours.steps_per_s / alone.steps_per_s for alone, ours in pairs]
    report(
        "ray_overhead",
        ("pair", "bare steps/s", "tokenmill steps/s", "ratio", "bare start s", "tokenmill start s"),
        [
            [number, alone.steps_per_s, ours.steps_per_s, f"{ratio:.3f}", alone.start_s, ours.start_s]
            for number, ((alone, ours), ratio) in enumerate(zip(pairs, ratios, strict=True), start=1)
        ],
        {
            "model": arguments.model,
            "block_s": arguments.block_s,
            "wanted": f"a median ratio of at least {WANTED_RATIO}",
            "median_ratio": f"{statistics.median(ratios):.3f}",
            "lowest_ratio": f"{min(ratios):.3f}",
            "highest_ratio": f"{max(ratios):.3f}",
            "median_start_s_bare": round(statistics.median(alone.start_s for alone, _ in pairs), 1),
            "median_start_s_tokenmill": round(statistics.median(ours.start_s for _, ours in pairs), 1),
        },
    )


if __name__ == "__main__":
    main()
