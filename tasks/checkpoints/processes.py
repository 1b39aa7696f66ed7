"""The processes of a training, talking about checkpoints apart from the training itself.

A gloo group of its own, because a thread writes while the training's own group exchanges gradients. Only one thread of
a process may use it at a time. What is said is short text.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.address import explained

T = TypeVar("T")

_TIME_LIMIT = datetime.timedelta(hours=2)
"""A process waits this long for the slowest one's part to reach the storage; for a lost one it does not wait."""


class LostProcessError(RuntimeError):
    """Another process of the training is gone: nobody's mistake, and no reason not to train on without it."""


class Processes:
    """All processes of a training, made by all of them together."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._group: dist.ProcessGroup | None = None
        if world_size > 1:
            assert dist.is_initialized(), "several processes have a process group"
            assert (dist.get_rank(), dist.get_world_size()) == (rank, world_size), "all of them take part"
            self._group = dist.new_group(backend="gloo", timeout=_TIME_LIMIT)

    def gather(self, text: str) -> list[str]:
        """What each process says, by rank. Raises LostProcessError where one of them is gone."""
        if self._group is None:
            return [text]
        try:
            return self._gathered(text)
        except RuntimeError as error:  # gloo's own, of whatever kind
            raise LostProcessError(f"another process of the training is gone: {error}") from error

    def _gathered(self, text: str) -> list[str]:
        own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor(len(own)), group=self._group)
        padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        padded[: len(own)] = own
        everyone: list[Tensor] = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(everyone, padded, group=self._group)
        said = [bytes(each[: int(size)].numpy()).decode() for each, size in zip(everyone, sizes, strict=True)]
        return ["" if each == "\0" else each for each in said]

    def together(self, call: Callable[[], T]) -> T:
        """`call()` in every process, and its result here; where it fails in one, every process raises.

        Raises what it raised here, or, where it went well here, ValueError with the first other process's error;
        LostProcessError where one of them is gone.
        """
        result: list[T] = []
        failure: Exception | None = None
        try:
            result.append(call())
        except Exception as error:  # raised below, when the others know
            failure = error
        said = self.gather(
            "" if failure is None else str(failure) if isinstance(failure, ValueError) else explained(failure)
        )
        if failure is not None:
            raise failure
        if (first := next((rank for rank, each in enumerate(said) if each), None)) is not None:
            raise ValueError(f"{said[first]} (process {first})")
        return result[0]
