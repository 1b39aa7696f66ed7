"""What a run does about batches that break it, under each policy; NaN never reaches a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tasks.training.network
from model.decoder import Decoder
from tasks.checkpoints import complete_checkpoints, load_decoder, read_state
from tasks.loader import TokenLoader
from tasks.metrics_file import StepReport, read_metrics
from tasks.mixture import MixtureSource
from tasks.pack import TokenShards
from tasks.samples import read_samples
from tasks.spike_file import read_spikes
from tasks.training import TrainingDivergedError, TrainJob, train
from tests.tasks.training.training_runs import (
    BATCH_SEQUENCES,
    BATCH_TOKENS,
    NUM_STEPS,
    SEQ_LEN,
    column,
    curve,
    job_for,
    weights,
)

EVERY = {"checkpoint_every_steps": 4, "evaluate_every_steps": 4}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    train(job_for(corpus, run_dir, **EVERY))
    return run_dir


class Breaks(Decoder):
    """A network whose loss is not finite on some sequences, however often it sees them."""

    inputs: ClassVar[set[tuple[int, ...]]] = set()
    value: ClassVar[float] = math.nan

    def forward(self, tokens_BT: Tensor, **options: Any) -> Any:
        result = super().forward(tokens_BT, **options)
        if not any(tuple(row) in self.inputs for row in tokens_BT.tolist()):
            return result
        return tuple(each * self.value for each in result) if isinstance(result, tuple) else result * self.value


@pytest.fixture
def broken(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Breaks the batches with these numbers."""
    loader = TokenLoader(
        TokenShards(corpus / "tokens"), seq_len=SEQ_LEN, global_batch_sequences=BATCH_SEQUENCES, seed=5
    )

    def break_batches(*numbers: int, value: float = math.nan) -> None:
        monkeypatch.setattr(tasks.training.network, "Decoder", Breaks)
        monkeypatch.setattr(Breaks, "inputs", {tuple(loader.batch(number).inputs_BT[1]) for number in numbers})
        monkeypatch.setattr(Breaks, "value", value)

    return break_batches


def job(corpus: Path, run_dir: Path, policy: str, **changes: Any) -> TrainJob:
    return job_for(corpus, run_dir, spikes={"policy": policy}, **(EVERY | changes))


def assert_finite_checkpoints(run_dir: Path) -> None:
    folders = complete_checkpoints(run_dir / "checkpoints")
    assert folders
    for folder in folders:
        model, state = load_decoder(folder)
        assert math.isfinite(state.loss)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_alert_ends_before_the_weights_move(
    corpus: Path, undisturbed: Path, tmp_path: Path, broken: Any, monkeypatch: pytest.MonkeyPatch, value: float
):
    broken(8, value=value)
    with pytest.raises(TrainingDivergedError, match=rf"step 9: the loss is {value}.*sequences 32 to 35") as error:
        train(job(corpus, tmp_path, "alert"))
    assert "\n" not in str(error.value)
    assert [read_state(folder).step for folder in complete_checkpoints(tmp_path / "checkpoints")] == [4, 8]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert math.isnan(rows[-1]["loss"]) and (rows[-1]["taken"], rows[-1]["spike"]) == (False, True)
    (record,) = read_spikes(tmp_path / "spikes.jsonl")
    assert (record.step, record.step_taken, record.reasons) == (9, False, ("not_finite",))
    assert record.batch_hash == rows[-1]["batch_hash"] and record.documents[0].mean_loss is None
    monkeypatch.undo()
    train(job_for(corpus, tmp_path, resume=True, **EVERY))
    assert curve(tmp_path) == curve(undisturbed)


def test_skip_leaves_the_step_out_and_goes_on_with_the_next_batch(
    corpus: Path, undisturbed: Path, tmp_path: Path, broken: Any
):
    broken(7, 12)  # step 8 has a checkpoint
    result = train(job(corpus, tmp_path, "skip"))
    assert result.complete and result.num_steps == NUM_STEPS
    assert column(tmp_path, "batch") == list(range(NUM_STEPS))
    assert column(tmp_path, "batch_hash") == column(undisturbed, "batch_hash")
    assert [row["step"] for row in curve(tmp_path) if not row["taken"]] == [8, 13]
    assert column(tmp_path, "loss")[:7] == column(undisturbed, "loss")[:7]
    assert read_state(result.checkpoint).skipped == ()
    assert_finite_checkpoints(tmp_path)
    # one event, which lasts until there were eight calm steps
    assert [(record.step, record.step_taken, record.policy) for record in read_spikes(tmp_path / "spikes.jsonl")] == [
        (8, False, "skip")
    ]


