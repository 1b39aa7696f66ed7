"""What a plan says of a mixture is what the loader draws of shards of that size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.planned_mixture import CorpusFacts, PlannedMixture

SEQ_LEN = 64


def facts(name: str, sequences: int, **share: float | int | None) -> CorpusFacts:
    tokens = sequences * SEQ_LEN * 2  # half of them are held out
    return CorpusFacts(reference=name, estimated_tokens=tokens, documents=10, **share)  # type: ignore[arg-type]


def mixture(*corpora: CorpusFacts) -> PlannedMixture:
    return PlannedMixture(corpora, held_out_fraction=0.5, seq_len=SEQ_LEN)


def test_by_weight() -> None:
    planned = mixture(facts("docs@1", 1000), facts("news@1", 100, weight=0.25))
    assert planned.tokens_per_epoch == 1100 * SEQ_LEN and planned.num_steps(77, 10 * SEQ_LEN) == 77
    docs, news = planned.shares(1000 * SEQ_LEN)
    assert (docs.corpus, docs.tokens, docs.epochs, docs.weight) == ("docs@1", 800 * SEQ_LEN, 0.8, 1.0)
    assert (news.corpus, news.tokens, news.epochs, news.weight) == ("news@1", 200 * SEQ_LEN, 2.0, 0.25)


def test_a_corpus_that_has_reached_its_cap_leaves_its_share_to_the_others() -> None:
    for cap in ({"max_epochs": 0.5}, {"max_tokens": 50 * SEQ_LEN}):
        docs, news = mixture(facts("docs@1", 1000), facts("news@1", 100, **cap)).shares(400 * SEQ_LEN)
        assert (docs.tokens, news.tokens) == (350 * SEQ_LEN, 50 * SEQ_LEN)


def test_where_all_are_capped_the_run_is_shorter_and_one_batch_is_the_least() -> None:
    capped = mixture(facts("docs@1", 100, max_epochs=1), facts("news@1", 100, max_tokens=50 * SEQ_LEN))
    assert capped.num_steps(100, 10 * SEQ_LEN) == 15 and capped.num_steps(15, 10 * SEQ_LEN) == 15
    assert capped.num_steps(14, 10 * SEQ_LEN) == 14
    assert capped.num_steps(9, 150 * SEQ_LEN) == 1
    with pytest.raises(ValueError, match="leave 150 sequences of 64 in all, not one batch of 9664 tokens"):
        capped.num_steps(9, 151 * SEQ_LEN)
    with pytest.raises(ValueError, match="'news@1' of the mixture: max_epochs and max_tokens leave no whole sequence"):
        mixture(facts("docs@1", 100), facts("news@1", 100, max_tokens=SEQ_LEN - 1))


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0]), min_size=4, max_size=4),
    sequences=st.integers(0, 2000),
)
def test_the_shares_are_the_whole_run(sizes: list[int], weights: list[float], sequences: int) -> None:
    corpora = [facts(f"c{n}@1", size, weight=weights[n]) for n, size in enumerate(sizes)]
    shares = mixture(*corpora).shares(sequences * SEQ_LEN)
    assert sum(share.tokens for share in shares) == sequences * SEQ_LEN
    for share in shares:
        expected = sequences * share.weight / sum(weights[: len(sizes)])
        assert abs(share.tokens / SEQ_LEN - expected) < 1
