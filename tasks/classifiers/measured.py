"""What a bundle achieves on texts that it has not seen: the same scoring for its card, its pictures and the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.classifiers.bundle import Bundle
from tasks.classifiers.errors import WorstErrors, errors_csv, errors_markdown, worst_errors
from tasks.classifiers.metrics import BinaryReport, binary_report
from tasks.classifiers.pictures import calibration_picture, confusion_picture, precision_recall_picture
from tasks.classifiers.scores import BoolArray, FloatArray
from tasks.classifiers.slices import Slice, find_slices, slices_csv, slices_markdown
from tasks.classifiers.threshold import Threshold, false_alarms_at

Probabilities = Callable[[Sequence[str]], list[float]]
"""The calibrated probability of each text."""

ScoreDocument = Callable[[Probabilities, str], float]
"""A document's score, made of the probabilities of its pieces as the use makes it."""

TEXTS_PER_BATCH = 1024


@dataclass(frozen=True)
class HeldOut:
    """Texts that nothing was trained, tuned or chosen on."""

    texts: tuple[str, ...]
    labels: tuple[bool, ...]
    sources: tuple[str, ...]
    background: tuple[str, ...]
    """Ordinary documents, none of which should be flagged."""
    background_sources: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Figures at the bundle's threshold."""

    report: BinaryReport
    background: Threshold
    """False alarms on the background."""
    slices: tuple[Slice, ...]
    """Of the labelled texts."""
    background_slices: tuple[Slice, ...]
    """Of the background."""
    errors: WorstErrors
    """Of both together."""
    scores: FloatArray
    """Of the labelled texts, by which the figures were made."""

    def figures(self) -> dict[str, float]:
        """All of it but the slices, under flat names."""
        return {
            **self.report.figures(),
            "background_num_texts": float(self.background.num_texts),
            "background_false_alarms": float(self.background.false_alarms),
            "background_false_alarm_fraction": self.background.fraction,
            "background_false_alarm_fraction_low": self.background.low,
            "background_false_alarm_fraction_high": self.background.high,
        }


def score_texts(probabilities: Probabilities, texts: Sequence[str], score_document: ScoreDocument | None) -> FloatArray:
    """The score of each text as a document: its own probability, or what `score_document` makes of its pieces'."""
    if score_document is not None:
        return np.array([score_document(probabilities, text) for text in texts], dtype=np.float64)
    batches = [texts[start : start + TEXTS_PER_BATCH] for start in range(0, len(texts), TEXTS_PER_BATCH)]
    return np.array([score for batch in batches for score in probabilities(batch)], dtype=np.float64)


def score_held_out(
    bundle: Bundle, held_out: HeldOut, score_document: ScoreDocument | None
) -> tuple[FloatArray, FloatArray]:
    """Scores of the labelled texts, and of the background's."""
    return (
        score_texts(bundle.probabilities, held_out.texts, score_document),
        score_texts(bundle.probabilities, held_out.background, score_document),
    )


def measure(
    bundle: Bundle, held_out: HeldOut, score_document: ScoreDocument | None, *, identity: bool = True
) -> Measured:
    """Score the held-out texts, and compare with their labels at the bundle's threshold."""
    threshold = bundle.classifier.threshold
    scores, background_scores = score_held_out(bundle, held_out, score_document)
    labels = _labels(held_out)
    is_background = np.zeros(len(background_scores), dtype=np.bool_)
    return Measured(
        report=binary_report(labels, scores, threshold),
        background=false_alarms_at(threshold, background_scores),
        slices=find_slices(held_out.texts, labels, scores, threshold, held_out.sources, identity=identity),
        background_slices=find_slices(
            held_out.background,
            is_background,
            background_scores,
            threshold,
            held_out.background_sources,
            identity=identity,
        ),
        errors=worst_errors(
            [*held_out.texts, *held_out.background],
            np.concatenate([labels, is_background]),
            np.concatenate([scores, background_scores]),
            threshold,
            [*held_out.sources, *held_out.background_sources],
        ),
        scores=scores,
    )


def write_reports(bundle: Bundle, measured: Measured, held_out: HeldOut, folder: Path, *, negative: str) -> None:
    """Pictures, slices and worst errors, for people; what is there is written anew."""
    classifier = bundle.classifier
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{classifier.name}: {classifier.task}"
    labels = _labels(held_out)
    precision_recall_picture(
        labels, measured.scores, classifier.threshold, folder / "precision_recall.png", title=title
    )
    confusion_picture(
        measured.report.confusion,
        folder / "confusion.png",
        title=title,
        positive=classifier.positive,
        negative=negative,
    )
    # of single texts, which is what the sigmoid was fitted on
    before = score_texts(bundle.raw_probabilities, held_out.texts, None)
    after = classifier.calibration.array(before)
    calibration_picture(labels, before, after, folder / "calibration.png", title=title)
    (folder / "slices.csv").write_text(slices_csv(measured.slices), encoding="utf-8")
    (folder / "background_slices.csv").write_text(slices_csv(measured.background_slices), encoding="utf-8")
    (folder / "slices.md").write_text(slices_page(measured), encoding="utf-8")
    (folder / "errors.md").write_text(errors_markdown(measured.errors) + "\n", encoding="utf-8")
    (folder / "errors.csv").write_text(errors_csv(measured.errors), encoding="utf-8")


def slices_page(measured: Measured) -> str:
    """Both tables of slices, as Markdown."""
    return (
        f"### Labelled texts\n\n{slices_markdown(measured.slices)}\n\n"
        f"### Background\n\n{slices_markdown(measured.background_slices)}\n"
    )


def _labels(held_out: HeldOut) -> BoolArray:
    return np.array(held_out.labels, dtype=np.bool_)
