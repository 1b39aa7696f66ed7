"""The order of the data: a pure function of the step, for any number of processes; nothing is lost or repeated."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention import dense_document_mask
from tasks.loader import (
    Batch,
    TokenLoader,
    batch_digest,
    batch_hash,
    combined_hash,
    permuted,
)
from tasks.mixture import MixedCorpus, MixtureSource, open_corpora
from tasks.pack import TokenShards
from tests.tasks.packed_texts import pack_texts

BATCH, SEQ_LEN = 6, 16
SHARES = st.sampled_from([1, 2, 3, 6])


def texts(prefix: str, num_documents: int) -> dict[str, str]:
    return {f"{prefix}-{number:03d}": f"{prefix}-{number:03d} text." for number in range(num_documents)}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two buckets of short documents, of 12 tokens each: 960 tokens, 59 sequences."""
    return pack_texts(tmp_path_factory.mktemp("corpora") / "web", texts("0", 40), texts("1", 40))


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents longer and shorter than a sequence, 312 tokens, 19 sequences."""
    lengths = (40, 3, 100, 1, 1, 60, 100)
    return pack_texts(
        tmp_path_factory.mktemp("corpora") / "books", {f"b{n}": chr(97 + n) * m for n, m in enumerate(lengths)}
    )


@pytest.fixture(scope="module")
def shards(web: Path) -> TokenShards:
    return TokenShards(web)


@pytest.fixture(scope="module")
def mixed(web: Path, books: Path) -> tuple[MixedCorpus, ...]:
    """Without caps: 2 of 3 sequences are web's."""
    return open_corpora([source("web", web, weight=2), source("books", books)])


def source(corpus: str, tokens_dir: Path, **values: float) -> MixtureSource:
    return MixtureSource.model_validate({"corpus": corpus, "tokens_dir": tokens_dir} | values)


def loader_of(corpora: TokenShards | tuple[MixedCorpus, ...], *, batch: int = BATCH, seed: int = 0) -> TokenLoader:
    return TokenLoader(corpora, seq_len=SEQ_LEN, global_batch_sequences=batch, seed=seed)


def order(size: int, key: int) -> list[int]:
    indices = np.arange(size, dtype=np.uint64)
    return permuted(indices, size, np.full(size, key, np.uint64)).tolist()


@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size: int, key: int):
    assert sorted(order(size, key)) == list(range(size))


def test_permutation_is_fixed_for_good():
    assert order(10, 0) == [2, 5, 1, 4, 3, 6, 9, 8, 0, 7]
    assert order(1, 5) == [0]


