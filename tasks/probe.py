"""A few steps of a training run before it is paid for: the recipe's network, on its device, in as many processes.

Each process is a new one that runs `tasks.training.train`, all of it, on a made-up corpus: how long a step takes does
not depend on what the tokens say. A first run of one microbatch a step says how many microbatches and steps the second
one has time for. Where those are fewer microbatches than a step of the recipe has, its time is multiplied: what a step
does once, exchange and optimizer, is then counted too often, by little where microbatches take long.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tasks.mixture import MixtureSource
from tasks.pack import tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.rule import Configuration
from tasks.spikes import SpikeRule
from tasks.tokenizer import SPECIAL_TOKENS, HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer

MAX_STEP_S = 3.0
"""Longer steps are cut to fewer microbatches, where they have several."""
STEPS_S, MIN_STEPS, MAX_STEPS = 20.0, 3, 400
"""How long the steps that count may take together, and their number."""
WARMUP_STEPS = 3
MAX_EVALUATED_TOKENS = 65_536
"""Of the one evaluation; a larger one is multiplied."""
TIMEOUT_S = 600.0
"""A probe takes a minute, or somewhat longer where a single microbatch takes many seconds."""

_ORDER, _RESULT = "order.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured, by the first process."""

    start_s: float  # until the first step begins, compilation included
    step_s: float  # of the recipe's whole batch, with reading, exchange and metrics
    evaluation_s: float  # of one evaluation, with its samples
    checkpoint_s: float  # that a step waits for one checkpoint
    peak_bytes: int  # resident at most, on a CPU; held by torch at most, on a GPU
    num_steps: int  # that `step_s` is the median of


class ProbeOrder(Configuration):
    """What a process of the probe is told."""

    recipe: PretrainRecipe
    device: str
    world_size: int = Field(ge=1)
    microbatches: int = Field(ge=1, description="Of each process in a step of the recipe")
    batch_tokens: int = Field(ge=1, description="Of a step of the recipe")
    evaluated_share: float = Field(gt=0, le=1, description="Of the tokens of an evaluation, those that are made up")


