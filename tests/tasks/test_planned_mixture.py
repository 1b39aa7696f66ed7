"""What a plan says of a mixture is what the loader draws of shards of that size."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.loader import TokenLoader
from tasks.mixture import MixedCorpus, MixtureSource
from tasks.pack import TokenShards
from tasks.planned_mixture import CorpusFacts, CountedTokens, PlannedMixture, bytes_per_token, counted_tokens
from tests.data.prose import prose
from tests.tasks.packed_texts import pack_texts

SEQ_LEN = 64
VOCAB_SIZE = 14_099  # about 4 bytes a token


def facts(name: str, sequences: int, **share: float | int | None) -> CorpusFacts:
    counted = CountedTokens(train=sequences * SEQ_LEN + 1, held_out=sequences * SEQ_LEN)
    tokens = counted.train + counted.held_out
    return CorpusFacts(reference=name, estimated_tokens=tokens, documents=10, counted=counted, **share)  # type: ignore[arg-type]


def estimated(name: str, sequences: int, weight: float = 1.0) -> CorpusFacts:
    """Half of them held out, under a vocabulary of the estimate's bytes a token."""
    return CorpusFacts(
        reference=name, estimated_tokens=2 * (sequences * SEQ_LEN + SEQ_LEN // 2), documents=10, weight=weight
    )


def mixture(*corpora: CorpusFacts) -> PlannedMixture:
    return PlannedMixture(corpora, held_out_fraction=0.5, seq_len=SEQ_LEN, vocab_size=VOCAB_SIZE)


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


def test_a_larger_vocabulary_has_more_bytes_a_token() -> None:
    assert [bytes_per_token(size) for size in (259, 2048, 50_257)] == [1.0, 2.92, 4.4]
    sizes = [259, 260, 400, 512, 513, 2000, 2048, 10_000, 16_384, 40_000, 50_256, 50_257]
    found = [bytes_per_token(size) for size in sizes]
    assert found == sorted(set(found))
    assert bytes_per_token(50_257) == bytes_per_token(200_000)
    assert bytes_per_token(VOCAB_SIZE) == pytest.approx(4.0, abs=0.01)


def test_tokens_are_counted_where_they_were_made_with_the_same_tokenizer_and_split(tmp_path: Path) -> None:
    texts = {f"{number:032x}-0": prose(f"counted/{number}", 60) for number in range(40)}
    tokens = pack_texts(tmp_path / "docs", texts, held_out=0.2)
    train, held_out = TokenShards(tokens), TokenShards(tokens, "held_out")
    right = {"tokenizer_sha256": train.tokenizer_sha256, "held_out_fraction": 0.2}
    counted = counted_tokens([tokens], **right)  # type: ignore[arg-type]
    assert counted == CountedTokens(train=train.num_tokens, held_out=held_out.num_tokens)
    other = right | {"tokenizer_sha256": "0" * 64}
    assert counted_tokens([tokens], **other) is None  # type: ignore[arg-type]
    assert counted_tokens([tokens], **(right | {"held_out_fraction": 0.1})) is None  # type: ignore[arg-type]
    assert counted_tokens([], **right) is None  # type: ignore[arg-type]
    # and then the plan's passes are the loader's, and what it refuses is what the loader refuses
    known = CorpusFacts(reference="docs@1", estimated_tokens=1, documents=40, counted=counted)
    corpora = (MixedCorpus(MixtureSource(corpus="docs", tokens_dir=tokens), train),)
    sequences = TokenLoader(corpora, seq_len=SEQ_LEN, global_batch_sequences=1, seed=0).num_sequences
    assert mixture(known).tokens_per_epoch == sequences * SEQ_LEN
    mixture(known).check_batch(sequences * SEQ_LEN)
    TokenLoader(corpora, seq_len=SEQ_LEN, global_batch_sequences=sequences, seed=0)
    with pytest.raises(ValueError, match=f"it fits with global_batch_tokens={sequences * SEQ_LEN},"):
        mixture(known).check_batch((sequences + 1) * SEQ_LEN)
    with pytest.raises(ValueError, match="one batch needs"):
        TokenLoader(corpora, seq_len=SEQ_LEN, global_batch_sequences=sequences + 1, seed=0)


def test_a_corpus_smaller_than_its_part_of_a_batch_is_refused_with_what_fits() -> None:
    mixed = mixture(facts("docs@1", 100), facts("news@1", 10, weight=0.25))
    mixed.check_batch(50 * SEQ_LEN)
    with pytest.raises(
        ValueError, match=r"news@1 has 641 tokens .* 10 sequences of 64; one batch needs 11 of it"
    ) as no:
        mixed.check_batch(51 * SEQ_LEN)
    assert f"it fits with global_batch_tokens={50 * SEQ_LEN}," in str(no.value) and "\n" not in str(no.value)
    with pytest.raises(ValueError, match=f"global_batch_tokens={48 * SEQ_LEN},"):
        mixed.check_batch(64 * SEQ_LEN, num_shares=16)
    with pytest.raises(ValueError, match="use a smaller seq_len, or use a larger corpus"):
        mixed.check_batch(64 * SEQ_LEN, num_shares=64)


def test_an_estimated_corpus_is_refused_where_it_is_clearly_too_small() -> None:
    about = mixture(estimated("docs@1", 100))
    about.check_batch(200 * SEQ_LEN)  # twice the estimate
    with pytest.raises(ValueError, match=r"docs@1 has about 6,42\d tokens .* it fits with global_batch_tokens=6400,"):
        about.check_batch(201 * SEQ_LEN)
