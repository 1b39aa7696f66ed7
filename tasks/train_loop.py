"""The training loop: token shards and a recipe to checkpoints and a loss curve. Plain torch, one process or several.

Everything that decides the next step follows from the checkpoint and the step's number (the data by `tasks.loader`, the
learning rate by `model.schedule`), so a run that was killed and resumed draws the same curve as one that was not: on
the CPU in fp32, with the same number of threads, bit for bit.

Per step: gradients of all microbatches are summed, averaged over processes, clipped; loss and gradient norm must be
finite *before* the weights move; then evaluation with samples, one line in `metrics.jsonl`, a checkpoint, in this
order, so that a checkpoint never exists without its curve. All processes take part in every step and every evaluation;
rank 0 writes.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.config import num_parameters
from model.decoder import Decoder
from model.optimizer import build_adamw
from model.schedule import WarmupCosine, warmup_tokens
from tasks.atomic import remove_leftovers, write_json
from tasks.checkpoint import (
    CheckpointState,
    checkpoint_folder,
    latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from tasks.evaluation.bits_per_byte import BitsPerByte, Score, choose_documents, score_documents, summed
from tasks.loader import Batch, TokenLoader, batch_hash
from tasks.metrics_file import METRICS_FILE, StepReport, metrics_line, truncate_metrics
from tasks.pack import TokenShards
from tasks.recipes.pretraining import PretrainRecipe, resume_differences
from tasks.rule import Configuration
from tasks.samples import SAMPLES_FILE, append_samples, truncate_samples
from tasks.tokenizer import load_tokenizer, tokenizer_hash

RUN_FILE, CHECKPOINTS = "run.json", "checkpoints"


class TrainJob(Configuration):
    """All that a training process needs, as paths and numbers. Every process of a run gets the same job."""

    tokens_dir: Path = Field(description="Published token shards")
    tokenizer_file: Path = Field(description="The tokenizer they were made with")
    run_dir: Path = Field(description="Receives checkpoints/, metrics.jsonl, samples.jsonl and run.json; shared by all")
    recipe: PretrainRecipe
    resume: bool = Field(False, description="Continue from the newest checkpoint in run_dir, where there is one")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes the GPU where there is one"
    )


class TrainingDivergedError(ValueError):
    """The loss or the gradient's norm is no longer a finite number. No checkpoint holds it."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a call of `train` ended: at the run's end, or stopped before it at a checkpoint."""

    step: int
    num_steps: int
    tokens_seen: int
    loss: float
    held_out: BitsPerByte | None  # always there where the run is complete
    checkpoint: Path
    metrics_file: Path
    num_parameters: int

    @property
    def complete(self) -> bool:
        return self.step == self.num_steps


def train(
    job: TrainJob,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train until the recipe's end, or until `should_stop` says so in any process, which leaves a checkpoint.

    With `world_size` > 1, torch.distributed must be initialised and every process must call this. `on_step` is called
    in every process, after the step's metrics and checkpoint are on disk. Raises ValueError for shards, tokenizer,
    recipe or checkpoint that do not fit each other, before anything is trained, and TrainingDivergedError where the
    loss is not finite.
    """
    if world_size > 1 and not (dist.is_initialized() and dist.get_world_size() == world_size):
        raise ValueError(f"a job for {world_size} processes needs torch.distributed initialised with as many")
    run = _Run(job, rank, world_size)
    start = run.start()
    if start is not None and start.step == run.num_steps:
        return run.result(start)
    return run.steps(start.step if start else 0, on_step, should_stop)


