"""The rule that drops a document with a toxic piece, or takes its toxic pieces out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.checks import Check, CheckedRule, Score
from tasks.classifiers.bundle import embedded, load_bundle
from tasks.classifiers.calibration import Calibration
from tasks.classifiers.fast_text import load_fast_text
from tasks.classifiers.normalise import model_lines
from tasks.document import Decision, Document, Drop, Edit, Keep, Rewrite
from tasks.filters.piece_classifier import JUDGED, PieceClassifier, Predicted
from tasks.filters.toxicity_pieces import removal_edits
from tasks.formatters.edits import apply_edits
from tasks.model_files import ModelName, model_files, model_path
from tasks.text_features import TextFeatures

EMBEDDED = "toxicity"


@dataclass(frozen=True)
class Removal:
    """A document without its toxic pieces."""

    text: str
    edits: tuple[Edit, ...]
    fraction: float
    """Characters in toxic pieces, of those in all pieces."""


class Toxicity(CheckedRule):
    """Drops a document with a toxic piece, or removes its toxic pieces and drops it where these are much of it.

    Reasons of a Drop: empty (also where nothing is left); toxic (value: the toxicity of the worst piece; detail: that
    piece); toxic_share (value: characters in toxic pieces, of all). Edits: toxic_span (span_removed, one a piece).

    A document known to be in a language that the classifier has not been trained on passes: it takes words that it does
    not know for slang.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-wheel",)

    model: ModelName = Field(
        "",
        description="The classifier: empty for the embedded one, name@version or name@alias of the registry, or a path"
        " or address with #sha256=...",
    )
    label: str = Field(
        "", description="Of a model that is one file: its label for toxic text, without __label__. Its threshold is .5."
    )
    action: Literal["drop", "remove_spans"] = Field(
        "drop", description="What becomes of a document with a toxic piece: dropped, or kept without such pieces."
    )
    max_toxicity: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="Toxicity of a piece, at most. 0.5 is the classifier's own threshold, for the embedded one with the"
        " figures in its card. Higher finds less, and is wrong more seldom.",
    )
    max_removed_fraction: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="With remove_spans: a document that is toxic for more than this share of its characters is dropped."
        " Our own choice: what is left of it answers to what is gone.",
    )

    def files(self) -> tuple[Path, ...]:
        return model_files(self.model, embedded(EMBEDDED))

    def checks(self) -> tuple[Check, ...]:
        """Raises ValueError where the model is missing, or is none for pieces of text."""
        if self.action == "remove_spans":
            removals = self._removals()

            def removed_fraction(features: TextFeatures) -> float | None:
                [found] = removals([features.document])
                return found.fraction if found else None

            title = "characters in toxic pieces, of all"
            return (Check("toxic_share", "max_removed_fraction", "above", removed_fraction, title),)
        classifier = self._classifier()
        known: dict[TextFeatures, tuple[float, str]] = {}

        def prepare(batch: Sequence[TextFeatures]) -> None:
            read = [features for features in batch if classifier.reads(features.document.language)]
            known.clear()
            known.update(zip(read, classifier.worst([features.text for features in read]), strict=True))

        def worst(features: TextFeatures) -> tuple[float, str]:
            if features not in known:
                prepare([features])
            return known[features]

        def toxicity(features: TextFeatures) -> float | None:
            return worst(features)[0] if classifier.reads(features.document.language) else None

        def worst_piece(features: TextFeatures) -> str:
            return worst(features)[1]

        title = "toxicity of the worst piece"
        return (Check("toxic", "max_toxicity", "above", toxicity, title, worst_piece, prepare),)

    def build(self) -> Callable[[Document], Decision]:
        if self.action == "drop":
            return super().build()
        decide = self._removing()
        return lambda document: decide([document])[0]

    def build_batch(self) -> Callable[[Sequence[Document]], list[Decision]] | None:
        return super().build_batch() if self.action == "drop" else self._removing()

    def _removing(self) -> Callable[[Sequence[Document]], list[Decision]]:
        removals = self._removals()

        def decide(documents: Sequence[Document]) -> list[Decision]:
            found = removals(documents)
            return [self._decision(*each) for each in zip(documents, found, strict=True)]

        return decide

    def _decision(self, document: Document, removal: Removal | None) -> Decision:
        if not document.text.strip():
            return Drop("empty")
        if removal is None or not removal.edits:
            return Keep()
        return self._drop(removal) or Rewrite(removal.text, removal.edits)

    def build_score(self) -> Callable[[Document], Score]:
        if self.action == "drop":
            return super().build_score()
        removals = self._removals()

        def score(document: Document) -> Score:
            if not document.text.strip():
                return Score(document.text, (None,), Drop("empty"))
            [found] = removals([document])
            if found is None:
                return Score(document.text, (None,), None)
            return Score(found.text, (found.fraction,), self._drop(found))

        return score

    def _drop(self, removal: Removal) -> Drop | None:
        if removal.fraction > self.max_removed_fraction:
            return Drop("toxic_share", removal.fraction, self.max_removed_fraction)
        return None if removal.text.strip() else Drop("empty")

    def _removals(self) -> Callable[[Sequence[Document]], list[Removal | None]]:
        """What is taken out of each document; None for one in a language that the classifier does not read."""
        classifier = self._classifier()

        def removals(documents: Sequence[Document]) -> list[Removal | None]:
            is_read = [classifier.reads(document.language) for document in documents]
            predicted = iter(classifier.predict([document.text for document in compress(documents, is_read)]))
            return [_removal(classifier, next(predicted), self.max_toxicity) if read else None for read in is_read]

        return removals

    def _classifier(self) -> PieceClassifier:
        path = model_path(self.model, embedded(EMBEDDED))
        if not path.is_dir():
            return _single_file(path, self.model, self.label)
        bundle = load_bundle(path)
        if self.label:
            raise ValueError(f"toxicity.label={self.label!r} is for a model that is one file; {path} names its own")
        classifier = bundle.classifier
        if classifier.aggregation not in JUDGED:
            how = classifier.aggregation or "none, for whole documents"
            raise ValueError(
                f"the classifier {classifier.name} in {path} has the aggregation {how}, but the toxicity rule knows"
                f" {', '.join(JUDGED)}: train it with --unit piece --aggregation {list(JUDGED)[-1]}"
            )
        assert bundle.model  # a model whose labels are others than the bundle says ends here, before any work
        return PieceClassifier(
            bundle.raw_probabilities,
            classifier.calibration,
            classifier.threshold,
            *JUDGED[classifier.aggregation],
            classifier.languages,
        )


def _removal(classifier: PieceClassifier, predicted: Predicted, max_toxicity: float) -> Removal:
    text, pieces = predicted.text, predicted.pieces
    is_toxic = classifier.toxic_pieces(predicted, max_toxicity)
    edits = removal_edits(text, pieces, is_toxic)
    num_chars = sum(end - start for start, end in pieces)
    num_toxic = sum(end - start for start, end in compress(pieces, is_toxic))
    return Removal(apply_edits(text, edits), edits, num_toxic / num_chars if num_chars else 0.0)


def _single_file(path: Path, model: str, label: str) -> PieceClassifier:
    """A model of which nothing is known but its label; what it gives is taken as it is."""
    labels = load_fast_text(path).labels
    if label not in labels:
        raise ValueError(
            f"the model {model} has the labels {', '.join(labels[:20])}: say which of them means toxic text"
            " (--set toxicity.label=...)"
        )
    return PieceClassifier(
        functools.partial(_probabilities, path, label), Calibration(), 0.5, *JUDGED["highest_piece"], ()
    )


def _probabilities(path: Path, label: str, texts: Sequence[str]) -> list[float]:
    return load_fast_text(path).probabilities_of(model_lines("plain_line", texts), label)
