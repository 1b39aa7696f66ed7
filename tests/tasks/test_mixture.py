"""Whose turn it is: exact shares, exact caps, the same wherever one looks."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.mixture import MAX_CYCLE_SEQUENCES, Mixture, MixtureSource, integer_weights, open_corpora, quota_cycle
from tests.tasks.packed_texts import pack_texts

weights_lists = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@st.composite
def capped_mixtures(draw: st.DrawFn) -> tuple[list[int], list[int | None]]:
    weights = draw(weights_lists)
    caps = st.lists(st.none() | st.integers(1, 120), min_size=len(weights), max_size=len(weights))
    return weights, draw(caps)


def places(mixture: Mixture, start: int, stop: int) -> list[tuple[int, int]]:
    corpora, numbers = mixture.place(np.arange(start, stop))
    return list(zip(corpora.tolist(), numbers.tolist(), strict=True))


def test_a_cycle_by_hand():
    """Of 3 : 2 : 1, turn 2 can not be the first's (6 / 6 is 1, which it has had); turn 4 is the second's by order."""
    assert quota_cycle([3, 2, 1]).tolist() == [0, 1, 0, 1, 0, 2]
    assert quota_cycle([1, 1, 1]).tolist() == [0, 1, 2]
    assert quota_cycle([0, 2, 1]).tolist() == [1, 1, 2]
    assert quota_cycle([1]).tolist() == [0]


@given(weights_lists)
def test_shares_are_within_one_sequence_at_any_point(weights: list[int]):
    total = sum(weights)
    counts = [0] * len(weights)
    for turn, corpus in enumerate(quota_cycle(weights).tolist(), start=1):
        counts[corpus] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count * total - turn * weight) < total
    assert counts == weights


@given(weights=weights_lists, start=st.integers(0, 10**12), cycles=st.integers(1, 3))
def test_shares_are_exact_over_any_window_of_whole_cycles(weights: list[int], start: int, cycles: int):
    mixture = Mixture(weights, [None] * len(weights))
    drawn = Counter(corpus for corpus, _ in places(mixture, start, start + cycles * sum(weights)))
    assert [drawn[number] for number in range(len(weights))] == [cycles * weight for weight in weights]


@given(capped_mixtures())
def test_each_corpus_gives_its_sequences_in_order_up_to_its_cap(mixed: tuple[list[int], list[int | None]]):
    weights, caps = mixed
    mixture = Mixture(weights, caps)
    assert (mixture.num_sequences is None) == (None in caps)
    stop = 700 if mixture.num_sequences is None else mixture.num_sequences
    given_of: list[list[int]] = [[] for _ in weights]
    for corpus, number in places(mixture, 0, stop):
        given_of[corpus].append(number)
    for numbers, cap in zip(given_of, caps, strict=True):
        assert numbers == list(range(len(numbers)))
        if cap is not None:
            assert len(numbers) <= cap
    if mixture.num_sequences is not None:
        assert [len(numbers) for numbers in given_of] == caps
        assert stop == sum(cap for cap in caps if cap is not None)


@given(mixed=capped_mixtures(), start=st.integers(0, 600), length=st.integers(0, 50))
def test_a_place_is_a_function_of_the_sequence_alone(
    mixed: tuple[list[int], list[int | None]], start: int, length: int
):
    mixture = Mixture(*mixed)
    end = 650 if mixture.num_sequences is None else mixture.num_sequences
    start, stop = min(start, end), min(start + length, end)
    assert places(mixture, start, stop) == places(Mixture(*mixed), 0, end)[start:stop]
    counted = Counter(corpus for corpus, _ in places(mixture, 0, stop))
    assert mixture.counts(stop) == [counted[number] for number in range(len(mixed[0]))]


def test_a_corpus_that_reaches_its_cap_leaves_its_share_to_the_others():
    """Of 2 : 1 : 1 the first leaves after its 4th; the others then take turns."""
    mixture = Mixture([2, 1, 1], [4, None, None])
    order = [corpus for corpus, _ in places(mixture, 0, 14)]
    last = max(index for index, corpus in enumerate(order) if corpus == 0)
    assert order[: last + 1].count(0) == 4
    assert order[last + 1 :] == [1, 2] * ((13 - last) // 2) + [1] * ((13 - last) % 2)
    assert mixture.counts(10**9)[0] == 4


def test_weights_are_taken_as_they_are_written():
    assert integer_weights([0.7, 0.3]) == (7, 3)
    assert integer_weights([0.1, 0.2, 0.7]) == (1, 2, 7)
    assert integer_weights([2, 4.0]) == (1, 2)
    assert integer_weights([1e-3, 0.999]) == (1, 999)


def test_a_cycle_has_a_longest_length():
    assert sum(integer_weights([1, MAX_CYCLE_SEQUENCES - 1])) == MAX_CYCLE_SEQUENCES
    with pytest.raises(ValueError, match=r"exact only over 10001 sequences, and 10000 is the most: round them"):
        integer_weights([1, MAX_CYCLE_SEQUENCES])


def test_the_longest_cycle_is_made_in_time_and_within_a_sequence():
    weights = [1, 9, 90, 900, 9000]
    counts = np.zeros(5, np.int64)
    for turn, corpus in enumerate(quota_cycle(weights), start=1):
        counts[corpus] += 1
        assert (abs(counts * 10_000 - turn * np.array(weights)) < 10_000).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"max_epochs": 2}, 20),
        ({"max_epochs": 0.7}, 7),
        ({"max_tokens": 64}, 4),
        ({"max_tokens": 63}, 3),
        ({"max_tokens": 64, "max_epochs": 0.3}, 3),
        ({"max_tokens": 16}, 1),
    ],
)
def test_caps_are_whole_sequences(values: dict[str, float], expected: int | None):
    source = MixtureSource.model_validate({"corpus": "web", "tokens_dir": "tokens"} | values)
    assert source.max_sequences(10, seq_len=16) == expected


@pytest.mark.parametrize("values", [{"max_tokens": 15}, {"max_epochs": 0.09}])
def test_a_cap_below_one_sequence_is_refused(values: dict[str, float]):
    source = MixtureSource.model_validate({"corpus": "web", "tokens_dir": "tokens"} | values)
    with pytest.raises(ValueError, match=r"corpus 'web' of the mixture: .* no whole sequence of 16 tokens"):
        source.max_sequences(10, seq_len=16)


@pytest.mark.parametrize("field", ["weight", "max_epochs", "max_tokens"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_only_positive_numbers(field: str, value: float):
    with pytest.raises(ValidationError, match=field):
        MixtureSource.model_validate({"corpus": "web", "tokens_dir": "tokens", field: value})


def test_epochs_are_taken_as_they_are_written():
    """As floats, 0.29 * 100 is 28.999999999999996."""
    source = MixtureSource(corpus="web", tokens_dir=Path("tokens"), max_epochs=0.29)
    assert source.max_sequences(100, seq_len=8) == 29 == Fraction("0.29") * 100


def source_of(tokens_dir: Path, corpus: str = "") -> MixtureSource:
    return MixtureSource(corpus=corpus or tokens_dir.parent.name, tokens_dir=tokens_dir)


def test_corpora_are_opened_in_order(tmp_path: Path):
    folders = [pack_texts(tmp_path / name, {"0": f"about {name}"}) for name in ("web", "books")]
    corpora = open_corpora([source_of(folder) for folder in folders])
    assert [corpus.source.corpus for corpus in corpora] == ["web", "books"]
    assert [corpus.shards.tokens_dir for corpus in corpora] == folders


def test_what_can_not_be_mixed_is_refused(tmp_path: Path):
    web, books = (pack_texts(tmp_path / name, {"0": f"about {name}"}) for name in ("web", "books"))
    copy = pack_texts(tmp_path / "copy", {"0": "about web"})
    foreign = pack_texts(tmp_path / "foreign", {"0": "about foreign"}, vocab_size=260)
    with pytest.raises(ValueError, match="holds no corpus"):
        open_corpora([])
    with pytest.raises(ValueError, match="names corpus 'web' twice"):
        open_corpora([source_of(web), source_of(books, "web")])
    with pytest.raises(ValueError, match="'web' and 'copy' of the mixture are the same token shards"):
        open_corpora([source_of(web), source_of(books), source_of(copy)])
    with pytest.raises(ValueError, match=r"'web' and 'foreign' .* different tokenizers \(\w{12} and \w{12}\)"):
        open_corpora([source_of(web), source_of(books), source_of(foreign)])
    with pytest.raises(ValueError, match=r"corpus 'news' of the mixture: .* has no manifest\.json"):
        open_corpora([source_of(web), source_of(tmp_path / "news" / "tokens")])
    manifest = json.loads((books / "manifest.json").read_text())
    (books / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(ValueError, match=r"corpus 'books' of the mixture: .* format 99"):
        open_corpora([source_of(web), source_of(books)])