class _Run:
    """One process's part of a run: what is fixed while it lasts."""

    def __init__(self, job: TrainJob, rank: int, world_size: int) -> None:
        self.job, self.recipe, self.rank, self.world_size = job, job.recipe, rank, world_size
        self.shards = TokenShards(job.tokens_dir, "train")
        self.held_out = TokenShards(job.tokens_dir, "held_out")
        self.decoder_config = self.recipe.decoder_config()
        self._check_inputs()
        self.loader = TokenLoader(
            self.shards,
            seq_len=self.recipe.seq_len,
            global_batch_sequences=self.recipe.global_batch_sequences,
            seed=self.recipe.seed,
        )
        self.loader.batch(0, rank=rank, world_size=world_size)  # refuses a batch that can not be shared
        self.num_steps = self.recipe.num_steps(self.loader.num_sequences * self.recipe.seq_len)
        self.evaluated = choose_documents(self.held_out, self.recipe.evaluate_max_documents)[rank::world_size]

        self.device = _device(job.device)
        bf16 = self.recipe.precision == "bf16" or (self.recipe.precision == "auto" and self.device.type == "cuda")
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)
        torch.manual_seed(self.recipe.seed)
        self.model = Decoder(self.decoder_config).to(self.device)
        total_tokens = self.num_steps * self.recipe.global_batch_tokens
        self.schedule = WarmupCosine(
            total_tokens=total_tokens,
            peak=self.recipe.peak_learning_rate(),
            warmup_tokens=warmup_tokens(
                total_tokens,
                self.recipe.global_batch_tokens,
                self.recipe.warmup_fraction,
                self.recipe.min_warmup_steps,
            ),
            floor_fraction=self.recipe.floor_fraction,
        )
        self.optimizer = build_adamw(
            self.model,
            learning_rate=self.schedule.peak,
            betas=(self.recipe.beta1, self.recipe.beta2),
            weight_decay=self.recipe.weight_decay,
        )
        self.network: nn.Module = self.model
        if world_size > 1:
            self.network = DistributedDataParallel(
                self.model, device_ids=[self.device] if self.device.type == "cuda" else None
            )
        self.checkpoints_dir = job.run_dir / CHECKPOINTS
        self.metrics_file = job.run_dir / METRICS_FILE
        self.samples_file = job.run_dir / SAMPLES_FILE
        self.tokenizer = load_tokenizer(job.tokenizer_file)

    def _check_inputs(self) -> None:
        found = tokenizer_hash(self.job.tokenizer_file)
        if found != self.shards.tokenizer_sha256:
            raise ValueError(
                f"{self.job.tokens_dir} was made with another tokenizer than {self.job.tokenizer_file} "
                f"({self.shards.tokenizer_sha256[:12]}, not {found[:12]}): tokenise again, or give that other one"
            )
        if self.shards.vocab_size > self.decoder_config.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.shards.vocab_size} tokens, the network's vocabulary only "
                f"{self.decoder_config.vocab_size}: set tokenizer.vocab_size to what the tokenizer was trained with"
            )
        if not self.held_out.num_bytes:
            raise ValueError(f"{self.job.tokens_dir} holds out no text to evaluate on: raise held_out_fraction")

    def start(self) -> CheckpointState | None:
        """Prepare the run's folder and load the newest checkpoint, if the job resumes and there is one."""
        if self.rank == 0:
            self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.checkpoints_dir)
        self._barrier()
        folder = latest_checkpoint(self.checkpoints_dir)
        if folder is not None and not self.job.resume:
            raise ValueError(
                f"{self.job.run_dir} already holds a run ({folder.name}): resume it, or use another folder"
            )
        state = None
        if folder is not None:
            self._check_resumable(folder, read_state(folder))
            state = load_checkpoint(folder, self.model, self.optimizer)
        if self.rank == 0:
            truncate_metrics(self.metrics_file, state.step if state else 0)
            truncate_samples(self.samples_file, state.step if state else 0)
            write_json(self.job.run_dir / RUN_FILE, self._description())
        self._barrier()
        return state

    def _description(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "decoder": self.decoder_config.to_dict(),
            "num_parameters": num_parameters(self.decoder_config),
            "num_steps": self.num_steps,
            "peak_learning_rate": self.schedule.peak,
            "warmup_tokens": self.schedule.warmup_tokens,
            "train_tokens": self.shards.num_tokens,
            "leftover_tokens_per_epoch": self.loader.num_leftover_tokens,
            "held_out_tokens": self.held_out.num_tokens,
            "corpus_digest": self.shards.corpus_digest,
            "tokens_digest": self.shards.digest,
            "tokenizer_sha256": self.shards.tokenizer_sha256,
            "torch": torch.__version__,
            "device": self.device.type,
            "world_size": self.world_size,
        }

    def _check_resumable(self, folder: Path, state: CheckpointState) -> None:
        if changed := resume_differences(state.recipe.model_dump(mode="json"), self.recipe):
            raise ValueError(f"{folder} was made with another recipe: {', '.join(changed)}; start a new run")
        if state.tokens_digest != self.shards.digest:
            raise ValueError(f"{folder} was made from other token shards than {self.job.tokens_dir}; start a new run")

    def steps(
        self, done: int, on_step: Callable[[StepReport], None] | None, should_stop: Callable[[], bool] | None
    ) -> TrainResult:
        """Take the steps after `done`, up to the end or until told to stop; the last one always makes a checkpoint."""
        assert done < self.num_steps
        with self.metrics_file.open("ab") if self.rank == 0 else nullcontext() as metrics:
            for step in range(done + 1, self.num_steps + 1):
                report, stop = self._step(step, should_stop is not None and should_stop())
                if report.finite and (step == self.num_steps or step % self.recipe.evaluate_every_steps == 0):
                    report = replace(report, held_out=self._evaluate())
                    if self.rank == 0 and report.finite:
                        append_samples(self.samples_file, self.model, self.tokenizer, step)
                if metrics is not None:
                    metrics.write(metrics_line(report))
                    metrics.flush()
                if not report.finite:
                    raise self._diverged(report)
                if stop or step == self.num_steps or step % self.recipe.checkpoint_every_steps == 0:
                    state = self._state(report)
                    if metrics is not None:
                        os.fsync(metrics.fileno())
                        save_checkpoint(
                            self.checkpoints_dir, self.model, self.optimizer, state, keep=self.recipe.keep_checkpoints
                        )
                    self._barrier()
                    report = replace(report, checkpoint=checkpoint_folder(self.checkpoints_dir, step))
                if on_step is not None:
                    on_step(report)
                if stop:
                    break
        return self.result(state)

    def _step(self, step: int, stop: bool) -> tuple[StepReport, bool]:
        """One optimizer step, and whether any process was told to stop."""
        began = time.perf_counter()
        batch = self.loader.batch(step - 1, rank=self.rank, world_size=self.world_size)
        self.optimizer.zero_grad(set_to_none=True)
        loss, stop = self._averaged(self._backward(batch), stop)
        grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip))
        learning_rate = self.schedule.learning_rate(step * self.recipe.global_batch_tokens)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        report = StepReport(
            step=step,
            num_steps=self.num_steps,
            tokens=step * self.recipe.global_batch_tokens,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_s=self.recipe.global_batch_tokens / (time.perf_counter() - began),
            batch_hash=batch_hash(batch if self.world_size == 1 else self.loader.batch(step - 1)),
        )
        return report, stop

    def _backward(self, batch: Batch) -> float:
        """Gradients of the mean loss over this process's tokens, one microbatch at a time; returns that mean."""
        inputs_BT = torch.from_numpy(batch.inputs_BT).to(self.device)
        targets_BT = torch.from_numpy(batch.targets_BT).to(self.device)
        size = self.recipe.microbatch_sequences
        firsts = range(0, len(inputs_BT), size)
        total = torch.zeros((), device=self.device)
        for first in firsts:
            inputs, targets = inputs_BT[first : first + size], targets_BT[first : first + size]
            with self._without_exchange(first != firsts[-1]):
                with self.autocast:
                    nats = self.network(inputs, targets_BT=targets, reduction="sum") / inputs_BT.numel()
                nats.backward()
            total += nats.detach()
        return float(total)

    def _without_exchange(self, accumulating: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, with the last microbatch."""
        if accumulating and isinstance(self.network, DistributedDataParallel):
            context: AbstractContextManager[None] = self.network.no_sync()
            return context
        return nullcontext()

    def _averaged(self, loss: float, stop: bool) -> tuple[float, bool]:
        """The loss over all processes, which hold equal shares, and whether any of them was told to stop."""
        if self.world_size == 1:
            return loss, stop
        values = torch.tensor([loss, float(stop)], dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return float(values[0]) / self.world_size, bool(values[1] > 0)

    def _diverged(self, report: StepReport) -> TrainingDivergedError:
        size = self.recipe.global_batch_sequences
        return TrainingDivergedError(
            f"step {report.step}: the loss is {report.loss}, the gradient's norm {report.grad_norm}, held out "
            f"{report.held_out}, at a learning rate of {report.learning_rate:.3g}; no checkpoint was made of it. Start "
            f"a run with a lower learning_rate, or look at batch {report.batch_hash}, the sequences "
            f"{(report.step - 1) * size} to {report.step * size - 1}, with TokenLoader.documents_at"
        )

    def _evaluate(self) -> BitsPerByte:
        with self.autocast:
            own = score_documents(self.model, self.held_out, self.evaluated)
        if self.world_size == 1:
            return summed([own])
        sums = torch.tensor(
            [own.nats, own.num_tokens, own.num_bytes, own.num_documents], dtype=torch.float64, device=self.device
        )
        dist.all_reduce(sums)
        return summed([Score(float(sums[0]), int(sums[1]), int(sums[2]), int(sums[3]))])

    def _state(self, report: StepReport) -> CheckpointState:
        return CheckpointState(
            step=report.step,
            num_steps=self.num_steps,
            tokens_seen=report.tokens,
            loss=report.loss,
            held_out=report.held_out,
            decoder=self.decoder_config.to_dict(),
            recipe=self.recipe,
            tokenizer_sha256=self.shards.tokenizer_sha256,
            corpus_digest=self.shards.corpus_digest,
            tokens_digest=self.shards.digest,
        )

    def result(self, state: CheckpointState) -> TrainResult:
        return TrainResult(
            step=state.step,
            num_steps=self.num_steps,
            tokens_seen=state.tokens_seen,
            loss=state.loss,
            held_out=state.held_out,
            checkpoint=checkpoint_folder(self.checkpoints_dir, state.step),
            metrics_file=self.metrics_file,
            num_parameters=num_parameters(self.decoder_config),
        )

    def _barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for and torch finds no GPU: use auto or cpu")
    return torch.device(name)
