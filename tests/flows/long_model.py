"""A small model that takes long texts, as a folder: its greedy answers last for some seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_adamw
from tasks.checkpoints import Checkpointer, read_state
from tests.infra.small_model import small_model

POSITIONS = 16_000


def long_model(folder: Path) -> Path:
    """A checkpoint below `folder`, with its tokenizer beside it."""
    small, tokenizer = small_model(folder / "small")
    state = read_state(small)
    torch.manual_seed(0)
    shape = {**state.decoder, "max_seq_len": POSITIONS}
    network = Decoder(DecoderConfig.from_dict(shape))
    checkpoints = Checkpointer(folder / "checkpoints", network, build_adamw(network, learning_rate=0.01), keep=1)
    made = Path(checkpoints.save(state.model_copy(update={"decoder": shape}), wait=True))
    (made / tokenizer.name).write_bytes(tokenizer.read_bytes())
    return made
