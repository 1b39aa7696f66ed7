"""What Ray Train, MLflow and TensorBoard cost a training: steps a second of `tokenmill pretrain` and of the bare loop.

    python -m tests.benchmarks.bench_ray_overhead [--block-s 60] [--pairs 5] [--model 10m] [--threads N]

The same network is trained on the same shards in two ways, which take turns in blocks:

    bare         `tasks.training.train` in one process, and nothing beside it
    tokenmill    `tokenmill pretrain`: Prefect's server and flow, Ray Train, MLflow's record, TensorBoard

Each block is a process of its own, which goes on from the checkpoint that the last block of its way has left. What it
takes to start, and its first steps, are not counted but stated apart. Then a third process looks at the rows that the
loop writes, by its own clock, for the length of the block: what a user gets, whoever takes the time. Within a block no
checkpoint is made and nothing is evaluated: the loop does both alike in either way.

With as many threads as there are cores, the default, everything beside the training takes its time from it. With one
less a core is free for that, as it is where a GPU trains: then what is left is what the training itself waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
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
_STEP_TIMEOUT_S, _END_TIMEOUT_S = 300.0, 120.0
_CLI = "import sys; from flows.cli import main; sys.exit(main())"
_BARE = """
import os, signal, sys, torch
from tasks.training import TrainJob, train
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
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
    """The steps that trainings take from now on, seen from outside: rows of the metrics files that `pattern` names."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self._folder, self._pattern = folder, pattern
        self._tails: dict[Path, Tail] = {}
        self.seen = 0
        self.look()
        self.seen = 0  # what is there already is no step of these

    def look(self) -> None:
        for file in self._folder.glob(self._pattern):
            self.seen += len(self._tails.setdefault(file, Tail(file)).lines())

    def wait_for(self, num_steps: int, process: subprocess.Popen[bytes], log: Path) -> float:
        """The time at which so many have been seen."""
        deadline = time.perf_counter() + _STEP_TIMEOUT_S
        while self.seen < num_steps:
            if (ended := process.poll()) is not None or time.perf_counter() > deadline:
                said = log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"step {num_steps} of a block was not reached (exit status {ended}):\n{said}")
            time.sleep(_POLL_S)
            self.look()
        return time.perf_counter()


@dataclass(frozen=True)
class Way:
    """How a training is started, and where it writes."""

    words: list[str]
    folder: Path
    metrics: str  # pattern of its metrics files in the folder

    def block(self, environment: Mapping[str, str], block_s: float) -> Block:
        """Start the training, look at it for `block_s` seconds, and end it at a checkpoint."""
        steps = _Steps(self.folder, self.metrics)
        log = self.folder.parent / f"{self.folder.name}.log"
        began = time.perf_counter()
        with log.open("wb") as sink:
            process = subprocess.Popen(
                self.words, cwd=self.folder.parent, env=dict(environment), stdout=sink, stderr=sink
            )
        try:
            first = steps.wait_for(1, process, log)
            counted_from = steps.wait_for(1 + FIRST_STEPS, process, log)
            before = steps.seen
            time.sleep(block_s)
            steps.look()
            until = steps.wait_for(steps.seen + 1, process, log)
            num_steps = steps.seen - before
            process.terminate()
            process.wait(_END_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return Block(first - began, num_steps, until - counted_from)


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
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training (default: all cores)")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {
        "model": arguments.model,
        "total_tokens": 10**12,  # never reached
        "checkpoint_every_steps": 10**9,
        "evaluate_every_steps": 10**9,
    }
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, bare_folder = folder / "store", folder / "bare"
        environment["TOKENMILL_STORE"] = str(store)
        prepared(folder, environment)
        pretrain = [sys.executable, "-P", "-c", _CLI, "pretrain", "--corpus", "web", "--recipe", "smoke"]
        pretrain += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        tokenmill = Way(pretrain, store, f"runs/*/{METRICS_FILE}")
        tokenmill.block(environment, 0.0)  # trains the tokenizer, and packs: only then there is a job to take
        bare_folder.mkdir()
        loop = [sys.executable, "-P", "-c", _BARE, bare_job(store, bare_folder).model_dump_json()]
        bare = Way(loop, bare_folder, METRICS_FILE)
        pairs: list[tuple[Block, Block]] = []
        for number in range(arguments.pairs):
            turn = (bare, tokenmill) if number % 2 == 0 else (tokenmill, bare)
            blocks = {way.folder: way.block(environment, arguments.block_s) for way in turn}
            pairs.append((blocks[bare.folder], blocks[tokenmill.folder]))
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
            "threads": arguments.threads,
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
