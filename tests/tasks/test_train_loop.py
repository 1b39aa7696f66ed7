"""The training loop: one curve, whatever interrupts it and however many processes draw it."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import tasks.train_loop
from model.decoder import Decoder
from tasks.checkpoint import complete_checkpoints, load_decoder, read_state
from tasks.evaluation.bits_per_byte import bits_per_byte
from tasks.loader import TokenLoader, batch_hash
from tasks.metrics_file import StepReport, read_metrics
from tasks.pack import TokenShards, tokenize_bucket, write_token_manifest
from tasks.recipes.pretraining import PretrainRecipe
from tasks.samples import PROMPTS, read_samples
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer
from tasks.train_loop import TrainingDivergedError, TrainJob, TrainResult, train

NUM_STEPS = 20
RECIPE = PretrainRecipe(
    model="smoke",
    tokenizer=TokenizerConfig(vocab_size=300),
    held_out_fraction=0.1,
    seq_len=16,
    total_tokens=NUM_STEPS * 64,
    global_batch_tokens=64,
    microbatch_sequences=4,
    learning_rate=0.003,
    min_warmup_steps=4,
    checkpoint_every_steps=6,
    evaluate_every_steps=8,
    evaluate_max_documents=4,
    precision="fp32",
    seed=5,
)
# torch 2.13 on a CPU, one thread; a change that means to move the curve writes these anew
GOLDEN_LOSSES = [
    5.74976,
    5.7356,
    5.48139,
    5.12304,
    4.89052,
    4.65708,
    4.64024,
    4.2073,
    4.01,
    3.93086,
    3.86663,
    3.81215,
    3.7886,
    3.56686,
    3.78199,
    3.7492,
    3.64675,
    3.66629,
    3.62118,
    3.63911,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_corpus(folder: Path, seed: int = 0) -> Path:
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
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "bucket-000.parquet")
    tokenizer = folder / "tokenizer.json"
    save_tokenizer(train_tokenizer(columns["text"], RECIPE.tokenizer), tokenizer)
    split = HeldOutSplit(fraction=0.1)
    report = tokenize_bucket(folder / "bucket-000.parquet", tokenizer, folder / "tokens", split=split)
    write_token_manifest(folder / "tokens", [report], tokenizer_file=tokenizer, corpus_digest="c0ffee", split=split)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("train") / "corpus")


def job_for(corpus: Path, run_dir: Path, *, resume: bool = False, device: str = "cpu", **changes: Any) -> TrainJob:
    return TrainJob(
        tokens_dir=corpus / "tokens",
        tokenizer_file=corpus / "tokenizer.json",
        run_dir=run_dir,
        recipe=PretrainRecipe.model_validate(RECIPE.model_dump() | changes),
        resume=resume,
        device=device,
    )


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """Everything the run wrote per step, but for the speed."""
    return [
        {name: value for name, value in row.items() if name != "tokens_per_s"}
        for row in read_metrics(run_dir / "metrics.jsonl")
    ]


def weights(result: TrainResult) -> dict[str, Tensor]:
    return load_decoder(result.checkpoint)[0].state_dict()


@dataclass
class Reference:
    result: TrainResult
    reports: list[StepReport]
    run_dir: Path


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The run that nothing interrupts."""
    reports: list[StepReport] = []
    run_dir = tmp_path_factory.mktemp("reference")
    return Reference(train(job_for(corpus, run_dir), on_step=reports.append), reports, run_dir)


def test_golden_loss_curve(reference: Reference):
    losses = [row["loss"] for row in curve(reference.run_dir)]
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=1e-4)


def test_the_loss_starts_at_the_uniform_models_and_falls(reference: Reference):
    losses = [report.loss for report in reference.reports]
    assert losses[0] == pytest.approx(math.log(320), abs=0.1)
    assert losses[-1] < losses[0] - 1


