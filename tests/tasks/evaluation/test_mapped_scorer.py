"""The same scores from files, however they are cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.checkpoints import load_decoder
from tasks.evaluation.loglikelihood import LocalScorer, Pair
from tasks.evaluation.mapped_scorer import MappedScorer, cut
from tasks.ports import InProcessMap, ShardError
from tests.infra.small_model import small_model


def pairs_of(num_questions: int) -> list[Pair]:
    return [
        ([1, *range(10, 14 + number % 5)], [20 + choice, 30 + number])
        for number in range(num_questions)
        for choice in range(3)
    ]


def scorer(folder: Path, checkpoint: Path, num_shards: int) -> MappedScorer:
    return MappedScorer(
        InProcessMap(), str(checkpoint), folder, max_positions=64, vocab_size=320, num_shards=num_shards
    )


@pytest.mark.parametrize("num_shards", [1, 3, 100])
def test_agrees_with_the_network_in_one_process(tmp_path: Path, num_shards: int):
    checkpoint, _ = small_model(tmp_path / "model")
    pairs, told = pairs_of(8), []
    expected = LocalScorer(load_decoder(checkpoint)[0]).loglikelihoods(pairs)
    mapped = scorer(tmp_path / "work", checkpoint, num_shards)
    found = mapped.loglikelihoods(pairs, on_done=told.append)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert sum(told) == len(pairs)
    assert len(told) == min(num_shards, 8)
    assert list((tmp_path / "work").iterdir()) == []
    assert mapped.loglikelihoods([]) == []


def test_a_damaged_checkpoint_is_a_named_failure_that_leaves_no_files(tmp_path: Path):
    with pytest.raises(ShardError, match=r"stage 'evaluate', shard 0: .*ValueError"):
        scorer(tmp_path / "work", tmp_path / "absent", 2).loglikelihoods(pairs_of(4))
    assert list((tmp_path / "work").iterdir()) == []


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 9))
def test_cuts_are_runs_that_keep_questions_together(contexts: list[int], num_shards: int):
    pairs: list[Pair] = [([1, 10 + context], [number]) for number, context in enumerate(contexts)]
    parts = cut(pairs, num_shards) if pairs else []
    assert [pair for part in parts for pair in part] == pairs
    assert len(parts) <= num_shards
    assert all(parts)
    for before, after in pairwise(parts):
        assert before[-1][0] != after[0][0]
