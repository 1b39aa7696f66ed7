"""Training on a real local Ray cluster: its metrics, its end before its end, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.ray_train import STOP_GRACE_S
from tasks.checkpoint import latest_checkpoint
from tasks.metrics_file import read_metrics
from tasks.pack import tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer
from tasks.train_loop import CHECKPOINTS, TrainJob
from tests.data.prose import prose
from tests.integration.running import alive, environment, wait_until

ALL_ENDED_S = 10.0
NUM_STEPS = 250
_DRIVER = """
import json, os, signal, sys
from infra.ray_map import ray_cluster
from infra.ray_train import run_training
from tasks.train_loop import TrainJob

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

signal.signal(signal.SIGTERM, stop)
seen = []
job = TrainJob.model_validate_json(sys.argv[1])
try:
    with ray_cluster():
        result = run_training(job, num_workers=1, on_rows=lambda rows, num_steps: seen.extend(rows))
    print(json.dumps({"result": result, "steps": [row["step"] for row in seen]}))
except Stopped:
    print(json.dumps({"steps": [row["step"] for row in seen]}))
    os._exit(7)
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    ids = [f"{number:03d}" for number in range(80)]
    texts = [prose(number) for number in range(80)]
    save_tokenizer(train_tokenizer(texts, TokenizerConfig(vocab_size=300)), folder / "tokenizer.json")
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids) | {"text": texts}
    pq.write_table(pa.table(columns), folder / "bucket-000.parquet")
    split = HeldOutSplit(fraction=0.1)
    report = tokenize_bucket(folder / "bucket-000.parquet", folder / "tokenizer.json", folder / "tokens", split=split)
    write_token_manifest(
        folder / "tokens", [report], tokenizer_file=folder / "tokenizer.json", corpus_digest="c0ffee", split=split
    )
    return folder


def job_for(tokens: Path, run_dir: Path, sequences: int) -> TrainJob:
    recipe = PretrainRecipe(
        model="smoke",
        tokenizer=TokenizerConfig(vocab_size=300),
        held_out_fraction=0.1,
        seq_len=64,
        total_tokens=NUM_STEPS * 64 * sequences,
        global_batch_tokens=64 * sequences,
        microbatch_sequences=4,
        checkpoint_every_steps=1000,
        evaluate_every_steps=1000,
        precision="fp32",
    )
    return TrainJob(
        tokens_dir=tokens / "tokens",
        tokenizer_file=tokens / "tokenizer.json",
        run_dir=run_dir,
        recipe=recipe,
        resume=True,
        device="cpu",
    )


def start(job: TrainJob, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _DRIVER, job.model_dump_json()],
        env=environment(
            TOKENMILL_STORE=str(store),
            OMP_NUM_THREADS="1",
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"],
        ),
        cwd=store,
        stdout=subprocess.PIPE,
        text=True,
    )


def steps_done(job: TrainJob) -> int:
    file = job.run_dir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.verify
def test_interrupted_it_leaves_a_checkpoint_and_no_process_and_goes_on_from_there(tokens: Path, tmp_path: Path) -> None:
    job = job_for(tokens, tmp_path / "run", sequences=8)
    process = start(job, tmp_path)
    try:
        wait_until(lambda: steps_done(job) >= 20, 120, "step 20 was not reached", poll_s=0.02)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        output, _ = process.communicate(timeout=60)
        wait_until(lambda: not alive(tmp_path), 30, "a process is left")
        assert time.monotonic() - told < ALL_ENDED_S
    finally:
        process.kill()
    assert process.returncode == 7
    checkpoint = latest_checkpoint(job.run_dir / CHECKPOINTS)
    assert checkpoint is not None
    stopped_at = int(checkpoint.name.removeprefix("step-"))
    assert 20 <= stopped_at < NUM_STEPS and stopped_at == len(read_metrics(job.run_dir / "metrics.jsonl"))
    assert json.loads(output)["steps"] == list(range(1, stopped_at + 1))  # the driver got all there is
    assert not list(job.run_dir.glob("stop-*"))

    process = start(job, tmp_path)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    finished = json.loads(output)
    assert finished["result"]["step"] == NUM_STEPS
    assert finished["steps"] == list(range(1, NUM_STEPS + 1))


@pytest.mark.verify
def test_a_step_that_is_longer_than_the_grace_is_cut_off(tokens: Path, tmp_path: Path) -> None:
    job = job_for(tokens, tmp_path / "run", sequences=256)
    slow = job.recipe.model_copy(update={"model": "30m", "total_tokens": 4 * 64 * 256})
    job = job.model_copy(update={"recipe": slow})
    process = start(job, tmp_path)
    try:
        wait_until(lambda: (job.run_dir / "run.json").is_file(), 120, "training did not begin", poll_s=0.02)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        process.communicate(timeout=60)
        wait_until(lambda: not alive(tmp_path), 30, "a process is left")
        assert STOP_GRACE_S <= time.monotonic() - told < ALL_ENDED_S
    finally:
        process.kill()
    assert process.returncode == 7 and latest_checkpoint(job.run_dir / CHECKPOINTS) is None
