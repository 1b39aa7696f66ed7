"""A checkpoint becomes a folder that Hugging Face's transformers load, or nothing: what is not proven is not left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import DecoderConfig
from tasks.atomic import write_file, write_json
from tasks.checkpoints import read_state
from tasks.export.card import export_card
from tasks.export.destination import check_destination, check_room, new_export
from tasks.export.layout import generation_configuration, model_configuration
from tasks.export.passages import PASSAGES
from tasks.export.proof import Proof, expected, prove, require_transformers
from tasks.export.tokenizer_files import write_tokenizer
from tasks.export.weights import MAX_FILE_BYTES, WrittenWeights, weights_bytes, write_weights
from tasks.tokenizer import load_tokenizer, tokenizer_hash

PROOF_FILE, CARD_FILE = "proof.json", "README.md"


@dataclass(frozen=True)
class Export:
    """What lies at `path`."""

    path: Path
    weights: WrittenWeights
    proof: Proof

    def as_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "parameters": self.weights.num_parameters,
            "bytes": self.weights.num_bytes,
            "dtypes": list(self.weights.dtypes),
            "proof": self.proof.as_json(),
        }


def export_model(
    folder: str,
    tokenizer_file: Path,
    destination: Path,
    *,
    reference: str,
    description: str = "",
    texts: Sequence[str] = (),
    texts_from: str = "",
    max_file_bytes: int = MAX_FILE_BYTES,
    say: Callable[[str], None] = lambda line: None,
) -> Export:
    """Export the checkpoint `folder`, a path or URL, with its tokenizer to the new folder `destination`.

    `reference` and `description` are its name and its card. `texts` are what it is proven on beside our own passages,
    `texts_from` says whose they are. `destination` appears with everything in it, or not at all. Raises ValueError
    where it is there, also by the end, where there is no room for it, where the checkpoint is damaged or unfinished or
    the tokenizer another model's, and NotTheSame where the export computes anything else than the model; OSError where
    it can't be written.
    """
    check_destination(destination)
    require_transformers()
    state = read_state(folder)
    tokenizer = load_tokenizer(tokenizer_file)
    if tokenizer_hash(tokenizer_file) != state.tokenizer_sha256:
        raise ValueError(f"{tokenizer_file} is not the tokenizer that the model in {folder} was trained with")
    check_room(weights_bytes(folder), destination)
    shape = DecoderConfig.from_dict(state.decoder)
    num_tokens = tokenizer.get_vocab_size()
    proven_on = [*PASSAGES, *texts]
    proven_from = f"{texts_from} and passages of Tokenmill" if texts else "passages of Tokenmill"
    say(f"computing what {reference} says of {len(proven_on)} texts")
    if num_tokens > shape.vocab_size:
        raise ValueError(f"{tokenizer_file} has {num_tokens} tokens, the model in {folder} {shape.vocab_size} rows")
    ours = expected(folder, tokenizer, proven_on)
    with new_export(destination) as temporary:
        say("writing weights and tokenizer")
        weights = write_weights(folder, temporary, max_file_bytes=max_file_bytes)
        write_tokenizer(tokenizer_file, temporary, max_seq_len=shape.max_seq_len)
        dtype = weights.dtypes[0] if len(weights.dtypes) == 1 else "float32"
        _write_ordered_json(temporary / "config.json", model_configuration(shape, dtype))
        _write_ordered_json(temporary / "generation_config.json", generation_configuration(shape, num_tokens))
        say("loading the export and comparing")
        proof = prove(temporary, folder, tokenizer, proven_on, proven_from, ours)
        write_json(temporary / PROOF_FILE, proof.as_json())
        card = export_card(reference, state, weights, num_tokens, proof, description)
        write_file(temporary / CARD_FILE, card.encode())
        for file in temporary.iterdir():  # the safetensors library makes files that their owner alone can read
            shutil.copymode(temporary / CARD_FILE, file)
    return Export(destination, weights, proof)


def _write_ordered_json(file: Path, values: dict[str, Any]) -> None:
    """As people know these files: what it is stands first."""
    write_file(file, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