def test_a_step_that_is_skipped_moves_nothing(corpus: Path, undisturbed: Path, tmp_path: Path, broken: Any):
    stop_at_four = iter([False] * 3 + [True])
    before = train(job(corpus, tmp_path / "before", "skip"), should_stop=lambda: next(stop_at_four))
    broken(4)
    after = train(job(corpus, tmp_path / "after", "skip"), should_stop=iter([False] * 4 + [True]).__next__)
    assert (before.step, after.step) == (4, 5)
    assert all(torch.equal(tensor, weights(before)[name]) for name, tensor in weights(after).items())
    assert after.loss == before.loss  # of the last step that was taken


def test_skip_ends_at_the_tenth_in_a_row(corpus: Path, tmp_path: Path, broken: Any):
    broken(*range(5, NUM_STEPS))
    with pytest.raises(TrainingDivergedError, match=r"step 15: the loss is nan.* 56 to 59: start a run with a lower"):
        train(job(corpus, tmp_path, "skip"))
    assert [row["taken"] for row in curve(tmp_path)] == [True] * 5 + [False] * 10
    assert_finite_checkpoints(tmp_path)
    assert [record.step for record in read_spikes(tmp_path / "spikes.jsonl")] == [6, 15]


def test_nothing_is_kept_where_no_step_could_be_taken(corpus: Path, tmp_path: Path, broken: Any):
    broken(*range(NUM_STEPS))
    with pytest.raises(TrainingDivergedError, match="no step up to 4 could be taken"):
        train(job(corpus, tmp_path, "skip"))
    assert not complete_checkpoints(tmp_path / "checkpoints")


def test_rollback_goes_to_the_last_good_checkpoint_and_leaves_out_the_batches_since(
    corpus: Path, undisturbed: Path, tmp_path: Path, broken: Any
):
    broken(10)
    reported: list[int] = []
    result = train(job(corpus, tmp_path, "rollback"), on_step=lambda report: reported.append(report.step))
    assert reported == [*range(1, 12), *range(9, NUM_STEPS + 1)]
    assert column(tmp_path, "step") == list(range(1, NUM_STEPS + 1))
    assert column(tmp_path, "batch") == [*range(8), *range(11, NUM_STEPS + 3)]
    assert curve(tmp_path)[:8] == curve(undisturbed)[:8]
    taken_back = read_metrics(tmp_path / "metrics_rolled_back.jsonl")
    assert [(row["step"], row["batch"]) for row in taken_back] == [(9, 8), (10, 9), (11, 10)]
    state = read_state(result.checkpoint)
    assert (state.skipped, state.step, state.tokens_seen) == (((8, 10),), NUM_STEPS, NUM_STEPS * BATCH_TOKENS)
    assert [row["step"] for row in read_samples(tmp_path / "samples.jsonl")][::3] == [4, 8, 12, 16, 20]
    assert [record.step for record in read_spikes(tmp_path / "spikes.jsonl")] == [11]
    assert_finite_checkpoints(tmp_path)


def test_rollback_to_the_beginning_begins_anew(corpus: Path, undisturbed: Path, tmp_path: Path, broken: Any):
    broken(2)
    result = train(job(corpus, tmp_path, "rollback"))
    assert column(tmp_path, "batch") == list(range(3, NUM_STEPS + 3))
    assert read_state(result.checkpoint).skipped == ((0, 2),)
    # the weights of the beginning: the same loss on the fourth batch as a run that sees it first
    losses = column(tmp_path, "loss")
    assert losses[0] == pytest.approx(math.log(320), abs=0.1) and losses[-1] < losses[0] - 1


def test_rollback_to_the_beginning_of_a_decay_is_to_its_checkpoint(corpus: Path, tmp_path: Path, broken: Any):
    source = job(corpus, tmp_path / "source", "alert", schedule="wsd")
    at_eight = train(source, should_stop=iter([False] * 7 + [True]).__next__)
    broken(10)
    changes = {"schedule": "wsd", "decay_from": at_eight.checkpoint, "total_tokens": 8 * BATCH_TOKENS}
    every = {"checkpoint_every_steps": 100, "evaluate_every_steps": 100}
    result = train(job(corpus, tmp_path / "decay", "rollback", **changes, **every))
    assert (result.step, read_state(result.checkpoint).skipped) == (16, ((8, 10),))
    assert column(tmp_path / "decay", "batch") == list(range(11, 19))
    assert [row["step"] for row in curve(tmp_path / "decay", "metrics_rolled_back.jsonl")] == [9, 10, 11]
    # of a network that has learnt eight steps
    assert column(tmp_path / "decay", "loss")[0] < column(tmp_path / "source", "loss")[5]


