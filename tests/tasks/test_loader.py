"""The order of the data: a pure function of the step, the same for any number of processes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.loader import TokenLoader, batch_hash, permuted
from tasks.pack import TokenShards, tokenize_bucket, write_token_manifest
from tasks.tokenizer import HeldOutSplit, TokenizerConfig, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """Two buckets of short documents, 10 bytes each but for the digits: about 900 training tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    split = HeldOutSplit(fraction=0.1)
    save_tokenizer(train_tokenizer(["plain"], TokenizerConfig(vocab_size=259)), folder / "tokenizer.json")
    reports = []
    for bucket in range(2):
        ids = [f"{bucket}-{number:03d}" for number in range(40)]
        columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids)
        columns["text"] = [f"{name} text." for name in ids]
        file = folder / f"bucket-{bucket:03d}.parquet"
        pq.write_table(pa.table(columns), file)
        reports.append(tokenize_bucket(file, folder / "tokenizer.json", folder / "tokens", split=split))
    write_token_manifest(
        folder / "tokens", reports, tokenizer_file=folder / "tokenizer.json", corpus_digest="", split=split
    )
    return TokenShards(folder / "tokens")


def loader_of(shards: TokenShards, *, seq_len: int = 16, batch: int = 6, seed: int = 0) -> TokenLoader:
    return TokenLoader(shards, seq_len=seq_len, global_batch_sequences=batch, seed=seed)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size, key):
    assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


def test_permutation_is_fixed_for_good():
    assert [permuted(index, 10, 0) for index in range(10)] == [2, 5, 1, 4, 3, 6, 9, 8, 0, 7]


def test_permutation_spreads_evenly():
    """Over many keys each index lands in each of 8 places equally often: chi-squared with 49 degrees of freedom."""
    size, keys = 8, 4000
    counts = np.zeros((size, size))
    for key in range(keys):
        for index in range(size):
            counts[index, permuted(index, size, key)] += 1
    expected = keys / size
    assert ((counts - expected) ** 2 / expected).sum() < 95  # 99.99 % quantile of chi2(49) is 94.9


def test_an_epoch_predicts_each_token_once(shards: TokenShards):
    loader = loader_of(shards)
    starts = sorted(loader.start_of(number) for number in range(loader.num_sequences))
    assert starts == [number * 16 for number in range(loader.num_sequences)]
    assert loader.num_sequences * 16 + loader.num_leftover_tokens == shards.num_tokens - 1
    assert 0 <= loader.num_leftover_tokens < 16


def test_targets_are_the_next_tokens(shards: TokenShards):
    loader = loader_of(shards)
    batch = loader.batch(3)
    for row, sequence_id in enumerate(batch.sequence_ids):
        start = loader.start_of(sequence_id)
        assert np.array_equal(batch.inputs_BT[row], shards.read(start, start + 16))
        assert np.array_equal(batch.targets_BT[row], shards.read(start + 1, start + 17))


@settings(deadline=None)
@given(step=st.integers(0, 500), world_size=st.sampled_from([1, 2, 3, 6]), seed=st.integers(0, 3))
def test_any_number_of_processes_sees_the_same_batch(shards, step, world_size, seed):
    loader = loader_of(shards, seed=seed)
    whole = loader.batch(step)
    shares = [loader.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [number for share in shares for number in share.sequence_ids] == whole.sequence_ids
    assert np.array_equal(np.concatenate([share.inputs_BT for share in shares]), whole.inputs_BT)
    assert np.array_equal(np.concatenate([share.targets_BT for share in shares]), whole.targets_BT)


def test_steps_run_through_epochs_without_gap(shards: TokenShards):
    loader = loader_of(shards)
    ids = [number for step in range(40) for number in loader.batch(step).sequence_ids]
    assert ids == list(range(240))
    assert 3 * loader.num_sequences < 240
    for epoch in range(3):
        first = epoch * loader.num_sequences
        assert (
            len({loader.start_of(number) for number in range(first, first + loader.num_sequences)})
            == loader.num_sequences
        )


def test_epochs_and_seeds_have_their_own_order(shards: TokenShards):
    loader = loader_of(shards)
    orders = {
        tuple(
            loader_of(shards, seed=seed).start_of(epoch * loader.num_sequences + number)
            for number in range(loader.num_sequences)
        )
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_hash_tells_batches_apart(shards: TokenShards):
    loader = loader_of(shards)
    hashes = [batch_hash(loader.batch(step)) for step in range(8)]
    assert len(set(hashes)) == 8
    assert hashes == [batch_hash(loader_of(shards).batch(step)) for step in range(8)]
    batch = loader.batch(0)
    batch.targets_BT[2, -1] += 1
    assert batch_hash(batch) != hashes[0]


def test_documents_of_a_sequence(shards: TokenShards):
    loader = loader_of(shards)
    for sequence_id in (0, 7, loader.num_sequences + 1):
        start = loader.start_of(sequence_id)
        expected = [shards.document_at(position).document_id for position in range(start, start + 17)]
        found = [document.document_id for document in loader.documents_at(sequence_id)]
        assert found == list(dict.fromkeys(expected))


def test_corpus_smaller_than_a_batch_is_refused(shards: TokenShards):
    sequences = (shards.num_tokens - 1) // 16
    assert loader_of(shards, batch=sequences).num_sequences == sequences
    with pytest.raises(ValueError, match=rf"{sequences} sequences of 16; one batch needs {sequences + 1}"):
        loader_of(shards, batch=sequences + 1)


def test_batch_that_can_not_be_shared_is_refused(shards: TokenShards):
    with pytest.raises(ValueError, match="6 sequences can not be shared by 4"):
        loader_of(shards).batch(0, rank=0, world_size=4)
