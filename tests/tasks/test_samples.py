"""Samples written while training: bounded by the context, repeatable, cut at a checkpoint, no trace in the model."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.samples import MAX_NEW_TOKENS, PROMPTS, append_samples, read_samples, samples_csv, truncate_samples
from tasks.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(
        ["The doctor brought the first bicycle to this valley. This is a text."] * 3, TokenizerConfig()
    )


def decoder(max_seq_len: int = 64) -> Decoder:
    torch.manual_seed(0)
    shape = DecoderConfig(
        vocab_size=8192, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=24, max_seq_len=max_seq_len
    )
    return Decoder(shape).train()


def test_the_same_step_writes_the_same_and_leaves_generator_and_mode_alone(tmp_path: Path, tokenizer: Tokenizer):
    model, before = decoder(), torch.get_rng_state()
    for step in (7, 7):
        append_samples(tmp_path / "samples.jsonl", model, tokenizer, step)
    assert torch.equal(torch.get_rng_state(), before) and model.training
    rows = read_samples(tmp_path / "samples.jsonl")
    assert [row["prompt"] for row in rows] == [*PROMPTS, *PROMPTS]
    assert rows[: len(PROMPTS)] == rows[len(PROMPTS) :]
    assert all(len(tokenizer.encode(row["text"]).ids) <= MAX_NEW_TOKENS * 4 for row in rows)
    assert any(row["text"] for row in rows)


def test_training_goes_on_after_it(tmp_path: Path, tokenizer: Tokenizer):
    """Nothing that was computed for the samples is kept where a gradient would pass."""
    model = decoder()
    append_samples(tmp_path / "samples.jsonl", model, tokenizer, 1)
    tokens_BT = torch.arange(20).reshape(2, 10)
    model(tokens_BT, targets_BT=tokens_BT, reduction="sum").backward()
    assert model.embedding.weight.grad is not None


def test_a_short_context_leaves_prompts_out(tmp_path: Path, tokenizer: Tokenizer):
    append_samples(tmp_path / "samples.jsonl", decoder(max_seq_len=2), tokenizer, 1)
    assert [row["prompt"] for row in read_samples(tmp_path / "samples.jsonl")] == [""]


def test_cut_at_a_checkpoint(tmp_path: Path):
    file = tmp_path / "samples.jsonl"
    assert read_samples(file) == []
    rows = [{"step": step, "prompt": "p", "text": "é\n"} for step in (1, 2, 2, 3)]
    file.write_bytes(b"".join((json.dumps(row) + "\n").encode() for row in rows) + b'{"step": 4, "pro')
    assert read_samples(file) == rows
    truncate_samples(file, 2)
    assert read_samples(file) == rows[:3]
    truncate_samples(file, 0)
    assert file.read_bytes() == b""


def test_the_table_holds_whatever_was_written():
    rows = [{"step": 3, "prompt": "", "text": 'a "b",\nc; =d'}, {"step": 6, "prompt": "The ", "text": ""}]
    read = list(csv.DictReader(io.StringIO(samples_csv(rows), newline="")))
    assert read == [{name: str(value) for name, value in row.items()} for row in rows]
