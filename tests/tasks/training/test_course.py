"""What is refused before a run starts, in one line; and where a decay begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.schedule import WarmupCosine, WarmupStableDecay
from tasks.checkpoints import read_state
from tasks.mixture import MixtureSource
from tasks.tokenizer import TokenizerConfig, save_tokenizer, train_tokenizer
from tasks.training import TrainJob, check_job, train
from tasks.training.course import plan_course
from tests.tasks.training.training_runs import BATCH_TOKENS, NUM_STEPS, RECIPE, job_for, make_corpus


@pytest.fixture(scope="module")
def begun(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after one step."""
    run_dir = tmp_path_factory.mktemp("begun")
    train(job_for(corpus, run_dir), should_stop=lambda: True)
    return run_dir


def refused(message: str, job: TrainJob, world_size: int = 1, **machine: Any) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        check_job(job, world_size, **machine)
    assert "\n" not in str(refusal.value)


def test_a_job_that_fits_is_not_refused(corpus: Path, begun: Path, tmp_path: Path):
    check_job(job_for(corpus, tmp_path), 1)
    check_job(job_for(corpus, tmp_path), 4, processes_per_node=4, num_gpus=4)
    check_job(job_for(corpus, begun, resume=True, microbatch_sequences=2, sharded=True), 2)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_run(corpus: Path, begun: Path):
    refused(r"already holds a run \(step-00000001\)", job_for(corpus, begun))


def test_another_recipe(corpus: Path, begun: Path):
    refused(
        r"another recipe: learning_rate \(0.003 before, 0.01 now\)",
        job_for(corpus, begun, resume=True, learning_rate=0.01),
    )


def test_other_shards(begun: Path, tmp_path: Path):
    refused("other token shards", job_for(make_corpus(tmp_path / "other", seed=1), begun, resume=True))


def test_other_weights_of_the_corpora(corpus: Path, tmp_path: Path):
    other = make_corpus(tmp_path / "other", seed=1, tokenizer_file=corpus / "tokenizer.json")
    second = MixtureSource(corpus="other@1", tokens_dir=other / "tokens", weight=0.5)
    run_dir = tmp_path / "run"
    train(job_for(corpus, run_dir, more=(second,)), should_stop=lambda: True)
    check_job(job_for(corpus, run_dir, resume=True, more=(second,)), 1)
    heavier = second.model_copy(update={"weight": 1.0})
    refused("by other weights or caps", job_for(corpus, run_dir, resume=True, more=(heavier,)))
    refused("other token shards", job_for(corpus, run_dir, resume=True))


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_missing_corpus(corpus: Path, tmp_path: Path, name: str):
    job = job_for(corpus, tmp_path)
    missing = MixtureSource(corpus="lost@1", tokens_dir=tmp_path / name)
    refused(r"corpus 'lost@1'.*has no manifest\.json", job.model_copy(update={"corpora": (missing,)}))


