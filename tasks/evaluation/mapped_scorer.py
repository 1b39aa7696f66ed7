"""A scorer on several workers: requests are cut into files, and each worker loads the network once.

The files lie in a folder that every worker reaches, under names that nobody else uses, and are removed when their
results have been read:

    <name>-00003.requests.npz   tokens of all contexts, of all continuations, and the length of each
    <name>-00003.scores.npz     log-probabilities in nats, and whether they are greedy
"""

from __future__ import annotations

import functools
import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.atomic import write_file
from tasks.checkpoints import load_decoder
from tasks.evaluation.loglikelihood import LocalScorer, OnDone, Pair
from tasks.ports import ShardMap


@dataclass(frozen=True, slots=True)
class RequestShard:
    """One worker's share."""

    model_folder: str  # a checkpoint, by path or URL
    requests: Path
    scores: Path


@functools.lru_cache(maxsize=1)
def _scorer(model_folder: str) -> LocalScorer:
    """Kept by a worker for all of its shards: a checkpoint's folder never changes once it is complete."""
    return LocalScorer(load_decoder(model_folder)[0])


def score_shard(shard: RequestShard) -> int:
    """Score a file of requests into another; returns how many there were."""
    with np.load(shard.requests, allow_pickle=False) as stored:
        contexts = np.split(stored["contexts"], np.cumsum(stored["context_lengths"])[:-1])
        continuations = np.split(stored["continuations"], np.cumsum(stored["continuation_lengths"])[:-1])
    pairs = [(a.tolist(), b.tolist()) for a, b in zip(contexts, continuations, strict=True)]
    found = _scorer(shard.model_folder).loglikelihoods(pairs)
    nats, greedy = zip(*found, strict=True)
    _write(shard.scores, nats=np.array(nats), greedy=np.array(greedy))
    return len(pairs)


class MappedScorer:
    """A network on the workers of a `ShardMap`; a `Scorer`. Shards are of like size in tokens."""

    def __init__(
        self,
        shard_map: ShardMap,
        model_folder: str,
        work_dir: Path,
        *,
        max_positions: int,
        vocab_size: int,
        num_shards: int,
        stage: str = "evaluate",
    ) -> None:
        """`work_dir` is reached by every worker; `stage` names the work in errors and in the engine."""
        assert num_shards >= 1
        self._shard_map = shard_map
        self._model_folder = model_folder
        self._work_dir = work_dir
        self._max_positions = max_positions
        self._vocab_size = vocab_size
        self._num_shards = num_shards
        self._stage = stage

    @property
    def max_positions(self) -> int:
        return self._max_positions

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    def loglikelihoods(self, pairs: Sequence[Pair], *, on_done: OnDone | None = None) -> list[tuple[float, bool]]:
        """See `Scorer`. Raises the first shard's error as `ShardError`, which says what it was."""
        self._work_dir.mkdir(parents=True, exist_ok=True)
        if not pairs:
            return []
        # a worker that was given up may still write: never into what a later call reads
        name = uuid.uuid4().hex[:12]
        parts = cut(pairs, self._num_shards)
        shards = [self._written(f"{name}-{number:05d}", part) for number, part in enumerate(parts)]

        def shard_done(number: int, num_pairs: int) -> None:
            if on_done is not None:
                on_done(num_pairs)

        results: list[tuple[float, bool]] = []
        try:
            self._shard_map.map(score_shard, shards, name=self._stage, on_done=shard_done)
            for shard in shards:
                with np.load(shard.scores, allow_pickle=False) as stored:
                    results += zip(stored["nats"].tolist(), stored["greedy"].tolist(), strict=True)
        finally:
            for shard in shards:
                shard.requests.unlink(missing_ok=True)
                shard.scores.unlink(missing_ok=True)
        return results

    def _written(self, name: str, pairs: Sequence[Pair]) -> RequestShard:
        shard = RequestShard(
            self._model_folder,
            self._work_dir / f"{name}.requests.npz",
            self._work_dir / f"{name}.scores.npz",
        )
        contexts, continuations = zip(*pairs, strict=True)
        _write(
            shard.requests,
            contexts=np.array([token for tokens in contexts for token in tokens], dtype=np.int32),
            continuations=np.array([token for tokens in continuations for token in tokens], dtype=np.int32),
            context_lengths=np.array([len(tokens) for tokens in contexts]),
            continuation_lengths=np.array([len(tokens) for tokens in continuations]),
        )
        return shard


def cut(pairs: Sequence[Pair], num_shards: int) -> list[Sequence[Pair]]:
    """At most `num_shards` runs of consecutive pairs with about as many tokens each; none is empty.

    Pairs with the same context as the one before stay with it: the choices of a question are one pass.
    """
    sizes = np.cumsum([len(context) + len(continuation) for context, continuation in pairs])
    starts = [0]
    for number in range(1, num_shards):
        start = int(np.searchsorted(sizes, sizes[-1] * number / num_shards))
        while (
            0 < start < len(pairs) and list(pairs[start][0]) == list(pairs[start - 1][0]) and len(pairs[start][0]) > 1
        ):
            start += 1
        if starts[-1] < start < len(pairs):
            starts.append(start)
    return [pairs[start:end] for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True) if end > start]


def _write(file: Path, **arrays: np.ndarray) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(file, content.getvalue())
