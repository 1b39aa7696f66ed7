"""What the embedded classifier of toxicity does on texts that it was neither trained nor tuned on.

    python -m tests.benchmarks.report_toxicity [--pages NUM] [--fresh FOLDER] [--card]

Prints Markdown; with --card it is written into the classifier's card, too, in place of the report before. FOLDER is
where `toxicity_texts.FRESH_PACKAGES` are unpacked (`apt-get download PACKAGES`, and `dpkg-deb -x FILE FOLDER` for each
file). Intervals are Clopper and Pearson's, 95 %. "Flagged" is what the rule drops with its own threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.classifiers.bundle import CARD_FILE, embedded, load_bundle
from tasks.classifiers.proportion import Proportion, proportion
from tasks.document import Document
from tasks.filters.toxicity import Toxicity
from tests.benchmarks import toxicity_texts as texts
from tests.data.toxicity_sets import SETS, sentences

HEADING = "## In the rule, on held-out texts"
EXPLANATION = """\
A document is as toxic as its most toxic piece that reads as an English sentence; the rule drops it above .5, which is
this classifier's threshold. Web pages are the main contents of the odd half of WCXB's development set, docs the English
documentation of Debian's packages but for an eighth that was trained on and a part that the threshold was chosen on;
fresh docs are at most 5,000 pages of ten other packages, chosen before anything was scored on them. Comments are the
test part of SemEval-2021 task 5. A toxic sentence is one with a toxic span from those comments, put as a line of its
own between two lines of a web page; of one below four words, the words after it are read with it. The sets up to
fiction are sentences of our own, which are not trained on (`tests/data/toxicity_sets.py`): fills of a few templates,
which stand or fall together, so that their intervals are too narrow; so are those of pages of one package.

What was chosen on what: model, hard negatives and calibration on the training and validation sides, the threshold on
the tuning pages. The texts below were not used for that, but all of them except fresh docs had been looked at before:
while earlier versions were compared, these figures were printed beside those of validation, and this version was
made because planted sentences (.591 found) fell short of the .6 that is wanted. It finds them at the price of more
false alarms: on web and docs they were .35 % before, and are now above the .5 % that is wanted; on web pages alone
they are several per cent. On fresh docs and on all pages together they are below .5 %; of these nearly all are
documentation, half of the fresh docs that of OpenJDK. Sentences and tweets that the classifier has read word for word
are left out; texts that merely resemble such, and questions on a passage it knows from another question, are not. With
the draw of planted sentences from before that, 62.4 % were found, and .591 is of that draw.
Another random seed moved recall on the validation side by up to 5 points: differences below that say nothing.

What it cannot do: it knows words, not meaning. Quoted insults and banter in novels count as what they look like, and
polite hate passes; the longer a text, the more chances it has of one such sentence, as the chapters show. Where this
matters, remove the spans instead of the documents, or raise `max_toxicity`."""

FRESH = "fresh docs"
EARLIER_PARTS = ("web", "docs")
LIMITS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
NUM_PLANTED = 1000
PLANTED_SEED = 7
SHORT_SENTENCE_WORDS = 4
PASSAGES_PER_CHAPTER = 20

Toxicities = Callable[[str], tuple[float, str]]
"""Toxicity of a text, and its worst piece."""


@dataclass(frozen=True)
class Report:
    """Toxicities of every kind of held-out text."""

    pages: dict[str, list[float]]
    """Of ordinary pages, by part."""
    others: dict[str, list[float]]
    """Of other ordinary texts, by kind."""
    comments: list[float]
    tweets: dict[str, list[float]]
    """By label."""
    planted: list[tuple[int, float, bool]]
    """Words of the toxic sentence, the page's toxicity, and whether the worst piece is where the sentence is."""

    def false_alarms(self, limit: float = 0.5, parts: Sequence[str] = ()) -> Proportion:
        """Of the pages of these parts; of all, where none is named."""
        return flagged([score for part in parts or self.pages for score in self.pages[part]], limit)

    def found(self, limit: float = 0.5, min_words: int = 1) -> Proportion:
        """Planted sentences whose page is flagged and whose place is named."""
        hits = [score > limit and at_place for words, score, at_place in self.planted if words >= min_words]
        return proportion(sum(hits), len(hits))


def flagged(scores: Sequence[float], limit: float = 0.5) -> Proportion:
    return proportion(sum(score > limit for score in scores), len(scores))


def toxicities() -> Toxicities:
    """As the rule computes them."""
    [check] = Toxicity().checks()
    assert check.detail is not None
    from tasks.text_features import TextFeatures

    def toxicity(text: str) -> tuple[float, str]:
        features = TextFeatures(Document("0" * 32 + "-0", text, "report"))
        value = check.figure(features)
        assert value is not None
        assert check.detail is not None
        return value, check.detail(features)

    return toxicity


def held_out_pages(num: int | None = None) -> dict[str, list[str]]:
    """The ordinary pages of the hard figure, so many of each part at most."""
    web = [page.text for page in texts.web_pages() if page.side == "held out"]
    docs = [page.text for page in texts.documentation_pages("held out", num)]
    return {"web": sorted(web, key=texts.number)[:num], "docs": docs}


