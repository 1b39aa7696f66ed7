"""The toxicity of a document's pieces, and which of them makes the document's.

A document is as toxic as its most toxic piece that reads as a sentence, a piece being a line or a sentence, few words
read together with what follows. A mean over the document cannot find one sentence on a long page, and one of the two
highest pieces, or of neighbours, needs two; noisy or, with its many small chances, finds next to nothing at the same
number of false alarms. The embedded classifier's figures are in `tasks/classifiers/embedded/toxicity/card.md`.

A toxicity is a probability, moved so that .5 is the threshold of the classifier that gave it, whichever it is. So the
limit of a recipe means as much with another classifier, where a probability would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from tasks.classifiers.calibration import Calibration
from tasks.filters.toxicity_pieces import Piece, may_read_as_english, reads_as_english, split_into_pieces

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


JUDGED: Mapping[str, tuple[Judged, MayBeJudged]] = {
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
class Predicted:
    """A text's pieces, and what the model gives those whose score may count."""

    text: str
    pieces: Sequence[Piece]
    places: Sequence[int]
    """Of those that may count, among the pieces."""
    lines: Sequence[str]
    """They, each in one line."""
    raw: Sequence[float]


@dataclass(frozen=True)
class PieceClassifier:
    """A classifier of pieces, with what tells which of its scores mean something."""

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

    def predict(self, texts: Sequence[str]) -> list[Predicted]:
        """What the model gives each text's pieces. All are asked at once: between other work the model would find its
        numbers gone from the processor's cache, which costs an eighth of a page's time."""
        pieces = [split_into_pieces(text) for text in texts]
        lines: list[str] = []
        for text, cut in zip(texts, pieces, strict=True):
            in_one_line = text.replace("\n", " ")
            lines += [in_one_line[start:end] for start, end in cut]
        may_be_judged = self.may_be_judged(lines)
        asked = list(compress(lines, may_be_judged))
        raw = self.raw_probabilities(asked)
        predicted = []
        first = first_asked = 0
        for text, cut in zip(texts, pieces, strict=True):
            places = list(compress(range(len(cut)), may_be_judged[first : first + len(cut)]))
            these = slice(first_asked, first_asked + len(places))
            predicted.append(Predicted(text, cut, places, asked[these], raw[these]))
            first, first_asked = first + len(cut), these.stop
        return predicted

    def toxic_pieces(self, predicted: Predicted, max_toxicity: float) -> list[bool]:
        """Of each piece of a text whether its toxicity is above the limit."""
        is_toxic = [False] * len(predicted.pieces)
        for place, line, probability in zip(predicted.places, predicted.lines, predicted.raw, strict=True):
            is_toxic[place] = self.toxicity(probability) > max_toxicity and self.judged(line)
        return is_toxic

    def worst(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        """Of each text the highest toxicity of a piece, and that piece; 0 and nothing without pieces."""
        return [self._worst(predicted) for predicted in self.predict(texts)]

    def _worst(self, predicted: Predicted) -> tuple[float, str]:
        raw = predicted.raw
        place = _place_of_highest(self.judged, predicted.lines, raw)  # toxicity rises with it: of one it is computed
        if place is None:
            return 0.0, ""
        start, end = predicted.pieces[predicted.places[place]]
        return self.toxicity(raw[place]), predicted.text[start:end]

    def toxicity(self, raw_probability: float) -> float:
        """The calibrated probability, its odds divided by the threshold's: above .5 where it is above the threshold."""
        probability = self.calibration.probability(raw_probability)
        toxic, ordinary = probability * (1.0 - self.threshold), self.threshold * (1.0 - probability)
        if not toxic + ordinary:
            return 0.5  # both are 0, or both are 1: on the threshold
        return toxic / (toxic + ordinary)
