"""Toxic text, found by a small fastText classifier that reads piece by piece.

A document is as toxic as its most toxic piece that reads as a sentence, a piece being a line or a sentence, few words
read together with what follows. A mean over the document cannot find one sentence on a long page, and one of the two
highest pieces, or of neighbours, needs two; noisy or, with its many small chances, finds next to nothing at the same
number of false alarms. The embedded classifier's figures are in `tasks/classifiers/embedded/toxicity/card.md`.

A toxicity is a probability, moved so that .5 is the threshold of the classifier that gave it, whichever it is. So the
limit of a recipe means as much with another classifier, where a probability would not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
from tasks.filters.toxicity_pieces import (
    Piece,
    may_read_as_english,
    reads_as_english,
    removal_edits,
    split_into_pieces,
)
from tasks.formatters.edits import apply_edits
from tasks.model_files import ModelName, model_files, model_path
from tasks.text_features import TextFeatures

EMBEDDED = "toxicity"

Probabilities = Callable[[Sequence[str]], list[float]]
Judged = Callable[[str], bool]
"""Whether the score of a piece counts."""
MayBeJudged = Callable[[Sequence[str]], list[bool]]
"""Of each piece whether its score may count: False only where it does not."""


def highest_piece(probabilities: Probabilities, text: str) -> float:
    """The probability of the document's most toxic piece; 0 without a piece."""
    return _highest(probabilities, text, _any_piece)


def highest_english_sentence(probabilities: Probabilities, text: str) -> float:
    """The probability of the most toxic of the pieces that read as English sentences; 0 where none does."""
    return _highest(probabilities, text, reads_as_english)


AGGREGATIONS: Mapping[str, Callable[[Probabilities, str], float]] = {
    "highest_piece": highest_piece,
    "highest_english_sentence": highest_english_sentence,
}
"""How the probabilities of a document's pieces make its own, by the names that `classifier.json` gives them."""


def _any_piece(piece: str) -> bool:
    return True


def _all_pieces(pieces: Sequence[str]) -> list[bool]:
    return [True] * len(pieces)


_JUDGED: Mapping[str, tuple[Judged, MayBeJudged]] = {
    "highest_piece": (_any_piece, _all_pieces),
    "highest_english_sentence": (reads_as_english, may_read_as_english),
}


def _highest(probabilities: Probabilities, text: str, judged: Judged) -> float:
    pieces = [text[start:end] for start, end in split_into_pieces(text)]
    scores = probabilities(pieces)
    place = _place_of_highest(judged, pieces, scores)
    return 0.0 if place is None else scores[place]


def _place_of_highest(judged: Judged, pieces: Sequence[str], scores: Sequence[float]) -> int | None:
    """The place of the highest score that counts, of equal ones the first; None where none does."""
    if not pieces:
        return None
    first = scores.index(max(scores))  # mostly this one: looked at before all others are put in order
    if judged(pieces[first]):
        return first
    places = sorted(range(len(pieces)), key=scores.__getitem__, reverse=True)
    return next((place for place in places if judged(pieces[place])), None)


