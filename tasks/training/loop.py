"""The training loop: token shards and a recipe to checkpoints and a loss curve. Plain torch, one process or several.

Everything that decides the next step follows from the checkpoint and the step's number (the data by `tasks.loader` and
`tasks.training.skipped`, the learning rate by `model.schedule`), so a run that was killed and resumed draws the same
curve as one that was not: on the CPU in fp32, with the same number of threads and processes, bit for bit.

Per step: gradients; the verdict of the spike watch, *before* the weights move; the step; evaluation with samples; one
line in `metrics.jsonl`; a checkpoint, in this order, so that a checkpoint never exists without its curve. All processes
take part in every step, evaluation and checkpoint; rank 0 writes the other files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from model.config import num_parameters
from model.flops import device_peak_flop_per_s, model_flops_utilisation
from model.parallel import data_rank
from tasks.atomic import write_json
from tasks.checkpoints import Checkpointer, CheckpointState, checkpoint_folder
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.loader import Batch
from tasks.memory_use import memory_use
from tasks.metrics_file import METRICS_FILE, StepReport, metrics_line, roll_back_metrics, truncate_metrics
from tasks.read_ahead import ReadAhead
from tasks.samples import SAMPLES_FILE, truncate_samples
from tasks.spike_documents import document_losses, spike_record
from tasks.spike_file import SPIKES_FILE, append_spike
from tasks.spikes import Spike
from tasks.tokenizer import load_tokenizer
from tasks.training.course import plan_course
from tasks.training.description import run_description
from tasks.training.evaluate import Evaluation, write_samples
from tasks.training.job import RUN_FILE, TrainingDivergedError, TrainJob, TrainResult
from tasks.training.network import begin_anew, build_network, device_of, optimizer_of
from tasks.training.skipped import Windows, batch_of, with_window
from tasks.training.step import StepFigures, Stepper
from tasks.training.timings import StepClock
from tasks.training.watch import Action, SpikeWatch

OnStep = Callable[[StepReport], None]


def train(
    job: TrainJob,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train until the recipe's end, or until `should_stop` says so in any process, which leaves a checkpoint.

    With `world_size` > 1, torch.distributed must be initialised and every process must call this. `on_step` is called
    in every process, after the step's line is on disk; its checkpoint may still be being written. When this returns, or
    raises, all checkpoints are. Raises ValueError for shards, tokenizer, recipe or checkpoint that do not fit each
    other, before anything is trained, and TrainingDivergedError where the run can not go on.
    """
    if world_size > 1 and not (dist.is_initialized() and dist.get_world_size() == world_size):
        raise ValueError(f"a job for {world_size} processes needs torch.distributed initialised with as many")
    run = _Run(job, rank, world_size)
    with run.checkpointer:
        run.start()
        return run.steps(on_step or (lambda report: None), should_stop or (lambda: False))


