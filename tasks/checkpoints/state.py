"""What a checkpoint says of itself, and how one is told from the rest of a killed write."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from tasks.atomic import TEMPORARY_PREFIX
from tasks.checkpoints.places import Place, parent_and_name, place
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.recipes.pretraining import PretrainRecipe
from tasks.rule import Configuration

MODEL, OPTIMIZER = "model", "optimizer"
MODEL_FILE, STATE_FILE = f"{MODEL}.safetensors", "state.json"
_FOLDER = re.compile(r"step-(\d{8,})")
_FILE = re.compile(rf"({MODEL}|{OPTIMIZER})(-\d{{5,}}-of-\d{{5,}})?\.safetensors")
_LEFTOVER = re.compile(rf"{_FILE.pattern}|{re.escape(TEMPORARY_PREFIX + STATE_FILE)}-\w+")


class CheckpointState(Configuration):
    """What a checkpoint says of itself, apart from the tensors."""

    step: int = Field(ge=1, description="Optimizer steps, counted from the beginning of the run")
    num_steps: int = Field(ge=1, description="Optimizer steps of the whole run")
    tokens_seen: int = Field(ge=1, description="Tokens trained on, repetitions included")
    loss: float = Field(allow_inf_nan=False, description="Training loss of the last step, nats per token")
    held_out: BitsPerByte | None = Field(None, description="Held-out evaluation, where this step had one")
    decoder: dict[str, Any] = Field(description="The network's shape, `DecoderConfig.to_dict()`")
    recipe: PretrainRecipe
    tokenizer_sha256: str
    corpus_digest: str = Field(description="Of the first corpus, the one that is held out from")
    tokens_digests: tuple[str, ...] = Field(description="Digests of the token shards, one for each corpus")
    mixture: tuple[dict[str, Any], ...] = Field(
        (), description="Of each corpus its name, weight and caps, which decide the order of the data"
    )
    world_size: int = Field(1, ge=1, description="Processes that trained, and wrote this")
    spikes: dict[str, Any] | None = Field(None, description="What the spike detector remembers")
    skipped: tuple[tuple[int, int], ...] = Field(
        (), description="First and last batch, in the order of the data from 0, of what was left out after spikes"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_corpus(cls, values: Any) -> Any:
        """Checkpoints made before a run could have several corpora name the one."""
        if isinstance(values, Mapping) and "tokens_digest" in values and "tokens_digests" not in values:
            rest = {name: value for name, value in values.items() if name != "tokens_digest"}
            return rest | {"tokens_digests": (values["tokens_digest"],)}
        return values

    @property
    def good(self) -> bool:
        """Whether training may go back to it: its figures are finite, and held-out text has been scored with it."""
        return math.isfinite(self.loss) and self.held_out is not None and math.isfinite(self.held_out.bits_per_byte)


class StoredFile(Configuration):
    """A file of a checkpoint."""

    num_bytes: int = Field(ge=0)
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="Earlier checkpoints have none")


def state_json(state: CheckpointState, files: Mapping[str, StoredFile]) -> bytes:
    """What STATE_FILE holds: the commit mark of a folder with these files."""
    body = {
        "state": state.model_dump(mode="json"),
        "files": {name: file.model_dump(mode="json") for name, file in sorted(files.items())},
    }
    return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()


def folder_of(location: Place, step: int) -> Place:
    """Where a step's checkpoint lies."""
    return location.child(f"step-{step:08d}")


def checkpoint_folder(location: str | Path, step: int) -> str:
    """The address of a step's checkpoint below the path or URL `location`."""
    return folder_of(place(location), step).address


def checkpoint_step(folder: str | Path) -> int:
    """The step that a checkpoint's folder is named for."""
    found = _FOLDER.fullmatch(parent_and_name(folder)[1])
    assert found is not None, f"{folder} is named for no step"
    return int(found[1])


def complete_checkpoints(location: str | Path) -> list[str]:
    """Addresses of all complete checkpoints, oldest first; those whose files have lost their size are left out."""
    return [child.address for child in _folders(place(location)) if complete_files(child) is not None]


def latest_checkpoint(location: str | Path, *, good_only: bool = False) -> str | None:
    """The newest complete checkpoint, or the newest of the good ones; None where there is none."""
    for child in reversed(_folders(place(location))):
        if complete_files(child) is not None and not (good_only and not read_state(child.address).good):
            return child.address
    return None


def read_state(folder: str | Path) -> CheckpointState:
    """The state of a checkpoint. Raises ValueError where the folder is none, or an incomplete one."""
    return read_commit(place(folder))[0]


def read_commit(where: Place) -> tuple[CheckpointState, dict[str, StoredFile]]:
    """State and files of a checkpoint. Raises ValueError where the folder is none, or an incomplete one."""
    files = complete_files(where)
    content = where.read(STATE_FILE)
    if content is None:
        raise ValueError(
            f"{where.address} is no complete checkpoint: there is no {STATE_FILE} in it; name the folder of one, such "
            "as .../checkpoints/step-00000100"
        )
    if files is None:
        raise ValueError(
            f"{where.address} is no complete checkpoint: {STATE_FILE} is damaged, or a file is missing or has another "
            "size"
        )
    try:
        return CheckpointState.model_validate(json.loads(content)["state"]), files
    except ValidationError as error:
        first = error.errors()[0]
        named = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"{where.address}/{STATE_FILE} is damaged or of another program version: {named}: {first['msg']}"
        ) from error


def complete_files(where: Place) -> dict[str, StoredFile] | None:
    """The files of a checkpoint, None where its mark is missing or damaged, or a file has another size."""
    content = where.read(STATE_FILE)
    if content is None:
        return None
    try:
        body = json.loads(content)
        # before there were hashes: {name: bytes}
        listed = body["files"] if "files" in body else {n: {"num_bytes": s} for n, s in body["file_bytes"].items()}
        files = {name: StoredFile.model_validate(file) for name, file in listed.items()}
        says_something = isinstance(body["state"], dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no JSON, or other JSON
        return None
    has_network = any(name.startswith(MODEL) for name in files)
    if not (says_something and has_network and all(_FILE.fullmatch(name) for name in files)):
        return None
    there = where.sizes_bytes()
    return files if all(there.get(name) == file.num_bytes for name, file in files.items()) else None


def remove_checkpoint(where: Place) -> None:
    """Remove a checkpoint. Its mark goes first: a kill half-way leaves garbage, not a checkpoint without weights."""
    where.remove_file(STATE_FILE)
    where.remove()


def remove_garbage(location: Place) -> None:
    """Remove what killed writers left, and only that: folders without a mark that hold nothing but our files."""
    for child in _folders(location):
        names = child.names()
        if STATE_FILE not in names and all(_LEFTOVER.fullmatch(name) for name in names):
            child.remove()
    for name in location.names():
        if name.startswith(f"{TEMPORARY_PREFIX}step-"):  # how earlier versions named what they had not finished
            location.child(name).remove()


def _folders(location: Place) -> list[Place]:
    """Folders named for a step, oldest first."""
    names = sorted((name for name in location.names() if _FOLDER.fullmatch(name)), key=checkpoint_step)
    return [location.child(name) for name in names]
