"""The gate: a new classifier and the champion, asked about the same texts, which neither of them has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infra.classifier_registry import ClassifierVersion
from tasks.classifiers.bundle import Bundle
from tasks.classifiers.gate import GateRows, GateRules, Scored, Verdict, judge
from tasks.classifiers.measured import HeldOut, score_texts
from tasks.classifiers.scores import BoolArray, FloatArray
from tasks.classifiers.slices import slice_masks
from tasks.filters.piece_classifier import AGGREGATIONS


def judged(
    candidate: ClassifierVersion, champion: ClassifierVersion | None, held_out: HeldOut, rules: GateRules
) -> Verdict:
    """What the gate says of `candidate`. Each is asked as its use asks it, and judged at its own threshold.

    `held_out` is the candidate's: labelled texts and ordinary pages that it was neither trained nor tuned on. What the
    champion has seen of them is left out, for both.
    """
    bundles = [version.bundle for version in (candidate, champion) if version is not None]
    kept = ~np.logical_or.reduce([bundle.has_seen(held_out.texts) for bundle in bundles])
    texts = _chosen(held_out.texts, kept)
    sources = _chosen(held_out.sources, kept)
    ordinary = ~np.logical_or.reduce([bundle.has_seen(held_out.background) for bundle in bundles])
    background = _chosen(held_out.background, ordinary)
    rows = GateRows(
        labels=np.asarray(held_out.labels)[kept],
        slices=slice_masks(texts, sources, min_texts=rules.min_slice_texts),
        background_slices=slice_masks(background, min_texts=rules.min_slice_texts),
    )
    scored = [
        Scored(
            name=version.reference,
            sha256=version.sha256,
            threshold=bundle.classifier.threshold,
            scores=_scores(bundle, texts),
            background_scores=_scores(bundle, background),
        )
        for version, bundle in zip((candidate, champion), bundles, strict=False)
        if version is not None
    ]
    return judge(scored[0], scored[1] if champion else None, rows, rules)


def _scores(bundle: Bundle, texts: Sequence[str]) -> FloatArray:
    return score_texts(bundle.probabilities, texts, AGGREGATIONS.get(bundle.classifier.aggregation))


def _chosen(texts: Sequence[str], chosen: BoolArray) -> list[str]:
    return [text for text, keep in zip(texts, chosen, strict=True) if keep]
