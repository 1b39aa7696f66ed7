"""What the core needs from outside, as a protocol, with an in-process version for tests and small work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class ShardMap(Protocol):
    """Runs one function over many shards, somewhere. The function and its items must be picklable by reference."""

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        """Results in the order of `items`. `on_done(index, result)` is called in the caller as shards complete.

        Raises the first shard's error as `ShardError`, after no further shard has been started.
        """
        ...


class ShardError(RuntimeError):
    """A shard failed: which one, in which stage, and why."""

    def __init__(self, stage: str, shard: int, cause: str) -> None:
        super().__init__(f"stage {stage!r}, shard {shard}: {cause}")
        self.stage, self.shard, self.cause = stage, shard, cause

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, int, str]]:
        return type(self), (self.stage, self.shard, self.cause)


class WorkerLostError(ShardError):
    """A shard's worker died under it (killed, out of memory, its machine gone); a second try may well pass."""


class InProcessMap:
    """`ShardMap` without any engine: one shard after the other, here."""

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        *,
        name: str,
        on_done: Callable[[int, R], None] | None = None,
    ) -> list[R]:
        results: list[R] = []
        for index, item in enumerate(items):
            try:
                result = function(item)
            except Exception as error:
                raise ShardError(name, index, f"{type(error).__name__}: {error}") from error
            results.append(result)
            if on_done is not None:
                on_done(index, result)
        return results
