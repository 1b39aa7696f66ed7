"""Reading ahead changes when a batch is read, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.loader import Batch, TokenLoader
from tasks.mixture import MixtureSource, open_corpora
from tasks.pack import TokenShards
from tasks.read_ahead import ReadAhead
from tests.tasks.packed_texts import pack_texts

NUM_STEPS = 12


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {f"{number:03d}": f"text {number}" for number in range(100)}
    return pack_texts(tmp_path_factory.mktemp("packed") / "web", texts)


class Watched(TokenLoader):
    """The real one; tells which step was read."""

    def __init__(self, tokens: Path) -> None:
        super().__init__(TokenShards(tokens), seq_len=16, global_batch_sequences=4, seed=3)
        self.steps_read: list[int] = []
        self.changed = threading.Condition()

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        batch = super().batch(step, rank=rank, world_size=world_size)
        with self.changed:
            self.steps_read.append(step)
            self.changed.notify_all()
        return batch


@pytest.fixture
def loader(tokens: Path) -> Iterator[Watched]:
    yield Watched(tokens)


@settings(max_examples=40)
@given(steps=st.lists(st.integers(0, NUM_STEPS - 1), max_size=8), rank=st.integers(0, 1))
def test_any_order_of_steps_gives_the_loaders_batches(tokens: Path, steps: list[int], rank: int):
    loader = Watched(tokens)
    with closing(ReadAhead(loader, num_steps=NUM_STEPS, rank=rank, world_size=2)) as ahead:
        for step in steps:
            batch, expected = ahead.batch(step), loader.batch(step, rank=rank, world_size=2)
            assert batch.sequence_ids == expected.sequence_ids
            assert batch.corpus_of_sequence == expected.corpus_of_sequence
            for name in ("inputs_BT", "targets_BT", "document_ids_BT"):
                assert np.array_equal(getattr(batch, name), getattr(expected, name))


def test_the_next_step_is_read_without_being_asked_for(loader: Watched):
    with closing(ReadAhead(loader, num_steps=NUM_STEPS)) as ahead:
        for step in (0, 1, 7):
            ahead.batch(step)
            with loader.changed:
                assert loader.changed.wait_for(lambda step=step: step + 1 in loader.steps_read, timeout=10)
    assert loader.steps_read == [0, 1, 2, 7, 8]  # each once; 2 in vain


def test_nothing_is_read_beyond_the_end(loader: Watched):
    with closing(ReadAhead(loader, num_steps=NUM_STEPS)) as ahead:
        ahead.batch(NUM_STEPS - 2)
        ahead.batch(NUM_STEPS - 1)
    assert loader.steps_read == [NUM_STEPS - 2, NUM_STEPS - 1]


def test_an_error_belongs_to_the_step_asked_for(tokens: Path):
    """Two steps are left by the cap; the third one's error comes when it is asked for, not with the second."""
    corpora = open_corpora([MixtureSource(corpus="web", tokens_dir=tokens, max_tokens=2 * 4 * 16)])
    loader = TokenLoader(corpora, seq_len=16, global_batch_sequences=4, seed=0)
    with closing(ReadAhead(loader, num_steps=3)) as ahead:
        ahead.batch(0)
        assert ahead.batch(1).sequence_ids == [4, 5, 6, 7]
        with pytest.raises(ValueError, match="step 3 is beyond the 2"):
            ahead.batch(2)