def test_the_order_of_a_corpus_is_fixed_for_good(shards: TokenShards):
    """A run that was begun must be continued in the order it had."""
    starts = [loader_of(shards, seed=seed).place(number)[1] // SEQ_LEN for seed in (0, 7) for number in (0, 1, 58, 59)]
    assert starts == [30, 25, 4, 56, 42, 46, 10, 50]


def test_permutation_spreads_evenly():
    """Over many keys each index lands in each of 8 places equally often: chi-squared with 49 degrees of freedom."""
    size, keys = 8, 4000
    counts = np.zeros((size, size))
    for index in range(size):
        places = permuted(np.full(keys, index, np.uint64), size, np.arange(keys, dtype=np.uint64))
        counts[index] = np.bincount(places.astype(np.int64), minlength=size)
    expected = keys / size
    assert ((counts - expected) ** 2 / expected).sum() < 95  # 99.99 % quantile of chi2(49) is 94.9


def test_an_epoch_predicts_each_token_once(shards: TokenShards):
    loader = loader_of(shards)
    starts = sorted(loader.place(number)[1] for number in range(loader.num_sequences))
    assert starts == [number * SEQ_LEN for number in range(loader.num_sequences)]
    assert loader.num_sequences * SEQ_LEN + loader.num_leftover_tokens == shards.num_tokens - 1
    assert 0 <= loader.num_leftover_tokens < SEQ_LEN
    assert loader.max_steps is None


@pytest.mark.parametrize("step", [0, 3, 9, 10, 11])
def test_targets_are_the_next_tokens(mixed: tuple[MixedCorpus, ...], step: int):
    loader = loader_of(mixed)
    batch = loader.batch(step)
    for row, sequence_id in enumerate(batch.sequence_ids):
        number, start = loader.place(sequence_id)
        tokens = mixed[number].shards.read(start, start + SEQ_LEN + 1)
        assert batch.corpus_of_sequence[row] == number
        assert np.array_equal(batch.inputs_BT[row], tokens[:-1])
        assert np.array_equal(batch.targets_BT[row], tokens[1:])


def test_document_ids_number_the_documents_of_a_row(mixed: tuple[MixedCorpus, ...]):
    loader = loader_of(mixed)
    batches = [loader.batch(step) for step in range(30)]
    found = 0
    for batch in batches:
        assert batch.document_ids_BT.dtype == np.int32
        for row, sequence_id in enumerate(batch.sequence_ids):
            number, start = loader.place(sequence_id)
            names = [
                mixed[number].shards.document_at(position).document_id for position in range(start, start + SEQ_LEN)
            ]
            runs = [list(dict.fromkeys(names)).index(name) for name in names]
            assert batch.document_ids_BT[row].tolist() == runs
            found = max(found, runs[-1])
    assert found >= 2  # rows with three documents and more were among them


def test_no_position_looks_into_another_document(shards: TokenShards):
    loader = loader_of(shards)
    batch = loader.batch(0)
    mask = dense_document_mask(torch.from_numpy(batch.document_ids_BT))
    for row, sequence_id in enumerate(batch.sequence_ids):
        start = loader.place(sequence_id)[1]
        names = [shards.document_at(position).document_id for position in range(start, start + SEQ_LEN)]
        allowed = [[key <= query and names[key] == names[query] for key in range(SEQ_LEN)] for query in range(SEQ_LEN)]
        assert mask[row, 0].tolist() == allowed


def assert_equal(shares: list[Batch], whole: Batch) -> None:
    for name in ("inputs_BT", "targets_BT", "document_ids_BT"):
        assert np.array_equal(np.concatenate([getattr(share, name) for share in shares]), getattr(whole, name)), name
    for name in ("sequence_ids", "corpus_of_sequence"):
        assert [number for share in shares for number in getattr(share, name)] == getattr(whole, name), name


@settings(max_examples=50)
@given(step=st.integers(0, 5000), world_size=SHARES, seed=st.integers(0, 2**63 - 1))
def test_any_number_of_processes_sees_the_same_batch(
    mixed: tuple[MixedCorpus, ...], step: int, world_size: int, seed: int
):
    whole = loader_of(mixed, seed=seed).batch(step)
    loaders = [loader_of(mixed, seed=seed) for _ in range(world_size)]
    shares = [loader.batch(step, rank=rank, world_size=world_size) for rank, loader in enumerate(loaders)]
    assert_equal(shares, whole)
    assert combined_hash(sum(batch_digest(share) for share in shares)) == batch_hash(whole)


@given(step=st.integers(0, 5000), microbatch=st.integers(1, BATCH))
def test_the_hash_does_not_know_of_microbatches(shards: TokenShards, step: int, microbatch: int):
    whole = loader_of(shards).batch(step)
    pieces = [
        Batch(*(getattr(whole, field.name)[first : first + microbatch] for field in dataclasses.fields(Batch)))
        for first in range(0, BATCH, microbatch)
    ]
    assert combined_hash(sum(map(batch_digest, pieces))) == batch_hash(whole)


@settings(max_examples=25)
@given(restarts=st.lists(st.integers(0, 40), max_size=4), worlds=st.lists(SHARES, min_size=5, max_size=5))
def test_restarts_with_other_processes_change_nothing(
    mixed: tuple[MixedCorpus, ...], restarts: list[int], worlds: list[int]
):
    """Killed at any steps, each time continued by another number of processes."""
    undisturbed = loader_of(mixed)
    bounds = [0, *sorted(restarts), 40]
    found = []
    for first, stop, world_size in zip(bounds, bounds[1:], worlds, strict=False):
        loaders = [loader_of(mixed) for _ in range(world_size)]
        found += [
            combined_hash(
                sum(
                    batch_digest(each.batch(step, rank=rank, world_size=world_size))
                    for rank, each in enumerate(loaders)
                )
            )
            for step in range(first, stop)
        ]
    assert found == [batch_hash(undisturbed.batch(step)) for step in range(40)]


def test_steps_run_through_epochs_without_gap(shards: TokenShards):
    loader = loader_of(shards)
    ids = [number for step in range(40) for number in loader.batch(step).sequence_ids]
    assert ids == list(range(240))
    assert 3 * loader.num_sequences < 240
    for epoch in range(3):
        first = epoch * loader.num_sequences
        starts = {loader.place(number) for number in range(first, first + loader.num_sequences)}
        assert len(starts) == loader.num_sequences


def test_epochs_corpora_and_seeds_have_their_own_order(web: Path, tmp_path: Path):
    twin = pack_texts(tmp_path / "twin", texts("2", 40), texts("3", 40))  # of the same size
    corpora = open_corpora([source("web", web), source("twin", twin)])
    size = loader_of(corpora[:1]).num_sequences
    orders = set()
    for seed in (0, 10, 20):
        loader = loader_of(corpora, seed=seed)
        starts = [loader.place(number) for number in range(6 * size)]
        for corpus in (0, 1):
            own = [start for number, start in starts if number == corpus]
            orders |= {tuple(own[epoch * size : (epoch + 1) * size]) for epoch in range(3)}
    assert len(orders) == 3 * 2 * 3
    assert {tuple(sorted(each)) for each in orders} == {tuple(range(0, size * SEQ_LEN, SEQ_LEN))}


@settings(max_examples=30)
@given(weights=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_no_sequence_of_a_mixture_is_lost_or_repeated(web: Path, books: Path, weights: tuple[int, int], seed: int):
    corpora = open_corpora([source("web", web, weight=weights[0]), source("books", books, weight=weights[1])])
    loader = loader_of(corpora, seed=seed)
    places = [loader.place(number) for number in range(300)]
    for number, corpus in enumerate(corpora):
        size = (corpus.shards.num_tokens - 1) // SEQ_LEN
        own = [start for each, start in places if each == number]
        for first in range(0, len(own), size):
            epoch = own[first : first + size]
            assert len(set(epoch)) == len(epoch)
            if len(epoch) == size:
                assert sorted(epoch) == list(range(0, size * SEQ_LEN, SEQ_LEN))


def test_what_was_drawn_is_what_the_batches_held(mixed: tuple[MixedCorpus, ...]):
    loader = loader_of(mixed)
    counted: Counter[int] = Counter()
    for step in range(20):
        for drawn, number in zip(loader.drawn(step), range(2), strict=True):
            assert drawn.tokens == counted[number] * SEQ_LEN
        counted.update(loader.batch(step).corpus_of_sequence)
    web, books = loader.drawn(20)
    assert (web.corpus, web.tokens, books.corpus, books.tokens) == ("web", 80 * SEQ_LEN, "books", 40 * SEQ_LEN)
    assert (web.epochs, books.epochs) == (80 / 59, 40 / 19)


def test_caps_are_exact_and_then_the_others_take_the_share(web: Path, books: Path):
    """Books' 19 sequences may be drawn 1.5 times, in whole sequences 28."""
    corpora = open_corpora([source("web", web, max_tokens=50 * SEQ_LEN), source("books", books, max_epochs=1.5)])
    loader = loader_of(corpora)
    assert loader.max_steps == (50 + 28) // BATCH == 13
    steps = [loader.batch(step).corpus_of_sequence for step in range(13)]
    assert Counter(number for step in steps for number in step) == {0: 50, 1: 28}
    assert steps[0].count(1) == 3
    assert steps[10] == [0] * BATCH
    assert [drawn.tokens for drawn in loader.drawn(13)] == [50 * SEQ_LEN, 28 * SEQ_LEN]
    with pytest.raises(ValueError, match="step 14 is beyond the 13 that the corpora's max_epochs and max_tokens leave"):
        loader.batch(13)


def test_hash_tells_batches_apart(shards: TokenShards):
    loader = loader_of(shards)
    hashes = [batch_hash(loader.batch(step)) for step in range(8)]
    assert len(set(hashes)) == 8
    assert hashes == [batch_hash(loader_of(shards).batch(step)) for step in range(8)]
    for change in ("inputs", "last target", "order"):
        batch = loader.batch(0)
        if change == "inputs":
            batch.inputs_BT[0, 0] += 1
        elif change == "last target":
            batch.targets_BT[2, -1] += 1
        else:
            batch.sequence_ids[:2] = batch.sequence_ids[1::-1]
        assert batch_hash(batch) != hashes[0], change


def test_the_hash_by_its_definition(shards: TokenShards):
    batch = loader_of(shards).batch(2)
    total = 0
    for row, sequence_id in enumerate(batch.sequence_ids):
        tokens = [*batch.inputs_BT[row].tolist(), int(batch.targets_BT[row, -1])]
        content = sequence_id.to_bytes(8, "little") + b"".join(token.to_bytes(4, "little") for token in tokens)
        total += int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    assert batch_hash(batch) == f"{total % 2**64:016x}"


def test_digests_add_up_in_64_bits(shards: TokenShards):
    """As `all_reduce` adds them: int64, with overflow."""
    loader = loader_of(shards)
    for step in range(20):
        digests = [batch_digest(loader.batch(step, rank=rank, world_size=6)) for rank in range(6)]
        assert combined_hash(int(torch.tensor(digests, dtype=torch.int64).sum())) == batch_hash(loader.batch(step))


def test_spans_name_the_document_of_every_token(mixed: tuple[MixedCorpus, ...]):
    loader = loader_of(mixed)
    for step in (0, 5, 17):
        batch, documents = loader.batch(step), loader.documents(step)
        assert [each.sequence_id for each in documents] == batch.sequence_ids
        for row, sequence in enumerate(documents):
            number, start = loader.place(sequence.sequence_id)
            shards, corpus = mixed[number].shards, mixed[number].source.corpus
            assert sequence.corpus == corpus
            covered = [place for span in sequence.spans for place in range(span.start, span.stop)]
            assert covered == list(range(SEQ_LEN + 1))
            assert shards.read(start, start + SEQ_LEN + 1)[1:].tolist() == batch.targets_BT[row].tolist()
            for span in sequence.spans:
                for place in (span.start, span.stop - 1):
                    document = shards.document_at(start + place)
                    assert (span.document_id, span.url) == (document.document_id, document.url)
                    assert (span.source, span.corpus) == (document.source, corpus)


def test_corpus_smaller_than_a_batch_is_refused(shards: TokenShards):
    sequences = (shards.num_tokens - 1) // SEQ_LEN
    assert loader_of(shards, batch=sequences).num_sequences == sequences
    with pytest.raises(ValueError, match=rf"{sequences} sequences of 16; one batch needs {sequences + 1}"):
        loader_of(shards, batch=sequences + 1)


def test_a_corpus_smaller_than_its_share_of_a_batch_is_refused(mixed: tuple[MixedCorpus, ...]):
    """Books' 19 sequences are a third of 57."""
    assert loader_of(mixed, batch=57).num_sequences == 59 + 19
    with pytest.raises(ValueError, match=r"books/tokens holds .* 19 sequences of 16; one batch needs 20: .* weight"):
        loader_of(mixed, batch=58)


def test_a_cap_below_a_sequence_is_refused(web: Path):
    with pytest.raises(ValueError, match="leave no whole sequence of 16"):
        loader_of(open_corpora([source("web", web, max_tokens=15)]))


def test_caps_below_a_batch_are_refused(web: Path):
    assert loader_of(open_corpora([source("web", web, max_tokens=BATCH * SEQ_LEN)])).max_steps == 1
    with pytest.raises(ValueError, match="leave 5 sequences of 16 in all; one batch needs 6"):
        loader_of(open_corpora([source("web", web, max_tokens=BATCH * SEQ_LEN - 1)]))


def test_batch_that_can_not_be_shared_is_refused(shards: TokenShards):
    with pytest.raises(ValueError, match="6 sequences can not be shared by 4"):
        loader_of(shards).batch(0, rank=0, world_size=4)