def test_what_a_step_reports(corpus: Path, reference: Reference):
    reports, rows = reference.reports, curve(reference.run_dir)
    assert [report.step for report in reports] == [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [report.tokens for report in reports] == [64 * step for step in range(1, NUM_STEPS + 1)]
    assert [report.loss for report in reports] == [row["loss"] for row in rows]
    assert [report.step for report in reports if report.held_out] == [8, 16, 20]
    assert [row["step"] for row in rows if "held_out_bits_per_byte" in row] == [8, 16, 20]
    assert [report.step for report in reports if report.checkpoint] == [6, 12, 18, 20]
    rates = [report.learning_rate for report in reports]
    assert rates[:4] == pytest.approx([0.003 * step / 4 for step in range(1, 5)])
    assert rates[-1] == pytest.approx(0.0003)
    assert all(report.tokens_per_s > 0 and report.grad_norm > 0 for report in reports)
    loader = TokenLoader(TokenShards(corpus / "tokens"), seq_len=16, global_batch_sequences=4, seed=5)
    assert [row["batch_hash"] for row in rows] == [batch_hash(loader.batch(step)) for step in range(NUM_STEPS)]


def test_the_result_is_what_the_last_checkpoint_holds(corpus: Path, reference: Reference):
    result = reference.result
    assert (result.step, result.complete, result.tokens_seen) == (NUM_STEPS, True, NUM_STEPS * 64)
    assert [folder.name for folder in complete_checkpoints(result.checkpoint.parent)] == [
        "step-00000018",
        "step-00000020",
    ]
    model, state = load_decoder(result.checkpoint)
    assert sum(parameter.numel() for parameter in model.parameters()) == result.num_parameters
    assert state.recipe == RECIPE
    assert state.corpus_digest == "c0ffee"
    assert (
        state.held_out
        == result.held_out
        == bits_per_byte(model, TokenShards(corpus / "tokens", "held_out"), max_documents=4)
    )
    description = json.loads((reference.run_dir / "run.json").read_text())
    assert (description["num_steps"], description["recipe"]["seed"]) == (NUM_STEPS, 5)


class Killed(BaseException):
    """Stands for a kill at a point where nothing is being written."""


@pytest.mark.parametrize("last_step", range(1, NUM_STEPS + 1))
def test_interrupted_after_any_step_the_curve_is_the_same_bit_for_bit(
    corpus: Path, reference: Reference, tmp_path: Path, last_step: int
):
    def interrupt(report: StepReport) -> None:
        if report.step == last_step:
            raise Killed

    with pytest.raises(Killed):
        train(job_for(corpus, tmp_path), on_step=interrupt)
    resumed: list[int] = []
    result = train(job_for(corpus, tmp_path, resume=True), on_step=lambda report: resumed.append(report.step))
    first = 21 if last_step == NUM_STEPS else last_step // 6 * 6 + 1
    assert resumed == list(range(first, NUM_STEPS + 1))
    assert curve(tmp_path) == curve(reference.run_dir)
    assert result.held_out == reference.result.held_out
    assert read_samples(tmp_path / "samples.jsonl") == read_samples(reference.run_dir / "samples.jsonl")
    assert all(torch.equal(tensor, weights(reference.result)[name]) for name, tensor in weights(result).items())


def test_every_evaluation_writes_samples(reference: Reference):
    rows = read_samples(reference.run_dir / "samples.jsonl")
    assert sorted({row["step"] for row in rows}) == [8, 16, 20]
    assert {row["prompt"] for row in rows} == set(PROMPTS)


CHILD = """
import sys, time
from pathlib import Path
import torch
from tasks.train_loop import TrainJob, train
torch.set_num_threads(1)
train(TrainJob.model_validate_json(sys.argv[1]), on_step=lambda report: time.sleep(0.05))
"""


def test_killed_process_resumes_bit_for_bit(corpus: Path, reference: Reference, tmp_path: Path):
    job = job_for(corpus, tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", CHILD, job.model_dump_json()], env=environment)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while child.poll() is None and (not metrics.is_file() or metrics.read_bytes().count(b"\n") < 9):
        assert time.monotonic() < deadline, "the child did not reach step 9"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    # what a kill in the middle of a line and of a checkpoint leaves
    with metrics.open("ab") as file:
        file.write(b'{"step": 10, "los')
    (tmp_path / "checkpoints" / ".tmp-step-00000012-0000").mkdir()
    result = train(job_for(corpus, tmp_path, resume=True))
    assert curve(tmp_path) == curve(reference.run_dir)
    assert all(torch.equal(tensor, weights(reference.result)[name]) for name, tensor in weights(result).items())
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


def test_a_graceful_stop_leaves_a_checkpoint_and_the_same_curve(corpus: Path, reference: Reference, tmp_path: Path):
    steps: list[int] = []
    stopped = train(
        job_for(corpus, tmp_path), on_step=lambda report: steps.append(report.step), should_stop=lambda: len(steps) == 8
    )
    assert (stopped.step, stopped.complete) == (9, False)
    assert read_state(stopped.checkpoint).step == 9
    assert train(job_for(corpus, tmp_path, resume=True)).complete
    assert curve(tmp_path) == curve(reference.run_dir)


def test_a_finished_run_is_not_trained_again(corpus: Path, reference: Reference):
    before = (reference.run_dir / "metrics.jsonl").read_bytes()
    result = train(
        job_for(corpus, reference.run_dir, resume=True), on_step=lambda report: pytest.fail(f"took step {report.step}")
    )
    assert result == reference.result
    assert (reference.run_dir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("microbatch_sequences", [1, 3])
def test_microbatches_change_nothing_but_rounding(
    corpus: Path, reference: Reference, tmp_path: Path, microbatch_sequences: int
):
    train(job_for(corpus, tmp_path, microbatch_sequences=microbatch_sequences))
    for name in ("loss", "grad_norm"):
        found = [row[name] for row in curve(tmp_path)]
        assert found == pytest.approx([row[name] for row in curve(reference.run_dir)], rel=1e-3)


WORKER = """
import sys
import torch, torch.distributed as dist
from tasks.train_loop import TrainJob, train
torch.set_num_threads(1)
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
asked = 0
def stop():
    global asked
    asked += 1
    return rank == 1 and asked == 14
result = train(TrainJob.model_validate_json(sys.argv[1]), rank=rank, world_size=2, should_stop=stop)
print(result.step, flush=True)
dist.destroy_process_group()
"""


def test_two_processes_draw_the_curve_of_one(corpus: Path, reference: Reference, tmp_path: Path):
    """With gradient accumulation, an evaluation, and a stop that only the second process hears of."""
    job = job_for(corpus, tmp_path / "run", microbatch_sequences=1)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, job.model_dump_json(), str(rank), str(tmp_path / "meeting")],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [worker.communicate(timeout=240)[0].strip() for worker in workers] == ["14", "14"]
    found, expected = curve(tmp_path / "run"), curve(reference.run_dir)[:14]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], rel=1e-3)
    assert [row["batch_hash"] for row in found] == [row["batch_hash"] for row in expected]
    assert found[7]["held_out_bits_per_byte"] == pytest.approx(expected[7]["held_out_bits_per_byte"], rel=1e-3)
    resumed = train(job_for(corpus, tmp_path / "run", resume=True))
    assert resumed.loss == pytest.approx(reference.result.loss, rel=1e-3)


