"""How good the quality classifier is: on held-out pages, and against people's judgement of web texts.

    python -m tests.benchmarks.report_quality [--bundle FOLDER] [--write]

Held out: windows of the pages with an odd hash, of what people marked and of all that is visible (`quality_texts`), and
beside them the length alone. People: 218 web texts with a yes or no (DCLM's human labels); ROC AUC of the classifier,
of every figure of the rules that recipes filter by, of how many of their checks fail, and of what each recipe keeps.
All are by DeLong, with 95 % intervals; differences are paired. Nothing was chosen by these labels.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tasks.checks import CheckedRule
from tasks.classifiers.bundle import CARD_FILE, Bundle, embedded, load_bundle
from tasks.classifiers.metrics import binary_report, roc_auc, roc_auc_difference
from tasks.classifiers.proportion import Estimate
from tasks.document import Decision, Document, Drop, Rewrite
from tasks.recipes.curation import CURATION_RECIPES
from tasks.recipes.rules import rule
from tasks.screen import built
from tasks.share_rule import ShareRule
from tasks.text_features import features_of
from tests.benchmarks.gold_pages import WEB
from tests.benchmarks.quality_texts import encyclopedia_articles, quality_pages, windows

LABELS = WEB.parent / "quality" / "human_labels.jsonl.gz"
WIKITEXT_TEST = WEB.parent / "text" / "wikitext2_test.txt.gz"
HEADING = "## On held-out pages, and against people"
INTRODUCTION = """By `tests/benchmarks/report_quality.py`. The pages are those with an odd URL hash, none of which was
trained on or chosen by, and neither were the people's labels (DCLM's, of texts that had been extracted already). It
tells content from the rest of a page. It does not tell which content people would have: there its area under the curve
is not above chance with any certainty, and several figures of plain rules do better. Use it where pages are extracted
badly, as a coarse share, and not in place of the rules."""
RULES = ("gopher_quality", "gopher_repetition", "fineweb", "c4_lines")
Scores = NDArray[np.float64]


def as_scores(figures: Sequence[float] | Scores) -> Scores:
    """Figures of any range as scores from 0 to 1 in the same order, ties as ties."""
    ranks: Scores = rankdata(figures) / (len(figures) + 1)
    return ranks


def people_labels() -> tuple[list[Document], NDArray[np.bool_]]:
    """The texts, and whether people would have them."""
    rows = [json.loads(line) for line in gzip.decompress(LABELS.read_bytes()).decode().splitlines()]
    documents = [Document(f"{index:032x}-0", row["text"], "people", language="en") for index, row in enumerate(rows)]
    return documents, np.array([row["label"] == 1 for row in rows])


def figures_of_rules(documents: Sequence[Document]) -> Iterator[tuple[str, Scores]]:
    """Every figure of the rules, the higher the better, and how many of each rule's checks do not fail."""
    for kind in RULES:
        one = rule(kind)
        if not isinstance(one, CheckedRule):
            continue
        checks = one.checks()
        num_passed = np.zeros(len(documents))
        for check in checks:
            values = [check.figure(features_of(document)) for document in documents]
            better = 1 if check.drops == "below" else -1
            # what a check does not apply to, it does not drop
            yield (
                f"{kind}: {check.title}",
                np.array([np.inf if value is None or np.isnan(value) else better * value for value in values]),
            )
            num_passed += [not check.fails(value, getattr(one, check.threshold)) for value in values]
        yield f"{kind}: checks passed of {len(checks)}", num_passed


def kept_by_recipes(documents: Sequence[Document]) -> Iterator[tuple[str, Scores]]:
    """1 where the quality rules of a recipe keep a document, without a classifier; else 0."""
    for name, make in CURATION_RECIPES.items():
        if name == "smoke":
            continue
        rules = [built(one) for one in make().quality_rules if not isinstance(one, ShareRule)]
        yield f"kept by {name}", np.array([float(_is_kept(document, rules)) for document in documents])