def run_probe(
    recipe: PretrainRecipe,
    *,
    batch_tokens: int,
    workers: int,
    device: str,
    evaluated_tokens: int,
    tokens_per_document: int,
) -> Probe:
    """Measure; takes about a minute, in processes of its own, of which nothing is left. ValueError where they fail."""
    sequences = batch_tokens // recipe.seq_len // (workers // recipe.tensor)
    made_up = min(evaluated_tokens, MAX_EVALUATED_TOKENS)
    order = ProbeOrder(
        recipe=recipe,
        device=device,
        world_size=workers,
        microbatches=-(-sequences // recipe.microbatch_sequences),
        batch_tokens=batch_tokens,
        evaluated_share=made_up / evaluated_tokens,
    )
    with tempfile.TemporaryDirectory(prefix="tokenmill-probe-") as name:
        folder = Path(name)
        (folder / _ORDER).write_text(order.model_dump_json(), encoding="utf-8")
        document_tokens = min(tokens_per_document, made_up)
        make_up_corpus(folder, 2 * batch_tokens, max(1, made_up // document_tokens), document_tokens)
        _run_processes(folder, workers)
        return Probe(**json.loads((folder / _RESULT).read_bytes()))


def make_up_corpus(folder: Path, train_tokens: int, held_out_documents: int, document_tokens: int) -> None:
    """Token shards in `folder`/tokens with their tokenizer.json, of random letters; a letter is a token."""
    letters = np.random.default_rng(0)

    def text(num_tokens: int) -> str:
        size = max(1, num_tokens - 1)  # and end-of-text
        return letters.integers(ord("a"), ord("z"), size, dtype=np.uint8, endpoint=True).tobytes().decode()

    texts = {f"h{number:08d}": text(document_tokens) for number in range(held_out_documents)}
    size = 65_536
    texts |= {f"t{number:08d}": text(size) for number in range(-(-train_tokens // size))}
    split = HeldOutSplit(fraction=1e-9, always_held_out=tuple(name for name in texts if name[0] == "h"))
    tokenizer_file = folder / "tokenizer.json"
    bytes_alone = TokenizerConfig(vocab_size=256 + len(SPECIAL_TOKENS))
    save_tokenizer(train_tokenizer(["a"], bytes_alone), tokenizer_file)
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), sorted(texts)) | {
        "text": [texts[name] for name in sorted(texts)]
    }
    file = folder / "bucket-000.parquet"
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), file)
    report = tokenize_bucket(file, tokenizer_file, folder / "tokens", split=split)
    write_token_manifest(
        folder / "tokens", [report], tokenizer_file=tokenizer_file, corpus_digest="made up", split=split
    )


def _run_processes(folder: Path, workers: int) -> None:
    """One for each worker, with the share of the cores that Ray would give it."""
    cores = len(os.sched_getaffinity(0))
    environment = {"OMP_NUM_THREADS": str(max(1, cores // workers)), **os.environ}
    command = [sys.executable, "-P", "-m", "tasks.probe", str(folder)]
    errors = [(folder / f"errors-{rank}").open("wb") for rank in range(workers)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment, stdin=subprocess.DEVNULL, stdout=error, stderr=error)
        for rank, error in enumerate(errors)
    ]
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        codes = [process.wait() for process in processes]
        for error in errors:
            error.close()
    if any(codes):
        raise ValueError(_failure(folder, codes))


def _failure(folder: Path, codes: Sequence[int]) -> str:
    """The first process that failed by itself, or, where none did, was killed."""
    rank = min(range(len(codes)), key=lambda rank: (codes[rank] <= 0, codes[rank] == 0, rank))
    if codes[rank] < 0:
        return (
            f"the probe's process {rank} was ended by signal {-codes[rank]}: it ran out of memory, or of its "
            f"{TIMEOUT_S:.0f} s; plan without probe steps (--no-probe), or with a smaller microbatch"
        )
    lines = (folder / f"errors-{rank}").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"the probe's process {rank} failed: {lines[-1] if lines else f'exit code {codes[rank]}'}"


def _shortened(order: ProbeOrder, microbatches: int, num_steps: int) -> PretrainRecipe:
    """The recipe for so many steps of so many microbatches, a checkpoint before the last and an evaluation after it."""
    recipe = order.recipe
    whole = microbatches == order.microbatches
    sequences = microbatches * recipe.microbatch_sequences * (order.world_size // recipe.tensor)
    batch_tokens = order.batch_tokens if whole else sequences * recipe.seq_len
    changes = {
        "global_batch_tokens": batch_tokens,
        "total_tokens": num_steps * batch_tokens,
        "epochs": None,
        "tokens_per_parameter": None,
        "decay_from": "",
        "checkpoint_every_steps": max(1, num_steps - 1),
        "keep_checkpoints": 1,
        "evaluate_every_steps": num_steps,
        "evaluate_max_documents": 1_000_000,
        "spikes": SpikeRule(policy="alert"),
    }
    return recipe.model_copy(update=changes)


def _measure(folder: Path, rank: int) -> None:
    """One process's part."""
    import torch
    import torch.distributed as dist

    from tasks.metrics_file import StepReport
    from tasks.training import TrainJob, train

    order = ProbeOrder.model_validate_json((folder / _ORDER).read_bytes())
    if order.world_size > 1:
        on_gpu = order.device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=(folder / "rendezvous").as_uri(),
            rank=rank,
            world_size=order.world_size,
        )

    def run(name: str, microbatches: int, num_steps: int) -> tuple[list[Mapping[str, float]], StepReport, float]:
        """The seconds of each step by part, the last step, and when the first one was done."""
        reports: list[StepReport] = []
        done_s: list[float] = []

        def on_step(report: StepReport) -> None:
            reports.append(report)
            done_s.append(time.perf_counter())

        job = TrainJob(
            corpora=(MixtureSource(corpus="made-up", tokens_dir=folder / "tokens"),),
            tokenizer_file=folder / "tokenizer.json",
            run_dir=folder / name,
            recipe=_shortened(order, microbatches, num_steps),
            device=order.device,
        )
        began_s = time.perf_counter()
        train(job, rank=rank, world_size=order.world_size, on_step=on_step)
        return [report.times_s for report in reports], reports[-1], done_s[0] - began_s

    times, _, first_s = run("first", 1, 3)
    microbatch_s = torch.tensor(min(without_interruptions(each) for each in times[1:]))
    if order.world_size > 1:
        dist.broadcast(microbatch_s, 0)
    microbatches, num_steps = affordable(float(microbatch_s), order.microbatches)
    times, last, _ = run("second", microbatches, WARMUP_STEPS + num_steps)
    if rank == 0:
        step_s = statistics.median(without_interruptions(each) for each in times[WARMUP_STEPS:])
        probe = Probe(
            start_s=max(0.0, first_s - float(microbatch_s)),
            step_s=step_s * order.microbatches / microbatches,
            evaluation_s=times[-1]["evaluation_s"] / order.evaluated_share,
            checkpoint_s=times[-1]["checkpoint_s"],
            peak_bytes=last.peak_memory_bytes,
            num_steps=num_steps,
        )
        (folder / _RESULT).write_text(json.dumps(asdict(probe)), encoding="utf-8")
    if order.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def affordable(microbatch_s: float, microbatches: int) -> tuple[int, int]:
    """How many microbatches of a step, which has `microbatches`, and how many steps there is time for."""
    shortened = min(microbatches, max(1, int(MAX_STEP_S / microbatch_s)))
    return shortened, min(MAX_STEPS, max(MIN_STEPS, int(STEPS_S / (shortened * microbatch_s))))


def without_interruptions(times_s: Mapping[str, Any]) -> float:
    """Of a step, without its evaluation and the checkpoint of the step before."""
    return float(times_s["step_s"] - times_s["evaluation_s"] - times_s["checkpoint_s"])


if __name__ == "__main__":
    _measure(Path(sys.argv[1]), int(sys.argv[2]))
