"""Writing and reading a training's checkpoints, by all of its processes together."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from model.decoder import Decoder
from tasks.address import explained, redacted
from tasks.checkpoints.pieces import Box, is_writer, own_box, own_part, stored_tensors, write_pieces
from tasks.checkpoints.places import place
from tasks.checkpoints.processes import LostProcessError, Processes
from tasks.checkpoints.state import (
    MODEL,
    OPTIMIZER,
    STATE_FILE,
    CheckpointState,
    StoredFile,
    checkpoint_step,
    complete_checkpoints,
    folder_of,
    latest_checkpoint,
    read_commit,
    read_state,
    remove_checkpoint,
    remove_garbage,
    state_json,
)
from tasks.checkpoints.tensors import (
    generator_states,
    network_tensors,
    optimizer_tensors,
    restore_generators,
    restore_network,
    restore_optimizer,
)


@dataclass(frozen=True)
class _Part:
    """A file to be written, of pieces in main memory that nobody else changes."""

    name: str
    pieces: Mapping[str, Tensor]
    boxes: Mapping[str, Box]  # empty where all pieces are whole


class Checkpointer:
    """The checkpoints of one training below `location`, a path or a URL.

    Made by every process, after the network was laid out over them; all of them call every method, in the same order.
    A save before is finished first by each of them. In a `with` block the last save is finished at its end.
    """

    def __init__(
        self,
        location: str | Path,
        model: Decoder,
        optimizer: torch.optim.Optimizer,
        *,
        keep: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert keep >= 1
        self._place, self._keep = place(location), keep
        self._model, self._optimizer = model, optimizer
        self._processes = Processes(rank, world_size)
        self._staged: dict[str, Tensor] = {}
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.finish()
        except Exception as failure:  # what ended the block is what is raised
            error.add_note(f"the checkpoint before was not saved either: {failure}")

    def start(self) -> None:
        """Remove what killed writers left. Call it first, and while no other training writes here."""
        self.finish()
        self._first_alone(lambda: remove_garbage(self._place))

    def latest(self, *, good_only: bool = False) -> str | None:
        """The newest complete checkpoint, or the newest good one; the first process's answer."""
        self.finish()
        found = self._processes.together(
            lambda: latest_checkpoint(self._place.address, good_only=good_only) if self._is_first else None
        )
        return self._processes.gather(found or "")[0] or None

    def load(self, folder: str | Path) -> CheckpointState:
        """Put a checkpoint into network and optimizer, whatever layout it was written from.

        The random generators go on from where they were, if there are as many processes. Raises ValueError, in every
        process, where the folder is damaged, or was made for another shape of network: it names the parameter.
        """
        self.finish()
        return self._processes.together(lambda: self._load(folder))

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: training went back to `step` (0: its beginning) and takes another way.

        Else a restart would go on from one of them.
        """
        self.finish()

        def remove() -> None:
            for folder in reversed(complete_checkpoints(self._place.address)):
                if checkpoint_step(folder) > step:
                    remove_checkpoint(place(folder))

        self._first_alone(remove)

    def save(self, state: CheckpointState, *, wait: bool = False) -> str:
        """Save everything that training goes on from, and return the folder, which is complete once `finish` returns.

        Blocks while the tensors are copied to main memory; a thread writes them. Then all but the newest `keep`
        checkpoints and the last good one are removed. Raises ValueError, in every process, for the error of the save
        before, and where a tensor is not finite; then nothing is written or removed.
        """
        assert state.world_size == self._processes.world_size, "the state is of this training"
        self.finish()
        network = network_tensors(self._model)
        optimizer = optimizer_tensors(self._model, self._optimizer)
        self._processes.together(partial(_check_finite, network, optimizer, state.step))
        parts = self._stage(network, optimizer)
        self._writer = threading.Thread(target=self._write, args=(state, parts), name="checkpoint", daemon=True)
        self._writer.start()
        if wait:
            self.finish()
        return folder_of(self._place, state.step).address

    def finish(self) -> None:
        """Wait until the last save is complete.

        Raises ValueError, in every process, where it failed in one, and LostProcessError where a process is gone.
        """
        if self._writer is None:
            return
        self._writer.join()
        self._writer = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @property
    def _is_first(self) -> bool:
        return self._processes.rank == 0

    def _load(self, folder: str | Path) -> CheckpointState:
        where = place(folder)
        state, files = read_commit(where)
        own = _file_name(OPTIMIZER, self._processes.rank, state.world_size)
        if _file_name(OPTIMIZER, 0, state.world_size) not in files:
            raise ValueError(f"{where.address} holds a network alone, for use: give a checkpoint of a training run")
        with stored_tensors(where, _of_kind(files, MODEL)) as stored:
            restore_network(stored, self._model, where.address)
        with stored_tensors(where, _of_kind(files, OPTIMIZER)) as stored:
            restore_optimizer(stored, self._model, self._optimizer, where.address)
            if state.world_size == self._processes.world_size:
                restore_generators(stored, own)
        return state

    def _stage(self, network: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> list[_Part]:
        """Copy what this process has to write, into memory that is kept for the next time."""
        rank, world_size = self._processes.rank, self._processes.world_size
        parts = []
        # a network that the first process holds whole is one file, which anybody can read
        is_whole = all(own_box(tensor) == Box.whole(tensor.shape) for tensor in network.values())
        for kind, tensors, num_files in (
            (MODEL, network, 1 if is_whole else world_size),
            (OPTIMIZER, optimizer, world_size),
        ):
            own = {name: tensor for name, tensor in tensors.items() if is_writer(tensor, rank)}
            pieces = {name: self._copied(f"{kind}/{name}", own_part(tensor)) for name, tensor in own.items()}
            if kind == OPTIMIZER:
                pieces |= generator_states()
            if pieces:
                boxes = {name: own_box(tensor) for name, tensor in own.items()} if num_files > 1 else {}
                parts.append(_Part(_file_name(kind, rank, num_files), pieces, boxes))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return parts

    def _copied(self, key: str, tensor: Tensor) -> Tensor:
        if key not in self._staged:
            self._staged[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        return self._staged[key].copy_(tensor, non_blocking=True)

    def _write(self, state: CheckpointState, parts: list[_Part]) -> None:
        """The thread: files, mark, removal of older checkpoints. Each waits for all processes to have done the last."""
        where = folder_of(self._place, state.step)

        def write_own() -> str:
            written = {}
            for part in parts:
                with where.writing(part.name) as file:
                    written[part.name] = write_pieces(file, part.pieces, part.boxes).model_dump()
            return json.dumps(written)

        def commit(listed: list[str]) -> None:
            files = {
                name: StoredFile.model_validate(file) for each in listed for name, file in json.loads(each).items()
            }
            where.write(STATE_FILE, state_json(state, files))
            self._remove_old()

        try:
            # one of this step may be there: damaged, so that training resumed from the one before and came here again
            self._first_alone(lambda: remove_checkpoint(where))
            listed = self._processes.gather(self._processes.together(write_own))
            self._first_alone(lambda: commit(listed))
        except LostProcessError as error:  # raised by `finish`, as what follows
            self._failure = error
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else explained(error)
            self._failure = ValueError(f"saving {redacted(where.address)} failed: {reason}")
            self._failure.__cause__ = error

    def _first_alone(self, call: Callable[[], None]) -> None:
        """The first process does it; the others wait, and learn whether it went well."""
        self._processes.together(lambda: call() if self._is_first else None)

    def _remove_old(self) -> None:
        folders = complete_checkpoints(self._place.address)
        good = next((folder for folder in reversed(folders) if read_state(folder).good), None)
        for folder in folders[: -self._keep]:
            if folder != good:
                remove_checkpoint(place(folder))


def _of_kind(files: Mapping[str, StoredFile], kind: str) -> dict[str, StoredFile]:
    return {name: file for name, file in files.items() if name.startswith(kind)}


def _file_name(kind: str, rank: int, num_files: int) -> str:
    return f"{kind}.safetensors" if num_files == 1 else f"{kind}-{rank + 1:05d}-of-{num_files:05d}.safetensors"


def _check_finite(network: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], step: int) -> None:
    """Raises ValueError for the first tensor that this process holds a number of that is not finite."""
    held = {f"parameter {name}": own_part(tensor) for name, tensor in network.items()}
    held |= {f"optimizer state {name}": own_part(tensor) for name, tensor in optimizer.items()}
    held = {name: tensor for name, tensor in held.items() if tensor.numel()}
    for device in {tensor.device for tensor in held.values()}:  # one wait for each
        there = {name: tensor for name, tensor in held.items() if tensor.device == device}
        # NaN is both extremes of what holds one; on a CPU this takes a sixth of the time of isfinite on all
        extremes = torch.stack([torch.stack(torch.aminmax(tensor)).float() for tensor in there.values()])
        for name in (name for name, ok in zip(there, extremes.isfinite().all(1).tolist(), strict=True) if not ok):
            raise ValueError(
                f"{name} is not finite after step {step}; no checkpoint is made of it: resume from the last one with a "
                "lower learning rate"
            )
