from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.dedup.config import Deduplication
from tests.tasks.dedup.chain import Page, deduplicate, true_jaccard

Pairs = set[frozenset[str]]


@pytest.fixture(scope="module")
def articles(shared_data: Path) -> tuple[list[Page], Pairs]:
    """A thousand news articles, and the ten pairs of them that are near-duplicates."""
    with gzip.open(shared_data / "dedup" / "articles_1000.train.gz", "rt", encoding="utf-8") as lines:
        pages = [Page(*line.rstrip("\n").split(" ", 1)) for line in lines]
    truth = (shared_data / "dedup" / "articles_1000.truth").read_text().splitlines()
    return pages, {frozenset(line.split()) for line in truth}


@pytest.mark.parametrize("min_jaccard", [0.7, 0.0])
def test_all_ten_pairs_and_no_other_are_found(
    articles: tuple[list[Page], Pairs], min_jaccard: float, tmp_path: Path
) -> None:
    pages, truth = articles
    config = Deduplication(min_jaccard=min_jaccard)
    version = deduplicate(tmp_path / "run", pages, config, num_buckets=4, num_partitions=4)
    assert len(truth) == 10
    assert {frozenset((name, str(survivor))) for name, survivor in version.removed.items()} == truth
    assert {version.decisions[name]["stage"] for name in version.removed} == {"near_dedup"}
    if min_jaccard:
        values = {name: version.decisions[name]["value"] for name in version.removed}
        texts = {page.document_id: page.text for page in pages}
        for name, value in values.items():
            assert value == true_jaccard(texts[name], texts[str(version.removed[name])], config.minhash)
        assert (min(values.values()), max(values.values())) == (215 / 224, 286 / 295)


def test_the_second_half_is_found_against_the_first(articles: tuple[list[Page], Pairs], tmp_path: Path) -> None:
    pages, truth = articles
    config = Deduplication()
    version = deduplicate(tmp_path / "1", pages[::2], config, num_buckets=4, num_partitions=4)
    version = deduplicate(tmp_path / "2", pages[1::2], config, base=version, num_buckets=4, num_partitions=4)
    assert {frozenset((name, str(survivor))) for name, survivor in version.removed.items()} == truth
