"""Checkpoints to export: small networks with weights that are large enough to tell, and one tokenizer for all."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from model.config import DecoderConfig, RopeScaling
from model.decoder import Decoder
from tasks.checkpoints.pieces import Box, write_pieces
from tasks.checkpoints.state import MODEL_FILE, STATE_FILE, CheckpointState, StoredFile, state_json
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.recipes.pretraining import smoke
from tasks.tokenizer import TOKENIZER_FILE, TokenizerConfig, save_tokenizer, tokenizer_hash, train_tokenizer
from tests.data.prose import prose

NUM_TOKENS = 300
SHAPE = DecoderConfig(
    vocab_size=320, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_seq_len=96, rope_theta=5_000.0
)
SCALINGS = {
    "linear": RopeScaling(kind="linear", factor=4.0),
    "llama3": RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=24),
    "yarn": RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=24),
    "yarn, its own turns": RopeScaling(kind="yarn", factor=2.0, original_max_seq_len=48, beta_fast=20.0, beta_slow=2.0),
}


@functools.cache
def _tokenizer_text() -> str:
    text: str = train_tokenizer((prose(n) for n in range(20)), TokenizerConfig(vocab_size=NUM_TOKENS)).to_str()
    return text


def tokenizer_file(folder: Path) -> Path:
    """The one tokenizer, in a file below `folder`."""
    from tokenizers import Tokenizer

    file = folder / TOKENIZER_FILE
    save_tokenizer(Tokenizer.from_str(_tokenizer_text()), file)
    return file


def checkpoint(folder: Path, model: Decoder, *, weights: Mapping[str, Tensor] | None = None) -> tuple[str, Path]:
    """A checkpoint below `folder` and its tokenizer's file; `weights` in place of the model's, of any dtype."""
    tokenizer = tokenizer_file(folder)
    where = folder / "step-00000002"
    where.mkdir(parents=True)
    tensors = dict(model.state_dict()) if weights is None else dict(weights)
    _commit(where, model, tokenizer, {MODEL_FILE: write_pieces(where / MODEL_FILE, tensors, {})})
    return str(where), tokenizer


def checkpoint_of_two(folder: Path, model: Decoder) -> tuple[str, Path]:
    """As two processes write it that each hold half of the rows of every parameter."""
    tokenizer = tokenizer_file(folder)
    where = folder / "step-00000002"
    where.mkdir(parents=True)
    files = {}
    for number in range(2):
        halves, boxes = {}, {}
        for name, tensor in model.state_dict().items():
            half = tensor.shape[0] // 2
            begin = number * half
            rows = tensor[begin : begin + half] if number == 0 else tensor[begin:]
            halves[name] = rows.clone()
            boxes[name] = Box((begin, *([0] * (tensor.ndim - 1))), tuple(rows.shape))
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        files[name] = write_pieces(where / name, halves, boxes)
    _commit(where, model, tokenizer, files)
    return str(where), tokenizer


def _commit(where: Path, model: Decoder, tokenizer: Path, files: Mapping[str, StoredFile]) -> None:
    state = CheckpointState(
        step=2,
        num_steps=2,
        tokens_seen=2048,
        loss=2.5,
        held_out=BitsPerByte(1.5, 2.25, 100, 300, 4),
        decoder=model.config.to_dict(),
        recipe=smoke(),
        tokenizer_sha256=tokenizer_hash(tokenizer),
        corpus_digest="c0ffee" * 10 + "cafe",
        tokens_digests=("d" * 64,),
    )
    (where / STATE_FILE).write_bytes(state_json(state, files))
