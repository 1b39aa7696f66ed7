"""The weights of a checkpoint as safetensors under Hugging Face's names, read and written a part at a time.

As `save_pretrained` lays them out: `model.safetensors`, or where they are more than a file may hold,
`model-00001-of-00003.safetensors` and so on with `model.safetensors.index.json`, which says what is where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tasks.atomic import write_json
from tasks.checkpoints.pieces import StoredTensors, stored_tensors
from tasks.checkpoints.places import place
from tasks.checkpoints.state import MODEL, MODEL_FILE, read_commit
from tasks.export.layout import parameter_name

INDEX_FILE = f"{MODEL_FILE}.index.json"
MAX_FILE_BYTES = 4_000_000_000
"""Of a file of weights; transformers 4 wrote 5 GB, and the main memory that an export takes is that of one file."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """What was written."""

    num_parameters: int  # a tied head is no tensor of its own
    num_bytes: int  # of the tensors
    dtypes: tuple[str, ...]  # torch's names without `torch.`, sorted


@contextmanager
def checkpoint_weights(folder: str | Path) -> Iterator[StoredTensors]:
    """The network's tensors in a checkpoint. Raises ValueError where that is none, or a damaged one."""
    where = place(folder)
    _, files = read_commit(where)
    with stored_tensors(where, {name: file for name, file in files.items() if name.startswith(MODEL)}) as stored:
        yield stored


def weights_bytes(folder: str | Path) -> int:
    """What the weights of a checkpoint take on disk."""
    _, files = read_commit(place(folder))
    return sum(file.num_bytes for name, file in files.items() if name.startswith(MODEL))


def write_weights(folder: str | Path, destination: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> WrittenWeights:
    """Write the weights of a checkpoint, in the dtype that they are stored in, to the existing folder `destination`.

    Holds no more than `max_file_bytes` of them in memory, or one tensor where that is larger. Raises ValueError where
    the checkpoint is damaged, OSError where the disk takes no more.
    """
    parts: list[list[str]] = []
    num_parameters = num_bytes = 0
    dtypes: set[str] = set()
    with checkpoint_weights(folder) as stored:
        for part in _parts(stored, max_file_bytes):
            _save(part, destination / f"{len(parts)}.part")
            parts.append(list(part))
            num_parameters += sum(tensor.numel() for tensor in part.values())
            num_bytes += sum(tensor.nbytes for tensor in part.values())
            dtypes |= {str(tensor.dtype).removeprefix("torch.") for tensor in part.values()}
    names = [f"{MODEL}-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    if len(parts) == 1:
        names = [MODEL_FILE]
    else:
        weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        write_json(destination / INDEX_FILE, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
    for number, name in enumerate(names):
        (destination / f"{number}.part").rename(destination / name)
    return WrittenWeights(num_parameters, num_bytes, tuple(sorted(dtypes)))


def _parts(stored: StoredTensors, max_file_bytes: int) -> Iterator[Mapping[str, Tensor]]:
    """Tensors by their exported names, in the order of ours, as many at a time as a file may hold and at least one."""
    part: dict[str, Tensor] = {}
    num_bytes = 0
    for name in sorted(stored.shapes):
        tensor = stored.whole(name)
        if part and num_bytes + tensor.nbytes > max_file_bytes:
            yield part
            part, num_bytes = {}, 0
        part[parameter_name(name)] = tensor
        num_bytes += tensor.nbytes
    yield part


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    try:
        # the metadata is what transformers asks for: whose tensors these are
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:  # which a full disk is as well
        raise OSError(f"{file.parent}: the weights could not be written: {error}") from error
