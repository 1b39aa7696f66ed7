"""Near-duplicates are on one side, and a text's side is nobody else's affair."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.classifiers.split import MIN_JACCARD, MINHASH, cluster_keys, clusters, side, tunes
from tasks.dedup.jaccard import jaccard
from tasks.dedup.signature import shingles

WORDS = st.sampled_from([f"{first}{second}" for first in "abcdefgh" for second in "aeiou"])
LINES = st.lists(st.lists(WORDS, min_size=1, max_size=12).map(" ".join), max_size=12)


def sides_of(lines: list[str]) -> dict[str, tuple[str, bool]]:
    keys = cluster_keys(lines, clusters(lines))
    return {line: (side(key), tunes(key)) for line, key in zip(lines, keys, strict=True)}


def similarity(left: str, right: str) -> float:
    return jaccard(*(np.unique(shingles(line, MINHASH)) for line in (left, right)))


def random_line(seed: int, num_words: int = 40) -> str:
    words = random.Random(seed)
    return " ".join("".join(words.choices("abcdefghijklmnop", k=6)) for _ in range(num_words))


@settings(max_examples=50)
@given(lines=LINES, order=st.randoms(use_true_random=False))
def test_order_changes_nothing(lines: list[str], order: random.Random) -> None:
    shuffled = lines.copy()
    order.shuffle(shuffled)
    assert sides_of(lines) == sides_of(shuffled)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), place=st.integers(0, 39), others=LINES)
def test_a_planted_near_duplicate_never_straddles(seed: int, place: int, others: list[str]) -> None:
    words = random_line(seed).split()
    planted = " ".join([*words[:place], "changed", *words[place + 1 :]])
    assert similarity(" ".join(words), planted) >= MIN_JACCARD
    sides = sides_of([" ".join(words), *others, planted])
    assert sides[" ".join(words)] == sides[planted]


@settings(max_examples=25)
@given(lines=LINES, seeds=st.lists(st.integers(0, 10_000), max_size=5))
def test_unrelated_texts_change_no_side(lines: list[str], seeds: list[int]) -> None:
    before = sides_of(lines)
    after = sides_of([*map(random_line, seeds), *lines])
    assert {line: after[line] for line in lines} == before


def test_the_boundary_of_resemblance() -> None:
    """14 of 17 runs in common are a similarity of .7, and enough; 13 of 16 are .684, and too few."""
    words = random_line(1, 60).split()

    def pair(num_common: int, num_own: int) -> tuple[str, str]:
        """Two lines with so many runs in common, and so many of its own each."""
        common = words[: num_common + 2]
        return " ".join(common + words[30 : 30 + num_own]), " ".join(common + words[45 : 45 + num_own])

    on, below = pair(14, 3), pair(13, 3)
    assert similarity(*on) == pytest.approx(0.7)
    assert similarity(*below) < MIN_JACCARD
    assert len(set(clusters(list(on)).tolist())) == 1
    assert len(set(clusters(list(below)).tolist())) == 2


def test_clusters() -> None:
    line = random_line(1)
    near = f"{line} more"
    assert clusters([]).tolist() == []
    assert clusters(["one", line, "two", near, "one", line]).tolist() == [0, 1, 2, 1, 0, 1]
    keys = cluster_keys([line, near, "two"], clusters([line, near, "two"]))
    digests = [hashlib.sha256(each.encode()).digest() for each in (line, near, "two")]
    assert keys == [min(digests[:2]), min(digests[:2]), digests[2]]


def test_groups_are_united_with_what_resembles_their_lines() -> None:
    line = random_line(1)
    lines = [line, "two", f"{line} more", "three", "four", "two"]
    assert clusters(lines).tolist() == [0, 1, 0, 3, 4, 1]
    assert clusters(lines, ["", "", "a", "a", "", "b"]).tolist() == [0, 1, 0, 0, 4, 1]
    assert clusters(lines, ["b", "", "a", "a", "", "b"]).tolist() == [0, 0, 0, 0, 4, 0]  # equal lines carry it on
    with pytest.raises(ValueError, match="shorter"):
        clusters(lines, ["a"])


def test_chains_are_one_cluster() -> None:
    words = random_line(2, 80).split()
    chain = [" ".join(words[start : start + 40]) for start in range(0, 30, 5)]
    assert similarity(chain[0], chain[-1]) < MIN_JACCARD
    assert set(clusters(chain).tolist()) == {0}


def test_shares_of_the_sides() -> None:
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(10_000)]
    counts = Counter(map(side, keys))
    # six standard deviations of a binomial
    assert abs(counts["train"] - 8_000) < 240
    assert abs(counts["validation"] - 1_000) < 180
    assert abs(counts["test"] - 1_000) < 180
    assert abs(sum(map(tunes, keys)) - 5_000) < 300
    assert abs(sum(tunes(key) for key in keys if side(key) == "test") - counts["test"] / 2) < 100
