"""A checkpoint's network for use: in memory, or copied without what only training on needs."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.atomic import write_file
from tasks.checkpoints.pieces import stored_tensors, write_pieces
from tasks.checkpoints.places import Place, place
from tasks.checkpoints.state import MODEL, MODEL_FILE, STATE_FILE, CheckpointState, StoredFile, read_commit, state_json
from tasks.checkpoints.tensors import restore_network


def load_decoder(folder: str | Path, device: str = "cpu") -> tuple[Decoder, CheckpointState]:
    """The trained network of a checkpoint, in evaluation mode, and the checkpoint's state.

    Raises ValueError where the folder is no complete checkpoint, or damaged.
    """
    where = place(folder)
    state, files = read_commit(where)
    return _network(where, state, files).to(device).eval(), state


def copy_for_use(folder: str | Path, destination: Path) -> None:
    """What using the model needs of a checkpoint, without what only training on needs: about a third of its bytes.

    The copy in the existing folder `destination` can be read by `load_decoder` like any checkpoint; its weights are one
    file, however many processes wrote them.
    """
    where = place(folder)
    state, files = read_commit(where)
    weights: dict[str, Tensor] = _network(where, state, files).state_dict()
    written = write_pieces(destination / MODEL_FILE, weights, {})
    write_file(destination / STATE_FILE, state_json(state, {MODEL_FILE: written}))


def _network(where: Place, state: CheckpointState, files: dict[str, StoredFile]) -> Decoder:
    model = Decoder(DecoderConfig.from_dict(state.decoder))
    with stored_tensors(where, {name: file for name, file in files.items() if name.startswith(MODEL)}) as stored:
        restore_network(stored, model, where.address)
    return model
