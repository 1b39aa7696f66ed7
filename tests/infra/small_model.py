"""A network of some thousand weights with a tokenizer of its own: enough to register, load and ask."""

from __future__ import annotations

from pathlib import Path

import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_adamw
from tasks.checkpoints import Checkpointer, CheckpointState
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.recipes.pretraining import smoke
from tasks.tokenizer import TOKENIZER_FILE, TokenizerConfig, save_tokenizer, tokenizer_hash, train_tokenizer
from tests.data.prose import prose

VOCAB_SIZE = 300
CORPUS_DIGEST = "c0ffee" * 10 + "cafe"


def small_model(folder: Path, *, step: int = 2, seed: int = 0) -> tuple[Path, Path]:
    """A checkpoint below `folder` and its tokenizer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / TOKENIZER_FILE
    if not tokenizer.exists():
        texts = [prose(number) for number in range(20)]
        save_tokenizer(train_tokenizer(texts, TokenizerConfig(vocab_size=VOCAB_SIZE)), tokenizer)
    torch.manual_seed(seed)
    shape = DecoderConfig(
        vocab_size=320, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=24, max_seq_len=64
    )
    network = Decoder(shape)
    state = CheckpointState(
        step=step,
        num_steps=step,
        tokens_seen=1024 * step,
        loss=2.5,
        held_out=BitsPerByte(1.5, 2.25, 100, 300, 4),
        decoder=shape.to_dict(),
        recipe=smoke(),
        tokenizer_sha256=tokenizer_hash(tokenizer),
        corpus_digest=CORPUS_DIGEST,
        tokens_digests=("d" * 64,),
    )
    optimizer = build_adamw(network, learning_rate=0.01)
    checkpoints = Checkpointer(folder / "checkpoints", network, optimizer, keep=9)
    return Path(checkpoints.save(state, wait=True)), tokenizer
