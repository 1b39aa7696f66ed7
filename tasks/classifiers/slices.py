"""A classifier's figures on parts of the texts: by length, by source, and where identity groups are mentioned.

A classifier can be good on the whole and unfair in a part: in labelled comments some groups are mostly named by those
who insult them, and their mere mention becomes a sign of toxicity. Figures on the texts that mention a group show it
(Dixon et al. 2018, "Measuring and mitigating unintended bias in text classification"). A mention is a matter of
spelling: "black" is counted as a mention in "a black cat" too.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.classifiers.csv_table import csv_table
from tasks.classifiers.metrics import confusion_at, roc_auc
from tasks.classifiers.proportion import Estimate, Proportion, proportion
from tasks.classifiers.scores import BoolArray, FloatArray, checked_labels, checked_scores
from tasks.markdown import markdown_table

MIN_TEXTS = 20
"""Of a slice that is shown: of fewer, one text more or less is a difference of over 5 %."""

IDENTITY_TERMS: Mapping[str, tuple[str, ...]] = {
    "religion": (
        "atheist", "baptist", "buddhist", "catholic", "christian", "evangelical", "hindu", "jew", "jewish", "mormon",
        "muslim", "protestant", "sikh",
    ),
    "origin": (
        "african", "american", "arab", "asian", "black", "brown", "chinese", "european", "filipino", "foreigner",
        "gypsy", "hispanic", "immigrant", "indian", "indigenous", "irish", "italian", "japanese", "korean", "latina",
        "latino", "mexican", "migrant", "nigerian", "pakistani", "polish", "refugee", "roma", "russian", "turkish",
        "vietnamese", "white",
    ),
    "gender": ("boy", "female", "feminine", "girl", "male", "man", "masculine", "nonbinary", "woman"),
    "sexuality": (
        "asexual", "bisexual", "gay", "heterosexual", "homosexual", "lesbian", "lgbt", "lgbtq", "queer", "trans",
        "transgender",
    ),
    "disability": (
        "amputee", "autistic", "blind", "deaf", "deafblind", "disabled", "dyslexic", "epileptic", "paralysed",
        "paralyzed", "paraplegic", "schizophrenic", "wheelchair",
    ),
    "age": (
        "adolescent", "boomer", "elderly", "grandfather", "grandmother", "millennial", "pensioner", "retiree", "senior",
        "teen", "teenager", "toddler",
    ),
}  # fmt: skip
"""Ordinary English words for groups of people, each with its plural in -s; insults for them are no part of the list."""

_IRREGULAR = {"men": "man", "women": "woman"}
_TERMS = {
    spelling: (group, term)
    for group, terms in IDENTITY_TERMS.items()
    for term in terms
    for spelling in (term, f"{term}s", *(plural for plural, singular in _IRREGULAR.items() if singular == term))
}
_WORD = re.compile(r"[^\W_]+")

_LENGTH_LIMITS_CHARS = (50, 200, 1_000, 5_000)
_MAX_NAME_CHARS = 80  # of a slice in a metric's name


@dataclass(frozen=True)
class Slice:
    """The figures of some of the texts. What their labels cannot show (recall without a positive text) is None."""

    name: str
    num_texts: int
    num_positives: int
    recall: Proportion | None
    """Flagged among the positive texts."""
    false_alarms: Proportion | None
    """Flagged among the negative texts."""
    roc_auc: Estimate | None


def identity_mentions(text: str) -> frozenset[tuple[str, str]]:
    """Groups and terms that the text mentions as a whole word, in upper or lower case."""
    words = set(_WORD.findall(text.lower()))
    return frozenset(_TERMS[word] for word in words & _TERMS.keys())


def slice_masks(
    texts: Sequence[str], sources: Sequence[str] | None = None, *, identity: bool = True, min_texts: int = MIN_TEXTS
) -> dict[str, BoolArray]:
    """Which texts each slice holds, by the slice's name; slices of fewer than `min_texts` are left out."""
    assert sources is None or len(sources) == len(texts), "one source for each text"
    places: dict[str, list[int]] = {name: [] for name in _LENGTH_NAMES}
    for name in sorted(set(sources or ())):
        places[f"source: {name}"] = []
    for group, terms in IDENTITY_TERMS.items() if identity else ():
        places[f"identity: {group}"] = []
        places |= {f"identity: {group}: {term}": [] for term in terms}
    for place, text in enumerate(texts):
        places[_length_name(text)].append(place)
        if sources is not None:
            places[f"source: {sources[place]}"].append(place)
        if identity:
            for name in _identity_names(text):
                places[name].append(place)
    masks: dict[str, BoolArray] = {}
    for name, held in places.items():
        if len(held) >= max(1, min_texts):
            masks[name] = np.zeros(len(texts), dtype=np.bool_)
            masks[name][held] = True
    return masks