def _is_kept(document: Document, rules: Sequence[Callable[[Document], Decision]]) -> bool:
    for decide in rules:
        decision = decide(document)
        if isinstance(decision, Rewrite):
            document = replace(document, text=decision.text)
        if isinstance(decision, Drop) or not document.text.strip():
            return False
    return True


def held_out_report(bundle: Bundle) -> str:
    """Windows of the odd pages, and whole pages."""
    pages = [page for page in quality_pages() if page.is_odd]
    lines = []
    for what, cut in (("windows", windows), ("whole pages", lambda text: [text] if text.strip() else [])):
        good = [text for page in pages for text in cut(page.marked)]
        raw = [text for page in pages for text in cut(page.visible)]
        texts, labels = [*good, *raw], np.array([True] * len(good) + [False] * len(raw))
        scores = np.array(bundle.probabilities(texts))
        report = binary_report(labels, scores, bundle.classifier.threshold)
        length = roc_auc(labels, as_scores([len(text) for text in texts]))
        lines.append(
            f"{what}: {len(good)} marked, {len(raw)} visible: ROC AUC {report.roc_auc}, of the length alone {length};"
            f" average precision {report.average_precision}; at {bundle.classifier.threshold:.4f} recall"
            f" {report.recall}, of the visible {report.false_alarms}; calibration error"
            f" {report.expected_calibration_error:.3f}"
        )
    articles = [window for text in encyclopedia_articles(WIKITEXT_TEST) for window in windows(text)]
    scores = np.array(bundle.probabilities(articles))
    lines.append(f"WikiText-2 test: {len(articles)} windows, mean score {scores.mean():.3f}")
    kinds = sorted({page.page_type for page in pages})
    for kind in kinds:
        of_kind = [page.marked for page in pages if page.page_type == kind and page.marked.strip()]
        scores = np.array(bundle.probabilities(of_kind))
        lines.append(f"marked content of {kind}: {len(of_kind)} pages, median score {np.median(scores):.3f}")
    return "\n".join(f"- {line}" for line in lines)


def people_report(bundle: Bundle) -> str:
    """A table: what, its ROC AUC, and how much better the classifier is."""
    documents, labels = people_labels()
    ours = as_scores(bundle.probabilities([document.text for document in documents]))
    rows: list[tuple[str, Estimate, Estimate | None]] = [("the classifier", roc_auc(labels, ours), None)]
    lengths = as_scores([float(len(document.text)) for document in documents])
    others = [("length", lengths), *figures_of_rules(documents), *kept_by_recipes(documents)]
    for what, figures in others:
        scores = as_scores(figures)
        rows.append((what, roc_auc(labels, scores), roc_auc_difference(labels, ours, scores)))
    table = [f"| {what} | {auc} | {difference or ''} |" for what, auc, difference in rows]
    head = ["| score | ROC AUC | classifier minus this |", "|---|---|---|"]
    return "\n".join([f"{labels.sum()} of {len(labels)} texts are good to people.", "", *head, *table])


def write_into_card(bundle: Bundle, report: str) -> None:
    """Put the report at the end of the classifier's card, in place of an earlier one."""
    file = bundle.folder / CARD_FILE
    card = file.read_text(encoding="utf-8").split(f"\n{HEADING}\n")[0].rstrip()
    file.write_text(f"{card}\n\n{HEADING}\n\n{INTRODUCTION}\n\n{report}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=embedded("quality"), help="folder of the classifier")
    parser.add_argument("--write", action="store_true", help="also put it into the classifier's card")
    chosen = parser.parse_args()
    bundle = load_bundle(chosen.bundle)
    report = f"{held_out_report(bundle)}\n\n{people_report(bundle)}"
    print(report)
    if chosen.write:
        write_into_card(bundle, report)


if __name__ == "__main__":
    main()