def test_bf16_stays_close(corpus: Path, reference: Reference, tmp_path: Path):
    train(job_for(corpus, tmp_path, precision="bf16"))
    losses = [row["loss"] for row in curve(tmp_path)]
    expected = [row["loss"] for row in curve(reference.run_dir)]
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights(
    corpus: Path, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
):
    class Breaks(Decoder):
        calls = 0

        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            type(self).calls += self.training
            result = super().forward(*arguments, **options)
            return result * value if type(self).calls == 9 else result

    monkeypatch.setattr(tasks.train_loop, "Decoder", Breaks)
    with pytest.raises(TrainingDivergedError, match=rf"step 9: the loss is {value}.*sequences 32 to 35"):
        train(job_for(corpus, tmp_path))
    assert [read_state(folder).step for folder in complete_checkpoints(tmp_path / "checkpoints")] == [6]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == 9
    assert math.isnan(rows[-1]["loss"])
    monkeypatch.undo()
    train(job_for(corpus, tmp_path, resume=True))
    assert curve(tmp_path) == curve(reference.run_dir)


class TestRefusals:
    def test_a_folder_with_a_run(self, corpus: Path, reference: Reference):
        with pytest.raises(ValueError, match=r"already holds a run \(step-00000020\)"):
            train(job_for(corpus, reference.run_dir))

    def test_another_recipe(self, corpus: Path, reference: Reference):
        with pytest.raises(ValueError, match=r"another recipe: learning_rate \(0.003 before, 0.01 now\)"):
            train(job_for(corpus, reference.run_dir, resume=True, learning_rate=0.01))

    def test_what_may_change_may_change(self, corpus: Path, reference: Reference):
        result = train(job_for(corpus, reference.run_dir, resume=True, microbatch_sequences=2, keep_checkpoints=9))
        assert result.step == NUM_STEPS

    def test_other_shards(self, reference: Reference, tmp_path: Path):
        with pytest.raises(ValueError, match="other token shards"):
            train(job_for(make_corpus(tmp_path / "other", seed=1), reference.run_dir, resume=True))

    def test_a_curve_with_a_hole(self, corpus: Path, tmp_path: Path):
        train(job_for(corpus, tmp_path), should_stop=lambda: True)
        (tmp_path / "metrics.jsonl").write_bytes(b"")
        with pytest.raises(ValueError, match="does not hold the steps 1 to 1"):
            train(job_for(corpus, tmp_path, resume=True))

    def test_another_tokenizer(self, corpus: Path, tmp_path: Path):
        save_tokenizer(train_tokenizer(["other"], RECIPE.tokenizer), tmp_path / "tokenizer.json")
        job = job_for(corpus, tmp_path).model_copy(update={"tokenizer_file": tmp_path / "tokenizer.json"})
        with pytest.raises(ValueError, match="made with another tokenizer"):
            train(job)

    def test_a_vocabulary_that_is_too_small(self, corpus: Path, tmp_path: Path):
        job = job_for(corpus, tmp_path, tokenizer=TokenizerConfig(vocab_size=259))
        assert job.recipe.decoder_config().vocab_size == 320
        train(job, should_stop=lambda: True)  # padded to 320, which the 300 tokens fit into
        shards = corpus / "tokens" / "manifest.json"
        bigger = tmp_path / "tokens"
        bigger.mkdir()
        for file in (corpus / "tokens").iterdir():
            (bigger / file.name).write_bytes(file.read_bytes())
        (bigger / "manifest.json").write_text(json.dumps(json.loads(shards.read_text()) | {"vocab_size": 321}))
        with pytest.raises(ValueError, match="has 321 tokens, the network's vocabulary only 320"):
            train(job.model_copy(update={"tokens_dir": bigger, "run_dir": tmp_path / "run"}))

    def test_too_small_a_corpus(self, corpus: Path, tmp_path: Path):
        with pytest.raises(ValueError, match="one batch needs 1000"):
            train(job_for(corpus, tmp_path, global_batch_tokens=16_000, total_tokens=16_000))

    def test_several_processes_without_a_group(self, corpus: Path, tmp_path: Path):
        with pytest.raises(ValueError, match=r"needs torch\.distributed"):
            train(job_for(corpus, tmp_path), rank=0, world_size=2)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
    def test_a_gpu_that_is_not_there(self, corpus: Path, tmp_path: Path):
        with pytest.raises(ValueError, match="finds no GPU"):
            train(job_for(corpus, tmp_path, device="cuda"))