def _length_names() -> Iterator[str]:
    yield f"length: under {_LENGTH_LIMITS_CHARS[0]} characters"
    for low, high in itertools.pairwise(_LENGTH_LIMITS_CHARS):
        yield f"length: {low:,} to {high - 1:,} characters"
    yield f"length: {_LENGTH_LIMITS_CHARS[-1]:,} characters and more"


_LENGTH_NAMES = tuple(_length_names())


def _length_name(text: str) -> str:
    return _LENGTH_NAMES[sum(len(text) >= limit for limit in _LENGTH_LIMITS_CHARS)]


def _identity_names(text: str) -> set[str]:
    mentions = identity_mentions(text)
    return {f"identity: {group}" for group, _ in mentions} | {f"identity: {group}: {term}" for group, term in mentions}


def find_slices(
    texts: Sequence[str],
    labels: BoolArray | Sequence[bool],
    scores: FloatArray | Sequence[float],
    threshold: float,
    sources: Sequence[str] | None = None,
    *,
    identity: bool = True,
    min_texts: int = MIN_TEXTS,
) -> tuple[Slice, ...]:
    """The figures of all texts, first, and of each slice that holds at least `min_texts`.

    Raises ValueError where numbers of labels and scores differ, or a score is not from 0 to 1.
    """
    scores = checked_scores(scores)
    labels = checked_labels(labels, len(scores))
    assert len(texts) == len(scores), "one text for each score"
    masks = {"all": np.ones(len(texts), dtype=np.bool_)}
    masks |= slice_masks(texts, sources, identity=identity, min_texts=min_texts)
    return tuple(_slice(name, labels[mask], scores[mask], threshold) for name, mask in masks.items())


def _slice(name: str, labels: BoolArray, scores: FloatArray, threshold: float) -> Slice:
    confusion = confusion_at(labels, scores, threshold)
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    return Slice(
        name=name,
        num_texts=len(labels),
        num_positives=num_positives,
        recall=proportion(confusion.true_positives, num_positives) if num_positives else None,
        false_alarms=proportion(confusion.false_positives, num_negatives) if num_negatives else None,
        roc_auc=roc_auc(labels, scores) if num_positives and num_negatives else None,
    )


def slice_figures(slices: Sequence[Slice]) -> dict[str, float]:
    """Under names that MLflow takes for a metric, such as `slices/source_forum/recall`."""
    figures: dict[str, float] = {}
    for name, each in zip(_metric_names(slices), slices, strict=True):
        figures[f"slices/{name}/num_texts"] = float(each.num_texts)
        for figure, value in _values(each).items():
            if value is not None:
                figures[f"slices/{name}/{figure}"] = value
    return figures


def _metric_names(slices: Sequence[Slice]) -> list[str]:
    """Letters, digits and underscores; names of sources that differ in other characters alone are told apart."""
    names = [re.sub(r"\W+", "_", each.name)[:_MAX_NAME_CHARS] for each in slices]
    uses = Counter(names)
    return [
        name if uses[name] == 1 else f"{name}_{hashlib.sha256(each.name.encode()).hexdigest()[:8]}"
        for name, each in zip(names, slices, strict=True)
    ]


def _values(each: Slice) -> dict[str, float | None]:
    """Figures by name, with the ends of their intervals."""
    values: dict[str, float | None] = {}
    for name, share in (("recall", each.recall), ("false_alarm_fraction", each.false_alarms)):
        values[name] = share.fraction if share else None
        values[f"{name}_low"] = share.low if share else None
        values[f"{name}_high"] = share.high if share else None
    area = each.roc_auc
    values["roc_auc"] = area.value if area else None
    values["roc_auc_low"] = area.low if area else None
    values["roc_auc_high"] = area.high if area else None
    return values


def slices_csv(slices: Sequence[Slice]) -> str:
    """One row a slice; empty where the slice's labels cannot show a figure."""
    names = list(_values(slices[0])) if slices else []
    return csv_table(
        ["slice", "num_texts", "num_positives", *names],
        [(each.name, each.num_texts, each.num_positives, *_values(each).values()) for each in slices],
    )


def slices_markdown(slices: Sequence[Slice]) -> str:
    """The same as a table to read."""
    return markdown_table(
        ["slice", "texts", "positive", "recall", "false alarms", "ROC AUC"],
        [
            (
                each.name,
                each.num_texts,
                each.num_positives,
                *("–" if value is None else str(value) for value in (each.recall, each.false_alarms, each.roc_auc)),
            )
            for each in slices
        ],
    )
