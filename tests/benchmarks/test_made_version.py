"""The benchmarks' input is what they say it is, and goes through the pipeline's stages."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.dedup.config import Deduplication
from tasks.deduplicate import deduplicate
from tasks.ports import InProcessMap
from tests.benchmarks.made_signatures import MadeSignatures
from tests.benchmarks.made_texts import EXACT, WEB_PAGES, MadeTexts
from tests.benchmarks.made_version import deduplicated, gathered, gathered_signatures, kept_ids, made_texts, planned
from tests.benchmarks.scale_dedup import num_buckets_for

needs_pages = pytest.mark.skipif(not WEB_PAGES.exists(), reason="the texts are made from the shared data's web pages")


@needs_pages
def test_copies_are_removed_for_documents_of_the_same_original(tmp_path: Path) -> None:
    refresh = planned(tmp_path, 2, Deduplication())
    dedup, settled = deduplicated(refresh, gathered(refresh, 1000, InProcessMap()), InProcessMap())
    made: MadeTexts = made_texts(1000)
    numbers = {document_id: number for number, document_id in enumerate(made.ids)}
    decisions = [row for path in dedup.decisions for row in pq.read_table(path).to_pylist() if not row["kept"]]
    assert all(
        made.original[numbers[row["document_id"]]] == made.original[numbers[row["survivor_id"]]] for row in decisions
    )
    kept = kept_ids(settled)
    assert kept == sorted(kept) and len(kept) == 1000 - len(decisions)
    assert 700 <= len(kept) < 800  # all of the 700 originals' groups, and few of their 300 copies


@needs_pages
def test_an_exact_copy_has_its_originals_text_and_a_near_one_most_of_it() -> None:
    made = made_texts(1000)
    for number in range(1000):
        text, original = made.text(number), made.text(int(made.original[number]))
        common = sum(left == right for left, right in zip(text.split(), original.split(), strict=True))
        assert common >= 0.85 * 150 and (made.kind[number] != EXACT or text == original)


def test_made_signatures_are_grouped_as_planned(tmp_path: Path) -> None:
    config = Deduplication(min_jaccard=0)
    refresh = planned(tmp_path, 2, config)
    dedup = deduplicate(refresh, gathered_signatures(refresh, 2000, InProcessMap()), InProcessMap())
    made = MadeSignatures.plan(2000, config.minhash)
    num_copies = sum(int(original) != number for number, original in enumerate(made.original))
    removed = sum(dedup.resolved.report.removed.values())
    assert num_copies == 600
    assert 0.8 * num_copies < removed <= num_copies  # a few near copies share no band with any survivor


def test_buckets_grow_with_the_root_of_the_size() -> None:
    assert [num_buckets_for(10**exponent) for exponent in range(4, 8)] == [4, 16, 64, 128]
