"""Held-out text that another corpus trains on is counted, on real splits of small corpora."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.held_out_copies import num_held_out_copies
from tasks.store import Store
from tasks.tokenizer import corpus_cluster_ids, split_documents
from tests.tasks.token_corpora import TEXTS, make_corpus

FRACTION = 0.2


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def sides(corpus: Path) -> tuple[list[str], list[str]]:
    """Ids of the documents that are held out, and of those that are trained on; each is a cluster of its own."""
    ids = sorted(corpus_cluster_ids(corpus))
    split = split_documents(ids, FRACTION)
    return [one for one in ids if split.holds_out(one)], [one for one in ids if not split.holds_out(one)]


def test_only_held_out_text_that_the_other_trains_on_counts(store: Store) -> None:
    main = make_corpus(store)
    held_out, trained = sides(main)
    assert len(held_out) >= 3
    apart = {f"{number % 4}f{number:030x}-0": f"another text, the {number}th of its kind" for number in range(40)}
    other = make_corpus(store, texts=apart, name="apart")
    assert num_held_out_copies(main, other, FRACTION) == 0
    _, names = sides(other)  # under names that the other corpus trains on
    copied = dict(zip(names, [TEXTS[one] for one in (*held_out[:3], *trained[:5])], strict=False))
    assert num_held_out_copies(main, make_corpus(store, texts=apart | copied, name="copies"), FRACTION) == 3


def test_the_same_documents_are_on_the_same_side_of_both(store: Store) -> None:
    main, same = make_corpus(store), make_corpus(store, texts=dict(list(TEXTS.items())[:30]), name="same")
    assert num_held_out_copies(main, same, FRACTION) == 0  # the split is by hash of the cluster's id


def test_each_copy_counts(store: Store) -> None:
    main = make_corpus(store)
    text = TEXTS[sides(main)[0][0]]
    texts = {f"{number % 4}e{number:030x}-0": text for number in range(20)}
    other = make_corpus(store, texts=texts, name="repeated")
    assert num_held_out_copies(main, other, FRACTION) == len(sides(other)[1])