def test_rollbacks_whose_windows_touch(corpus: Path, tmp_path: Path, broken: Any):
    broken(9, 11)
    result = train(job(corpus, tmp_path, "rollback"))
    assert column(tmp_path, "batch") == [*range(8), *range(12, NUM_STEPS + 4)]
    assert read_state(result.checkpoint).skipped == ((8, 11),)
    taken_back = read_metrics(tmp_path / "metrics_rolled_back.jsonl")
    assert [row["batch"] for row in taken_back] == [8, 9, 10, 11]


def test_the_third_rollback_from_one_checkpoint_ends_the_run(corpus: Path, tmp_path: Path, broken: Any):
    broken(9, 11, 13)
    with pytest.raises(TrainingDivergedError, match="went back to step 8 2 times"):
        train(job(corpus, tmp_path, "rollback"))
    assert [record.step for record in read_spikes(tmp_path / "spikes.jsonl")] == [10, 10, 10]
    assert_finite_checkpoints(tmp_path)


class Killed(BaseException):
    """Stands for a kill between steps."""


@pytest.mark.parametrize("last_batch", [9, 11, 16])
def test_killed_before_or_after_a_rollback_the_curve_is_the_same_bit_for_bit(
    corpus: Path, tmp_path: Path, broken: Any, last_batch: int
):
    broken(10)
    train(job(corpus, tmp_path / "whole", "rollback"))

    def interrupt(report: StepReport) -> None:
        if report.batch == last_batch:
            raise Killed

    with pytest.raises(Killed):
        train(job(corpus, tmp_path / "killed", "rollback"), on_step=interrupt)
    result = train(job(corpus, tmp_path / "killed", "rollback", resume=True))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert read_state(result.checkpoint).skipped == ((8, 10),)


def test_a_rollback_uses_up_what_the_caps_allow(corpus: Path, tmp_path: Path, broken: Any):
    broken(10)
    whole = job(corpus, tmp_path, "rollback")
    source = MixtureSource(corpus="words@1", tokens_dir=corpus / "tokens", max_tokens=NUM_STEPS * BATCH_TOKENS)
    result = train(whole.model_copy(update={"corpora": (source,)}))
    assert result.complete and (result.step, result.num_steps) == (NUM_STEPS - 3, NUM_STEPS - 3)
    assert column(tmp_path, "batch") == [*range(8), *range(11, NUM_STEPS)]


def test_a_rollback_that_leaves_nothing_to_train_on(corpus: Path, tmp_path: Path, broken: Any):
    broken(3)
    capped = MixtureSource(corpus="words@1", tokens_dir=corpus / "tokens", max_tokens=4 * BATCH_TOKENS)
    with pytest.raises(TrainingDivergedError, match="have left out every batch that the caps"):
        train(job(corpus, tmp_path, "rollback").model_copy(update={"corpora": (capped,)}))


def test_a_stop_during_a_rollback_is_at_its_checkpoint(corpus: Path, tmp_path: Path, broken: Any):
    broken(10)
    stopped = train(job(corpus, tmp_path, "rollback"), should_stop=iter([False] * 10 + [True]).__next__)
    assert (stopped.step, stopped.complete) == (8, False)
    assert column(tmp_path, "step") == list(range(1, 9))
    assert train(job(corpus, tmp_path, "rollback", resume=True)).complete
    assert column(tmp_path, "batch") == [*range(8), *range(11, NUM_STEPS + 3)]


class BreaksEvaluation(Decoder):
    """A network that predicts nothing of the held-out text after it was trained for eight steps."""

    steps: ClassVar[int] = 0

    def forward(self, tokens_BT: Tensor, **options: Any) -> Any:
        type(self).steps += options.get("z_loss") is not None
        return super().forward(tokens_BT, **options)

    def loss(self, *arguments: Any, **options: Any) -> Tensor:
        return super().loss(*arguments, **options) * (math.nan if self.steps == 8 else 1)


@pytest.mark.parametrize("policy", ["alert", "skip"])
def test_an_evaluation_that_is_not_finite_ends_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
):
    monkeypatch.setattr(tasks.training.network, "Decoder", BreaksEvaluation)
    monkeypatch.setattr(BreaksEvaluation, "steps", 0)
    with pytest.raises(TrainingDivergedError, match=r"step 8: .*held out nan bits per byte"):
        train(job(corpus, tmp_path, policy))
    assert [read_state(folder).step for folder in complete_checkpoints(tmp_path / "checkpoints")] == [4]


def test_an_evaluation_that_is_not_finite_is_rolled_back(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks.training.network, "Decoder", BreaksEvaluation)
    monkeypatch.setattr(BreaksEvaluation, "steps", 0)
    result = train(job(corpus, tmp_path, "rollback"))
    assert column(tmp_path, "batch") == [*range(4), *range(8, NUM_STEPS + 4)]
    assert read_state(result.checkpoint).good