def test_another_tokenizer(corpus: Path, tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    job = job_for(corpus, tmp_path).model_copy(update={"tokenizer_file": file})
    refused("there is no tokenizer", job)
    save_tokenizer(train_tokenizer(["other"], RECIPE.tokenizer), file)
    refused("made with another tokenizer", job)


def test_a_vocabulary_that_is_too_small(corpus: Path, tmp_path: Path):
    job = job_for(corpus, tmp_path / "run", tokenizer=TokenizerConfig(vocab_size=259))
    assert job.recipe.decoder_config().vocab_size == 320
    check_job(job, 1)  # padded to 320, which the 300 tokens fit into
    bigger = tmp_path / "tokens"
    bigger.mkdir()
    for file in (corpus / "tokens").iterdir():
        (bigger / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((bigger / "manifest.json").read_bytes())
    (bigger / "manifest.json").write_text(json.dumps(manifest | {"vocab_size": 321}))
    source = MixtureSource(corpus="bigger@1", tokens_dir=bigger)
    refused("has 321 tokens, the network's vocabulary only 320", job.model_copy(update={"corpora": (source,)}))


def test_too_small_a_corpus(corpus: Path, tmp_path: Path):
    refused("one batch needs 1000", job_for(corpus, tmp_path, global_batch_tokens=16_000, total_tokens=16_000))


@pytest.mark.parametrize(
    ("message", "world_size", "changes"),
    [
        (r"4 sequences can not be shared by 3 processes", 3, {}),
        (r"3 processes do not divide into groups of 2", 3, {"tensor": 2}),
        (r"num_kv_heads 2 does not divide into tensor 4", 4, {"tensor": 4}),
    ],
)
def test_processes_that_do_not_fit(
    corpus: Path, tmp_path: Path, message: str, world_size: int, changes: dict[str, Any]
):
    refused(message, job_for(corpus, tmp_path, **changes), world_size)


def test_nodes_and_gpus(corpus: Path, tmp_path: Path):
    refused("a group must lie inside a node", job_for(corpus, tmp_path, tensor=2), 4, processes_per_node=1)
    check_job(job_for(corpus, tmp_path, device="cuda"), 2, num_gpus=2)
    refused("4 processes need a GPU each and there are 2", job_for(corpus, tmp_path, device="cuda"), 4, num_gpus=2)
    refused("4 processes need a GPU each and there are 2", job_for(corpus, tmp_path, device="auto"), 4, num_gpus=2)
    refused("1 processes need a GPU each and there are 0", job_for(corpus, tmp_path, device="cuda"), 1, num_gpus=0)
    check_job(job_for(corpus, tmp_path, device="auto"), 4, num_gpus=0)


def test_the_loop_refuses_the_same(corpus: Path, begun: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="already holds a run"):
        train(job_for(corpus, begun))
    with pytest.raises(ValueError, match=r"needs torch\.distributed"):
        train(job_for(corpus, tmp_path), rank=0, world_size=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(corpus: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="finds no GPU"):
        train(job_for(corpus, tmp_path, device="cuda"))


def test_a_curve_with_a_hole(corpus: Path, tmp_path: Path):
    train(job_for(corpus, tmp_path), should_stop=lambda: True)
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match="does not hold the steps 1 to 1"):
        train(job_for(corpus, tmp_path, resume=True))


def test_checking_starts_no_process_group_and_no_network(corpus: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "from tasks.training import TrainJob, check_job\n"
        "import model.decoder, torch.distributed as dist\n"
        "model.decoder.Decoder.__init__ = None\n"
        "check_job(TrainJob.model_validate_json(sys.argv[1]), 2)\n"
        "assert not dist.is_initialized()\n"
    )
    job = job_for(corpus, tmp_path).model_dump_json()
    assert subprocess.run([sys.executable, "-c", code, job], check=False).returncode == 0


def test_schedules(corpus: Path, tmp_path: Path):
    total = NUM_STEPS * BATCH_TOKENS
    course = plan_course(job_for(corpus, tmp_path), 1, "cpu")
    assert course.schedule == WarmupCosine(total_tokens=total, peak=0.003, warmup_tokens=4 * BATCH_TOKENS)
    course = plan_course(job_for(corpus, tmp_path, schedule="wsd", decay_fraction=0.25, floor_fraction=0), 1, "cpu")
    assert course.schedule == WarmupStableDecay(
        total_tokens=total, peak=0.003, warmup_tokens=4 * BATCH_TOKENS, decay_start_tokens=total * 3 // 4
    )


def test_caps_end_a_run_and_skipped_batches_count(corpus: Path, tmp_path: Path):
    job = job_for(corpus, tmp_path)
    capped = job.corpora[0].model_copy(update={"max_tokens": 10 * BATCH_TOKENS})
    course = plan_course(job.model_copy(update={"corpora": (capped,)}), 1, "cpu")
    assert course.planned_steps == course.num_steps(()) == 10
    assert course.num_steps(((3, 5),)) == 7
    course = plan_course(job, 1, "cpu")
    assert course.num_steps(()) == course.num_steps(((3, 5),)) == NUM_STEPS


def test_what_was_drawn_leaves_out_what_was_skipped(corpus: Path, tmp_path: Path):
    other = make_corpus(tmp_path / "other", seed=1, tokenizer_file=corpus / "tokenizer.json")
    second = MixtureSource(corpus="other@1", tokens_dir=other / "tokens", weight=3)
    course = plan_course(job_for(corpus, tmp_path / "run", more=(second,)), 1, "cpu")
    quarter = BATCH_TOKENS // 4
    assert course.drawn_tokens(7, ()) == {"words@1": 8 * quarter, "other@1": 24 * quarter}
    assert course.drawn_tokens(7, ((2, 3), (6, 6))) == {"words@1": 5 * quarter, "other@1": 15 * quarter}
    assert course.drawn_tokens(7, ((7, 8),)) == course.drawn_tokens(7, ())
    assert plan_course(job_for(corpus, tmp_path / "run"), 1, "cpu").drawn_tokens(7, ()) == {}


class TestDecayFrom:
    def job(self, corpus: Path, begun: Path, run_dir: Path, **changes: Any) -> TrainJob:
        folder = str(begun / "checkpoints" / "step-00000001")
        decay = {"schedule": "wsd", "decay_from": folder, "total_tokens": 5 * BATCH_TOKENS}
        return job_for(corpus, run_dir, **(decay | changes))

    def test_it_goes_on_where_the_checkpoint_is(self, corpus: Path, begun: Path, tmp_path: Path):
        job = self.job(corpus, begun, tmp_path, learning_rate=None, global_batch_tokens=None, floor_fraction=0)
        course = plan_course(job, 1, "cpu")
        assert (course.start.step, course.planned_steps) == (1, 6)
        assert course.schedule == WarmupStableDecay(
            total_tokens=6 * BATCH_TOKENS, peak=0.003, warmup_tokens=0, decay_start_tokens=BATCH_TOKENS
        )

    def test_the_peak_of_a_run_that_left_it_to_the_rule(self, corpus: Path, tmp_path: Path):
        source = job_for(corpus, tmp_path / "source", learning_rate=None)
        peak = plan_course(source, 1, "cpu").schedule.peak
        train(source, should_stop=lambda: True)
        job = self.job(corpus, tmp_path / "source", tmp_path / "decay", learning_rate=None)
        assert plan_course(job, 1, "cpu").schedule.peak == peak

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"decay_from": "nowhere"}, r"is no complete checkpoint: there is no state\.json in it; name the folder"),
            ({"model": "10m"}, r"of another run: network \("),
            ({"optimizer": "muon"}, r"of another run: optimizer \(adamw there, muon here\)"),
            ({"seed": 6}, r"of another run: seed \(5 there, 6 here\)"),
            ({"global_batch_tokens": 32}, r"of another run: global_batch_tokens \(64 there, 32 here\)"),
        ],
    )
    def test_of_another_run(self, corpus: Path, begun: Path, tmp_path: Path, changes: dict[str, Any], message: str):
        refused(message, self.job(corpus, begun, tmp_path, **changes))

    def test_of_other_data(self, begun: Path, tmp_path: Path):
        refused("other token shards", self.job(make_corpus(tmp_path / "other", seed=1), begun, tmp_path / "run"))

    def test_caps_that_are_used_up(self, corpus: Path, tmp_path: Path):
        source = job_for(corpus, tmp_path / "source")
        capped = (source.corpora[0].model_copy(update={"max_tokens": BATCH_TOKENS}),)
        train(source.model_copy(update={"corpora": capped}))
        job = self.job(corpus, tmp_path / "source", tmp_path / "run").model_copy(update={"corpora": capped})
        refused("has used up what the caps of the corpora allow, 1 steps", job)

    def test_it_is_remembered_when_the_checkpoint_is_gone(self, corpus: Path, tmp_path: Path):
        train(job_for(corpus, tmp_path / "source"), should_stop=lambda: True)
        job = self.job(corpus, tmp_path / "source", tmp_path / "decay")
        train(job, should_stop=lambda: True)
        (tmp_path / "source" / "checkpoints" / "step-00000001" / "state.json").unlink()
        result = train(job.model_copy(update={"resume": True}))
        assert (result.step, result.num_steps, result.tokens_seen) == (6, 6, 6 * BATCH_TOKENS)
        assert read_state(result.checkpoint).recipe == job.recipe
        refused("is no complete checkpoint", self.job(corpus, tmp_path / "source", tmp_path / "another"))
