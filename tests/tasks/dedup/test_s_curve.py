from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.benchmarks.s_curve import SIMILARITIES, VERIFIED, Bin, draw, measure, near_duplicate, similarity, web_pages

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def pages(shared_data: Path) -> list[list[str]]:
    return web_pages()


@pytest.mark.verify
@pytest.mark.parametrize("target", SIMILARITIES)
def test_the_found_share_is_the_theoretical_one(pages: list[list[str]], target: float) -> None:
    """200 pairs, within three binomial sigma; with verification the same ones from .7 on, and none below."""
    found = measure(pages, target, num_pairs=200)
    assert all(target <= value < target + 0.01 for value in found.similarities)
    assert abs(found.unverified - found.expected) <= 3 * found.sigma
    assert found.found_verified == (found.found_unverified if target >= VERIFIED.min_jaccard else 0)


def test_a_planted_near_duplicate_is_as_similar_as_asked_for() -> None:
    rng = random.Random(2)
    lexicon = [f"word{number}" for number in range(1000)]
    page = rng.choices(lexicon, k=200)
    for target in SIMILARITIES:
        common, union = similarity(page, near_duplicate(page, target, rng, lexicon))
        assert target <= common / union < target + 0.01


def test_the_picture(tmp_path: Path) -> None:
    draw([Bin([0.5, 0.51], 0, 0), Bin([0.9, 0.9], 2, 2)], tmp_path / "new" / "curve.png")
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(PNG_SIGNATURE)
