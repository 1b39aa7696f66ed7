"""The worst errors of a classifier, to be read by people: often it is the label that is wrong.

The texts are someone else's: personal data is masked in them, they are cut, and they are shown as text whatever they
hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.classifiers.csv_table import csv_table
from tasks.classifiers.scores import BoolArray, FloatArray, checked_labels, checked_scores
from tasks.formatters.personal_data import PersonalData
from tasks.markdown import markdown_cell

NUM_EACH = 20
MAX_SHOWN_CHARS = 300


@dataclass(frozen=True)
class ErrorSample:
    """A text that was classified wrongly, as it may be shown: masked and cut."""

    text: str
    score: float
    source: str


@dataclass(frozen=True)
class WorstErrors:
    """The negative texts that score highest above the threshold, and the positive texts that score lowest up to it."""

    threshold: float
    num_false_alarms: int
    num_misses: int
    false_alarms: tuple[ErrorSample, ...]
    misses: tuple[ErrorSample, ...]


def worst_errors(
    texts: Sequence[str],
    labels: BoolArray | Sequence[bool],
    scores: FloatArray | Sequence[float],
    threshold: float,
    sources: Sequence[str] | None = None,
    *,
    num_each: int = NUM_EACH,
) -> WorstErrors:
    """The worst errors of each kind, worst first; of texts with one score, by their text.

    Raises ValueError where numbers of labels and scores differ, or a score is not from 0 to 1.
    """
    scores = checked_scores(scores)
    labels = checked_labels(labels, len(scores))
    assert len(texts) == len(scores) and (sources is None or len(sources) == len(texts)), "one for each score"
    flagged = scores > threshold
    false_alarms = np.flatnonzero(~labels & flagged).tolist()
    misses = np.flatnonzero(labels & ~flagged).tolist()
    mask = PersonalData().hide

    def samples(places: Iterable[int]) -> tuple[ErrorSample, ...]:
        return tuple(
            ErrorSample(_cut(mask(texts[place])), float(scores[place]), sources[place] if sources else "")
            for place in places
        )

    return WorstErrors(
        threshold=threshold,
        num_false_alarms=len(false_alarms),
        num_misses=len(misses),
        false_alarms=samples(sorted(false_alarms, key=lambda place: (-scores[place], texts[place]))[:num_each]),
        misses=samples(sorted(misses, key=lambda place: (scores[place], texts[place]))[:num_each]),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def errors_markdown(errors: WorstErrors) -> str:
    """Both kinds, one after the other, every text as a quotation in one line."""
    at = f"the threshold {errors.threshold:.4g}"
    return "\n\n".join(
        [
            f"### False alarms: negative texts above {at}",
            *_quotations(errors.false_alarms, errors.num_false_alarms),
            f"### Misses: positive texts not above {at}",
            *_quotations(errors.misses, errors.num_misses),
        ]
    )


def _quotations(samples: Sequence[ErrorSample], num_errors: int) -> list[str]:
    """The quotation mark keeps a text's first character from beginning a heading or a list."""
    shown = "none" if not num_errors else f"The worst {len(samples):,} of {num_errors:,}, worst first."
    return [
        shown.capitalize() + ("." if not num_errors else ""),
        *(
            f"**{each.score:.4f}**{', ' + markdown_cell(each.source) if each.source else ''}\n\n"
            f"> “{markdown_cell(each.text)}”"
            for each in samples
        ),
    ]


def errors_csv(errors: WorstErrors) -> str:
    """Both kinds in one table."""
    return csv_table(
        ["error", "score", "source", "text"],
        [
            (kind, each.score, each.source, each.text)
            for kind, samples in (("false alarm", errors.false_alarms), ("miss", errors.misses))
            for each in samples
        ],
    )