@dataclass(frozen=True)
class PieceClassifier:
    """What the rule needs of a classifier."""

    raw_probabilities: Callable[[Sequence[str]], list[float]]
    calibration: Calibration
    threshold: float
    """On the calibrated probability."""
    judged: Judged
    may_be_judged: MayBeJudged
    """Only these are predicted."""
    languages: tuple[str, ...]
    """Those it has been trained on; none: nothing is known."""

    def reads(self, language: str) -> bool:
        """Whether its scores mean something; they do where the language is not known."""
        return not (language and self.languages) or language in self.languages

    def toxic_pieces(self, text: str, pieces: Sequence[Piece], max_toxicity: float) -> list[bool]:
        """Of each piece whether its toxicity is above the limit. All are asked at once."""
        places, texts, raw = self._predicted(text, pieces)
        is_toxic = [False] * len(pieces)
        for place, piece, probability in zip(places, texts, raw, strict=True):
            is_toxic[place] = self.toxicity(probability) > max_toxicity and self.judged(piece)
        return is_toxic

    def worst(self, text: str) -> tuple[float, str]:
        """The highest toxicity of a piece, and that piece; 0 and nothing for a text without pieces."""
        pieces = split_into_pieces(text)
        places, texts, raw = self._predicted(text, pieces)
        place = _place_of_highest(self.judged, texts, raw)  # toxicity rises with it: of one it has to be computed
        if place is None:
            return 0.0, ""
        start, end = pieces[places[place]]
        return self.toxicity(raw[place]), text[start:end]

    def _predicted(self, text: str, pieces: Sequence[Piece]) -> tuple[list[int], list[str], list[float]]:
        """Which pieces may count, each in one line, and what the model gives them."""
        in_one_line = text.replace("\n", " ")
        lines = [in_one_line[start:end] for start, end in pieces]
        may_be_judged = self.may_be_judged(lines)
        texts = list(compress(lines, may_be_judged))
        return list(compress(range(len(lines)), may_be_judged)), texts, self.raw_probabilities(texts)

    def toxicity(self, raw_probability: float) -> float:
        """The calibrated probability, its odds divided by the threshold's: above .5 where it is above the threshold."""
        probability = self.calibration.probability(raw_probability)
        toxic, ordinary = probability * (1.0 - self.threshold), self.threshold * (1.0 - probability)
        if not toxic + ordinary:
            return 0.5  # both are 0, or both are 1: on the threshold
        return toxic / (toxic + ordinary)


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
            removal = self._removal()

            def removed_fraction(features: TextFeatures) -> float | None:
                found = removal(features.document)
                return found.fraction if found else None

            title = "characters in toxic pieces, of all"
            return (Check("toxic_share", "max_removed_fraction", "above", removed_fraction, title),)
        classifier = self._classifier()

        @functools.lru_cache(maxsize=1)
        def worst(features: TextFeatures) -> tuple[float, str]:
            return classifier.worst(features.text)

        def toxicity(features: TextFeatures) -> float | None:
            return worst(features)[0] if classifier.reads(features.document.language) else None

        def worst_piece(features: TextFeatures) -> str:
            return worst(features)[1]

        return (Check("toxic", "max_toxicity", "above", toxicity, "toxicity of the worst piece", worst_piece),)

    def build(self) -> Callable[[Document], Decision]:
        if self.action == "drop":
            return super().build()
        removal = self._removal()

        def decide(document: Document) -> Decision:
            if not document.text.strip():
                return Drop("empty")
            found = removal(document)
            if found is None or not found.edits:
                return Keep()
            return self._drop(found) or Rewrite(found.text, found.edits)

        return decide

    def build_score(self) -> Callable[[Document], Score]:
        if self.action == "drop":
            return super().build_score()
        removal = self._removal()

        def score(document: Document) -> Score:
            if not document.text.strip():
                return Score(document.text, (None,), Drop("empty"))
            found = removal(document)
            if found is None:
                return Score(document.text, (None,), None)
            return Score(found.text, (found.fraction,), self._drop(found))

        return score

    def _drop(self, removal: Removal) -> Drop | None:
        if removal.fraction > self.max_removed_fraction:
            return Drop("toxic_share", removal.fraction, self.max_removed_fraction)
        return None if removal.text.strip() else Drop("empty")

    def _removal(self) -> Callable[[Document], Removal | None]:
        """What is taken out of a document; None for one in a language that the classifier does not read."""
        classifier = self._classifier()

        def removal(document: Document) -> Removal | None:
            if not classifier.reads(document.language):
                return None
            pieces = split_into_pieces(document.text)
            is_toxic = classifier.toxic_pieces(document.text, pieces, self.max_toxicity)
            edits = removal_edits(document.text, pieces, is_toxic)
            num_chars = sum(end - start for start, end in pieces)
            num_toxic = sum(end - start for (start, end), toxic in zip(pieces, is_toxic, strict=True) if toxic)
            return Removal(apply_edits(document.text, edits), edits, num_toxic / num_chars if num_chars else 0.0)

        return removal

    def _classifier(self) -> PieceClassifier:
        path = model_path(self.model, embedded(EMBEDDED))
        if not path.is_dir():
            return _single_file(path, self.model, self.label)
        bundle = load_bundle(path)
        if self.label:
            raise ValueError(f"toxicity.label={self.label!r} is for a model that is one file; {path} names its own")
        classifier = bundle.classifier
        if classifier.aggregation not in _JUDGED:
            how = classifier.aggregation or "none, for whole documents"
            raise ValueError(
                f"the classifier {classifier.name} in {path} has the aggregation {how}, but the toxicity rule knows"
                f" {', '.join(_JUDGED)}: train it with --unit piece --aggregation {list(_JUDGED)[-1]}"
            )
        assert bundle.model  # a model whose labels are others than the bundle says ends here, before any work
        return PieceClassifier(
            bundle.raw_probabilities,
            classifier.calibration,
            classifier.threshold,
            *_JUDGED[classifier.aggregation],
            classifier.languages,
        )


def _single_file(path: Path, model: str, label: str) -> PieceClassifier:
    """A model of which nothing is known but its label; what it gives is taken as it is."""
    labels = load_fast_text(path).labels
    if label not in labels:
        raise ValueError(
            f"the model {model} has the labels {', '.join(labels[:20])}: say which of them means toxic text"
            " (--set toxicity.label=...)"
        )
    return PieceClassifier(
        functools.partial(_probabilities, path, label), Calibration(), 0.5, _any_piece, _all_pieces, ()
    )


def _probabilities(path: Path, label: str, texts: Sequence[str]) -> list[float]:
    return load_fast_text(path).probabilities_of(model_lines("plain_line", texts), label)
