"""Probe steps are real steps, and no more of them than there is time for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.pack import TokenShards
from tasks.probe import MAX_STEP_S, MAX_STEPS, MIN_STEPS, STEPS_S, affordable, make_up_corpus, run_probe
from tasks.recipes.pretraining import PretrainRecipe
from tasks.tokenizer import TokenizerConfig

TINY = PretrainRecipe(
    model="smoke",
    tokenizer=TokenizerConfig(vocab_size=300),
    seq_len=8,
    total_tokens=640,
    global_batch_tokens=32,
    microbatch_sequences=2,
    learning_rate=0.001,
)


@pytest.mark.parametrize(
    ("microbatch_s", "microbatches", "expected"),
    [
        (MAX_STEP_S / 4, 4, (4, int(STEPS_S / MAX_STEP_S))),  # all four are just affordable
        (MAX_STEP_S / 4 * 1.01, 4, (3, int(STEPS_S / (MAX_STEP_S / 4 * 1.01 * 3)))),
        (0.001, 1, (1, MAX_STEPS)),
        (1_000.0, 8, (1, MIN_STEPS)),
    ],
)
def test_a_step_is_cut_where_it_takes_long(microbatch_s: float, microbatches: int, expected: tuple[int, int]) -> None:
    assert affordable(microbatch_s, microbatches) == expected


def test_the_made_up_corpus_has_what_is_asked_for(tmp_path: Path) -> None:
    make_up_corpus(tmp_path, train_tokens=70_000, held_out_documents=3, document_tokens=50)
    train, held_out = (TokenShards(tmp_path / "tokens", split) for split in ("train", "held_out"))
    assert train.num_tokens >= 70_000
    assert (held_out.num_documents, held_out.num_tokens) == (3, 150)


def test_a_probe_fails_in_one_line() -> None:
    """Here its positions do not divide."""
    broken = TINY.model_copy(update={"seq_len": 9, "global_batch_tokens": 36, "tensor": 2})
    with pytest.raises(ValueError, match=r"^the probe's process [01] failed: .*9 does not divide") as refusal:
        run_probe(broken, batch_tokens=36, workers=2, device="cpu", evaluated_tokens=10, tokens_per_document=5)
    assert "\n" not in str(refusal.value)


@pytest.mark.verify
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("workers", "settings"), [(1, {}), (2, {}), (2, {"sharded": True})])
def test_real_steps_are_taken(workers: int, settings: dict[str, bool]) -> None:
    probe = run_probe(
        TINY.model_copy(update=settings),
        batch_tokens=32,
        workers=workers,
        device="cpu",
        evaluated_tokens=1_000,
        tokens_per_document=100,
    )
    assert MIN_STEPS <= probe.num_steps <= MAX_STEPS
    assert 0 < probe.step_s < 10 and probe.evaluation_s > 0 and probe.checkpoint_s > 0 and probe.start_s > 0
    assert 100_000_000 < probe.peak_bytes < 4_000_000_000
