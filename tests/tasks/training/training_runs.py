"""A corpus of made-up words, a run of 20 steps on it, and what such runs are compared by."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from tasks.checkpoints import load_decoder
from tasks.metrics_file import read_metrics
from tasks.mixture import MixtureSource
from tasks.pack import tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer
from tasks.training import TrainJob, TrainResult

NUM_STEPS, SEQ_LEN, BATCH_SEQUENCES = 20, 16, 4
BATCH_TOKENS = SEQ_LEN * BATCH_SEQUENCES
RECIPE = PretrainRecipe(
    model="smoke",
    tokenizer=TokenizerConfig(vocab_size=300),
    held_out_fraction=0.1,
    seq_len=SEQ_LEN,
    total_tokens=NUM_STEPS * BATCH_TOKENS,
    global_batch_tokens=BATCH_TOKENS,
    microbatch_sequences=4,
    learning_rate=0.003,
    min_warmup_steps=4,
    checkpoint_every_steps=6,
    evaluate_every_steps=8,
    evaluate_max_documents=4,
    precision="fp32",
    seed=5,
)
SPEEDS = {"tokens_per_s", "peak_memory_bytes", "mfu"}
"""What differs between equal runs, beside the times."""


def make_corpus(folder: Path, seed: int = 0, tokenizer_file: Path | None = None) -> Path:
    """120 documents of 5 to 25 words out of 40, in one bucket: tokenizer.json and tokens/."""
    choose = random.Random(seed)
    words = [
        f"{head}{tail}"
        for head in ("mo", "ta", "ki", "re")
        for tail in ("n", "ster", "lo", "ving", "d", "x", "a", "ps", "y", "t")
    ]
    ids = [f"{number:03d}" for number in range(120)]
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids)
    columns["text"] = [" ".join(choose.choices(words, k=choose.randint(5, 25))) + "." for _ in ids]
    return pack(folder, columns, tokenizer_file)


def pack(folder: Path, columns: dict[str, list[str]], tokenizer_file: Path | None = None) -> Path:
    """Tokenizer and token shards of these documents, sorted by id, in one bucket below `folder`."""
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "bucket-000.parquet")
    tokenizer = folder / "tokenizer.json"
    if tokenizer_file is None:
        save_tokenizer(train_tokenizer(columns["text"], RECIPE.tokenizer), tokenizer)
    else:
        tokenizer.write_bytes(tokenizer_file.read_bytes())
    split = HeldOutSplit(fraction=0.1)
    report = tokenize_bucket(folder / "bucket-000.parquet", tokenizer, folder / "tokens", split=split)
    write_token_manifest(folder / "tokens", [report], tokenizer_file=tokenizer, corpus_digest="c0ffee", split=split)
    return folder


def job_for(
    corpus: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    more: tuple[MixtureSource, ...] = (),
    **changes: Any,
) -> TrainJob:
    return TrainJob(
        corpora=(MixtureSource(corpus="words@1", tokens_dir=corpus / "tokens"), *more),
        tokenizer_file=corpus / "tokenizer.json",
        run_dir=run_dir,
        recipe=PretrainRecipe.model_validate(RECIPE.model_dump() | changes),
        resume=resume,
        device=device,
    )


def curve(run_dir: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Everything the run wrote per step, but for times and memory."""
    return [
        {name: value for name, value in row.items() if name not in SPEEDS and not name.endswith("_s")}
        for row in read_metrics(run_dir / file)
    ]


def column(run_dir: Path, name: str) -> list[Any]:
    return [row[name] for row in curve(run_dir)]


def weights(result: TrainResult) -> dict[str, Tensor]:
    return load_decoder(result.checkpoint)[0].state_dict()


_PROCESS = """
import datetime, json, sys
import torch, torch.distributed as dist
from tasks.training import TrainJob, train
torch.set_num_threads(1)
rank, world_size = int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group(
    "gloo",
    init_method=f"file://{sys.argv[2]}",
    rank=rank,
    world_size=world_size,
    timeout=datetime.timedelta(seconds=60),
)
steps = []
for values, last_step in json.loads(sys.argv[1]):
    asked = 0
    def stop():  # only the last process hears of it
        global asked
        asked += 1
        return rank == world_size - 1 and asked == last_step
    steps.append(train(TrainJob.model_validate(values), rank=rank, world_size=world_size, should_stop=stop).step)
print(json.dumps(steps), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def train_in_processes(jobs: Sequence[tuple[TrainJob, int]], meeting: Path, *, world_size: int = 2) -> list[int]:
    """Run jobs one after the other in processes of their own, each up to a step (0: to the end); where they ended."""
    arguments = json.dumps([(job.model_dump(mode="json"), last_step) for job, last_step in jobs])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, arguments, str(meeting), str(rank), str(world_size)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        steps = [json.loads(worker.communicate(timeout=240)[0]) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert all(each == steps[0] for each in steps), "all processes come to the same step"
    ended: list[int] = steps[0]
    return ended
