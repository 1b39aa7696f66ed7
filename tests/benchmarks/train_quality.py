"""Train the embedded quality classifier from the annotated pages and an encyclopedia, and write its bundle.

    python -m tests.benchmarks.train_quality --out FOLDER [--trials 12]

What it learns from is in `tests.benchmarks.quality_texts`; how is `tasks.classifiers.train`. Of the pages with an even
hash, one in three gives no example: all its visible text is background, on which the threshold is chosen. The windows
of a page or an article stay on one side, so that the test part's figures are of pages that nothing was trained on.
Nothing is looked at that `report_quality` reports on: neither pages with an odd hash nor the people's labels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.classifiers.fast_text import FastTextTraining
from tasks.classifiers.labelled import BackgroundSource, LabelledSource
from tasks.classifiers.search import Budget, Settings
from tasks.classifiers.train import ClassifierTraining, TrainedClassifier, train_classifier
from tests.benchmarks.quality_texts import encyclopedia_articles, quality_pages, windows

GOOD, RAW = "good", "raw"
FALSE_ALARM_FRACTION = 0.1  # of raw pages that score above the threshold: a tenth of a crawl is what DCLM keeps
FIRST = Settings(
    training=FastTextTraining(epoch=5, lr=0.1, min_subword_chars=0, max_subword_chars=0),  # words and pairs, as DCLM
    minority_ratio=1.0,
)
_BACKGROUND_ONE_IN = 3
_WIKITEXT_ORIGIN = "WikiText-2, validation part (Merity et al. 2016), from Wikipedia"
_PAGES_ORIGIN = "WCXB development set: pages of seven kinds, main content marked by hand; those with an even URL hash"


def _is_background(url: str) -> bool:
    return int(hashlib.sha256(url.encode()).hexdigest(), 16) // 2 % _BACKGROUND_ONE_IN == 0


def write_texts(folder: Path) -> ClassifierTraining:
    """Write the examples, and how to train on them."""
    pages = [page for page in quality_pages() if not page.is_odd]
    examples = [page for page in pages if not _is_background(page.url)]
    background = [page.visible for page in pages if page.visible.strip() and _is_background(page.url)]
    articles = enumerate(encyclopedia_articles())
    _write(
        folder / "encyclopedia.jsonl",
        (_row(window, GOOD, f"article {number}") for number, text in articles for window in windows(text)),
    )
    marked = (_row(window, GOOD, page.url) for page in examples for window in windows(page.marked))
    visible = (_row(window, RAW, page.url) for page in examples for window in windows(page.visible))
    _write(folder / "pages.jsonl", (*marked, *visible))
    _write(folder / "background.jsonl", ({"text": text} for text in background))
    both = {"positive": (GOOD,), "negative": (RAW,), "group": "page"}
    pages_facts = {"licence": "annotations CC-BY-4.0; the pages belong to their owners", "origin": _PAGES_ORIGIN}
    return ClassifierTraining(
        name="quality",
        task="Tells text that somebody wrote as an article, or marked as a page's content, from pages as they come.",
        positive=GOOD,
        negative=RAW,
        labelled=(
            LabelledSource(
                name="encyclopedia",
                paths=(str(folder / "encyclopedia.jsonl"),),
                licence="CC-BY-SA-3.0",
                origin=_WIKITEXT_ORIGIN,
                **both,
            ),
            LabelledSource(name="pages", paths=(str(folder / "pages.jsonl"),), **pages_facts, **both),
        ),
        background=(BackgroundSource(name="raw pages", paths=(str(folder / "background.jsonl"),), **pages_facts),),
        normaliser="plain_line",
        first=FIRST,
        max_size_bytes=1_000_000,
        false_alarm_fraction=FALSE_ALARM_FRACTION,
        identity_slices=False,
        licence="as the project; it holds words and weights, no text",
        origin="tests/benchmarks/train_quality.py",
    )


def _row(text: str, label: str, page: str) -> dict[str, str]:
    return {"text": text, "label": label, "page": page}


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train_quality(work: Path, budget: Budget, created: str) -> TrainedClassifier:
    """Train in `work`, which keeps the trials for another call."""
    work.mkdir(parents=True, exist_ok=True)
    configuration = write_texts(work).model_copy(update={"budget": budget})
    return train_classifier(configuration, work, created=created)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the bundle goes; must not exist")
    parser.add_argument("--work", type=Path, help="keeps trials for the next call; else nothing is kept")
    parser.add_argument("--trials", type=int, default=12, help="settings to try")
    parser.add_argument("--created", default="", help="date for the card")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        trained = train_quality(
            chosen.work or Path(scratch), Budget(trials=chosen.trials, seconds=3600), chosen.created
        )
        for trial in trained.trials:
            print(f"{trial.number}: average precision {trial.score.average_precision:.4f}, {trial.settings}")
        shutil.copytree(trained.bundle.folder, chosen.out)
    print(f"{chosen.out}: {trained.bundle.sha256}")


if __name__ == "__main__":
    main()
