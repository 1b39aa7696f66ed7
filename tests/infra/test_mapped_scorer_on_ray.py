"""Tasks scored by two processes of a real local Ray cluster, each of which loads the network from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.ray_map import ray_cluster
from tasks.checkpoints import load_decoder
from tasks.evaluation.harness import evaluate_tasks
from tasks.evaluation.loglikelihood import LocalScorer
from tasks.evaluation.mapped_scorer import MappedScorer
from tasks.evaluation.task_pack import load_pack
from tasks.tokenizer import load_tokenizer
from tests.infra.small_model import small_model


@pytest.mark.verify
def test_two_workers_give_the_results_of_one_process(tmp_path: Path):
    checkpoint, tokenizer_file = small_model(tmp_path / "model")
    model, _ = load_decoder(checkpoint)
    tokenizer, pack = load_tokenizer(tokenizer_file), load_pack("basics")
    expected = evaluate_tasks(LocalScorer(model), tokenizer, pack)
    with ray_cluster(2) as shard_map:
        scorer = MappedScorer(
            shard_map,
            str(checkpoint),
            tmp_path / "work",
            max_positions=model.config.max_seq_len,
            vocab_size=model.config.vocab_size,
            num_shards=4,
        )
        found = evaluate_tasks(scorer, tokenizer, pack)
    assert [result.task for result in found] == ["agreement", "everyday", "python", "last_words"]
    for one, other in zip(expected, found, strict=True):
        assert other.metrics == pytest.approx(one.metrics, rel=1e-4)
        assert [example.id for example in other.examples] == [example.id for example in one.examples]
        same = sum(
            a.values == pytest.approx(b.values, rel=1e-4) for a, b in zip(one.examples, other.examples, strict=True)
        )
        assert same == len(one.examples)