def make_report(
    num_pages: int | None = None, num_planted: int = NUM_PLANTED, fresh_folder: Path | None = None
) -> Report:
    """Score it all; of pages, comments and each other kind so many at most, the first by hash."""
    toxicity = toxicities()

    def scores(those: Iterable[str]) -> list[float]:
        return [toxicity(text)[0] for text in sorted(those, key=texts.number)[:num_pages]]

    pages = held_out_pages(num_pages)
    comments = texts.comments("test")
    toxic = _unseen([sentence for comment in comments for sentence in comment.toxic_sentences()])
    planted = []
    for each in texts.plant(pages["web"], sorted(set(toxic)), num_planted, PLANTED_SEED):
        value, piece = toxicity(each.text)
        at_place = piece in each.text and _overlaps(each, piece)
        planted.append((len(each.sentence.split()), value, at_place))
    tweets = {
        name: scores(_unseen([tweet.text for tweet in texts.tweets() if tweet.held_out and tweet.kind == kind]))
        for kind, name in (("0", "hate"), ("1", "offensive"), ("2", "neither"))
    }
    if fresh_folder is not None:
        pages[FRESH] = texts.fresh_pages(fresh_folder)
    return Report(
        pages={part: scores(found) for part, found in pages.items()},
        others={name: scores(found) for name, found in _others().items()},
        comments=scores(_unseen([comment.text for comment in comments])),
        tweets=tweets,
        planted=planted,
    )


def _unseen(those: Sequence[str]) -> list[str]:
    """Without those that the classifier was trained or tuned on, word for word."""
    seen = load_bundle(embedded("toxicity")).has_seen(those)
    return [text for text, known in zip(those, seen, strict=True) if not known]


def _overlaps(planted: texts.Planted, piece: str) -> bool:
    end = planted.start + len(planted.sentence)
    start = planted.text.find(piece)
    while 0 <= start < end:
        if start + len(piece) > planted.start:
            return True
        start = planted.text.find(piece, start + 1)
    return False


def _others() -> dict[str, list[str]]:
    others = {name: list(sentences(templates)) for name, templates in SETS.items()}
    by_part: dict[str, list[str]] = {}
    for page in texts.other_pages():
        if page.side == "held out":
            by_part.setdefault(page.part, []).append(page.text)
    novels = by_part.pop("novels")
    others["news articles"] = by_part["news"]
    others["questions with their passage (BoolQ)"] = by_part["questions"]
    others["passages of novels (LAMBADA)"] = novels
    others[f"the same, {PASSAGES_PER_CHAPTER} joined to a chapter"] = [
        "\n".join(novels[start : start + PASSAGES_PER_CHAPTER]) for start in range(0, len(novels), PASSAGES_PER_CHAPTER)
    ]
    others["web texts that people judged (DCLM)"] = texts.judged_pages()
    return others


def markdown(report: Report) -> str:
    lines = ["| ordinary held-out pages | flagged |", "|---|---|"]
    lines += [f"| {part} | {flagged(scores)} |" for part, scores in report.pages.items()]
    named: list[tuple[str, tuple[str, ...]]] = [("web and docs", EARLIER_PARTS)]
    if FRESH in report.pages:
        named += [("web and fresh docs", ("web", FRESH)), ("all", ())]
    lines += [f"| {name} together | {report.false_alarms(parts=parts)} |" for name, parts in named]
    lines += ["", "| other ordinary texts | flagged |", "|---|---|"]
    lines += [f"| {name} | {flagged(scores)} |" for name, scores in report.others.items()]
    lines += [f"| tweets labelled neither | {flagged(report.tweets['neither'])} |", ""]
    lines += ["| toxic held-out texts | flagged |", "|---|---|"]
    lines += [f"| comments with a toxic span (SemEval, test part) | {flagged(report.comments)} |"]
    for min_words in (1, SHORT_SENTENCE_WORDS, 10):
        of = f" of at least {min_words} words" if min_words > 1 else ""
        found = report.found(min_words=min_words)
        lines += [f"| a toxic sentence{of} on an ordinary page, page flagged and place named | {found} |"]
    lines += [f"| tweets labelled {name} | {flagged(report.tweets[name])} |" for name in ("hate", "offensive")]
    lines += [
        "",
        "| max_toxicity | ordinary pages | web pages | comments | planted sentences |",
        "|---|---|---|---|---|",
    ]
    for limit in LIMITS:
        cells = (
            report.false_alarms(limit),
            flagged(report.pages["web"], limit),
            flagged(report.comments, limit),
            report.found(limit),
        )
        lines += [f"| {limit:g} | {' | '.join(f'{100 * cell.fraction:.2f} %' for cell in cells)} |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, help="of each part at most")
    parser.add_argument("--fresh", type=Path, metavar="FOLDER", help="with the packages that have never been looked at")
    parser.add_argument("--card", action="store_true", help="write it into the embedded classifier's card")
    options = parser.parse_args()
    text = markdown(make_report(options.pages, fresh_folder=options.fresh))
    print(text)
    if options.card:
        card = embedded("toxicity") / CARD_FILE
        before = card.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")[0].rstrip()
        card.write_text(f"{before}\n\n{HEADING}\n\n{EXPLANATION}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