class _Run:
    """One process's part of a run, and where it is."""

    def __init__(self, job: TrainJob, rank: int, world_size: int) -> None:
        self.job, self.recipe, self.rank = job, job.recipe, rank
        self.device = device_of(job.device)
        self.course = course = plan_course(job, world_size, self.device.type)
        self.parallelism = course.parallelism
        mesh = self.parallelism.mesh(self.device.type)
        model = build_network(self.recipe, self.parallelism, mesh, self.device)
        optimizer = optimizer_of(self.recipe, course.hyper_parameters, model)
        self.stepper = Stepper(
            model,
            optimizer,
            parallelism=self.parallelism,
            mesh=mesh,
            device=self.device,
            hyper_parameters=course.hyper_parameters,
            microbatch_sequences=self.recipe.microbatch_sequences,
            document_mask=self.recipe.document_mask,
        )
        self.checkpointer = Checkpointer(
            job.checkpoints_location,
            model,
            optimizer,
            keep=self.recipe.keep_checkpoints,
            rank=rank,
            world_size=world_size,
        )
        self.evaluation = Evaluation(
            course.held_out,
            max_documents=self.recipe.evaluate_max_documents,
            corpus_dir=job.corpus_dir,
            parallelism=self.parallelism,
            rank=rank,
            device=self.device,
        )
        self.tokenizer = load_tokenizer(job.tokenizer_file)
        self.watch = SpikeWatch(self.recipe.spikes)
        self.data_rank = data_rank(mesh)
        dtype = torch.bfloat16 if self.parallelism.bf16 else torch.float32
        self.peak_flop_per_s = device_peak_flop_per_s(self.device, dtype)
        self.metrics_file = job.run_dir / METRICS_FILE
        self.samples_file = job.run_dir / SAMPLES_FILE
        self.batch_tokens = course.hyper_parameters.batch_tokens
        self._go_to(None)

    def _go_to(self, state: CheckpointState | None, skipped: Windows | None = None) -> None:
        """Be where a checkpoint is, or at the run's beginning, with these batches left out from then on."""
        before = state.skipped if state else self.course.start.skipped
        self.state = state
        self.step = state.step if state else self.course.start.step
        self.loss = state.loss if state else math.nan  # of the last step that was taken
        self.skipped = before if skipped is None else skipped
        self.num_steps = max(self.step, self.course.num_steps(self.skipped))
        self.watch.restore(state.spikes if state else None)

    def start(self) -> None:
        """Load the newest checkpoint, if there is one, and have the run's files end where it does."""
        self.checkpointer.start()
        folder = self.checkpointer.latest()
        if folder is not None:
            self._go_to(self.checkpointer.load(folder))
        elif self.course.start.folder:
            self.checkpointer.load(self.course.start.folder)
        if self.rank == 0:
            self.job.run_dir.mkdir(parents=True, exist_ok=True)
            truncate_metrics(self.metrics_file, self.step, first_step=self.course.start.step + 1)
            truncate_samples(self.samples_file, self.step)
            write_json(self.job.run_dir / RUN_FILE, run_description(self.course, self.device.type))
        self._barrier()

    def steps(self, on_step: OnStep, should_stop: Callable[[], bool]) -> TrainResult:
        """Take the steps that are left, or those until told to stop; the last one always makes a checkpoint."""
        clock, stop = StepClock(), False
        while self.step < self.num_steps and not (stop and self.state):
            last = batch_of(self.num_steps, self.skipped)
            reader = ReadAhead(
                self.course.loader, num_steps=last + 1, rank=self.data_rank, world_size=self.parallelism.data
            )
            try:
                stop = self._stretch(reader, clock, on_step, should_stop, stop)
            finally:
                reader.close()
        if self.state is None:
            raise TrainingDivergedError(
                "the rollbacks have left out every batch that the caps of the corpora allow: look at the documents of "
                f"the spikes, in {SPIKES_FILE}"
            )
        return self.result(self.state)

    def _stretch(
        self, reader: ReadAhead, clock: StepClock, on_step: OnStep, should_stop: Callable[[], bool], stop: bool
    ) -> bool:
        """Steps up to the end, a stop (returns True) or a rollback."""
        with (self.metrics_file if self.rank == 0 else Path(os.devnull)).open("ab") as metrics:
            while self.step < self.num_steps:
                report, action, stop = self._step(reader, clock, stop or should_stop())
                with clock.part("tracking"):
                    metrics.write(metrics_line(report))
                    metrics.flush()
                if action == "end":
                    raise self._diverged(report)
                if action == "roll_back":
                    break
                self.step = report.step
                if stop or self.step == self.num_steps or self.step % self.recipe.checkpoint_every_steps == 0:
                    with clock.part("checkpoint"):
                        report = replace(report, checkpoint=self._checkpoint(report, metrics, wait=stop))
                with clock.part("tracking"):
                    on_step(report)
                if stop:
                    return True
        if action == "roll_back":
            with clock.part("checkpoint"):
                self._roll_back(report)
            on_step(report)
        return stop

    def _step(self, reader: ReadAhead, clock: StepClock, stop: bool) -> tuple[StepReport, Action, bool]:
        """One step with its evaluation, as its line will say; what to do then; whether any process is to stop."""
        step = self.step + 1
        number = batch_of(step, self.skipped)
        with clock.part("data"):
            batch = reader.batch(number)
        figures = self.stepper.gradients(batch, clock, stop=stop)
        verdict = self.watch.judge(step, figures.loss, figures.grad_norm)
        action, taken = verdict.action, verdict.action == "take"
        learning_rate = self.course.schedule.learning_rate(step * self.batch_tokens)
        if verdict.spike is not None and (verdict.spike.new_event or action in ("end", "roll_back")):
            with clock.part("evaluation"):
                self._record(verdict.spike, batch, number, figures, learning_rate, taken=taken)
        if taken:
            self.stepper.take(learning_rate)
            self.loss = figures.loss
        tokens_per_s = self.batch_tokens / clock.step_s()
        held_out: BitsPerByte | None = None
        slices: dict[str, float] = {}
        if action in ("take", "leave_out") and (step == self.num_steps or step % self.recipe.evaluate_every_steps == 0):
            with clock.part("evaluation"):
                held_out, slices = self.evaluation.run(self.stepper.model)
                action = self.watch.judge_evaluation(held_out.bits_per_byte)
                if action == "take":
                    self._write_samples(step)
        report = StepReport(
            step=step,
            batch=number,
            num_steps=self.num_steps,
            tokens=step * self.batch_tokens,
            loss=figures.loss,
            learning_rate=learning_rate,
            grad_norm=figures.grad_norm,
            taken=taken,
            tokens_per_s=tokens_per_s,
            mfu=model_flops_utilisation(
                tokens_per_s,
                self.course.decoder,
                self.recipe.seq_len,
                self.peak_flop_per_s,
                self.parallelism.world_size,
            ),
            times_s=clock.lap(),
            peak_memory_bytes=memory_use(self.device).peak_bytes,
            batch_hash=figures.batch_hash,
            z_loss=figures.z_loss if self.recipe.z_loss else None,
            drawn_tokens=self.course.drawn_tokens(number, self.skipped),
            spike=verdict.spike is not None,
            held_out=held_out,
            slices=slices,
        )
        return report, action, figures.stop

    def _write_samples(self, step: int) -> None:
        write_samples(
            self.samples_file,
            self.stepper.model,
            self.tokenizer,
            step,
            parallelism=self.parallelism,
            rank=self.rank,
        )

    def _record(
        self, spike: Spike, batch: Batch, number: int, figures: StepFigures, learning_rate: float, *, taken: bool
    ) -> None:
        """Which documents the spike comes from: all processes look, rank 0 writes it down."""
        losses_BT = self.stepper.batch_losses(batch)
        if self.rank != 0:
            return
        record = spike_record(
            spike,
            document_losses(losses_BT, self.course.loader.documents(number)),
            policy=self.recipe.spikes.policy,
            step_taken=taken,
            tokens=spike.step * self.batch_tokens,
            learning_rate=learning_rate,
            batch_hash=figures.batch_hash,
            num_sequences=len(losses_BT),
        )
        append_spike(self.job.run_dir / SPIKES_FILE, record)

    def _checkpoint(self, report: StepReport, metrics: IO[bytes], *, wait: bool) -> str:
        if not math.isfinite(self.loss):
            raise TrainingDivergedError(f"no step up to {report.step} could be taken: there is nothing to keep")
        if self.rank == 0:
            os.fsync(metrics.fileno())
        course, first = self.course, self.course.corpora[0].shards
        self.state = CheckpointState(
            step=report.step,
            num_steps=self.num_steps,
            tokens_seen=report.tokens,
            loss=self.loss,
            held_out=report.held_out,
            decoder=course.decoder.to_dict(),
            recipe=self.recipe,
            tokenizer_sha256=first.tokenizer_sha256,
            corpus_digest=first.corpus_digest,
            tokens_digests=course.tokens_digests,
            mixture=course.mixture,
            world_size=self.parallelism.world_size,
            spikes=self.watch.state(),
            skipped=self.skipped,
        )
        return self.checkpointer.save(self.state, wait=wait)

    def _roll_back(self, report: StepReport) -> None:
        """Be at the last good checkpoint, or the beginning, and leave out the batches from there to this step's."""
        self.checkpointer.finish()
        folder = self.checkpointer.latest(good_only=True)
        if folder is not None:
            state = self.checkpointer.load(folder)
        elif self.course.start.folder:
            self.checkpointer.load(self.course.start.folder)
            state = None
        else:
            begin_anew(self.recipe, self.stepper.model, self.stepper.optimizer)
            state = None
        self._go_to(state)
        self.watch.count_rollback(self.step)
        first = batch_of(self.step + 1, self.skipped)
        self._go_to(state, with_window(self.skipped, first, report.batch))
        # Checkpoints of steps that are taken back go first: killed from here on, the run is resumed from before them.
        self.checkpointer.discard_after(self.step)
        if self.rank == 0:
            roll_back_metrics(self.metrics_file, self.step, first_step=self.course.start.step + 1)
            truncate_samples(self.samples_file, self.step)
        self._barrier()

    def _diverged(self, report: StepReport) -> TrainingDivergedError:
        size = self.course.loader.global_batch_sequences
        held_out = f", held out {report.held_out.bits_per_byte} bits per byte" if report.held_out else ""
        return TrainingDivergedError(
            f"step {report.step}: the loss is {report.loss}, the gradient's norm {report.grad_norm}{held_out}, at a "
            f"learning rate of {report.learning_rate:.3g}, and spikes.policy is {self.recipe.spikes.policy}; no "
            f"checkpoint was made of it. {SPIKES_FILE} names the documents of batch {report.batch_hash}, the sequences "
            f"{report.batch * size} to {(report.batch + 1) * size - 1}: {self.watch.way_on}"
        )

    def result(self, state: CheckpointState) -> TrainResult:
        return TrainResult(
            step=state.step,
            num_steps=self.num_steps,
            tokens_seen=state.tokens_seen,
            loss=state.loss,
            held_out=state.held_out,
            checkpoint=checkpoint_folder(self.job.checkpoints_location, state.step),
            metrics_file=self.metrics_file,
            num_parameters=num_parameters(self.course.decoder),
        )

    def _barrier(self) -> None:
        if self.parallelism.world_size > 1:
            dist.barrier()
