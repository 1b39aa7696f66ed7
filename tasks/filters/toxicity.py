"""Toxic text, found by a small fastText classifier that reads piece by piece.

A page is toxic when a good share of it is, not when one sentence is: news quotes insults, dictionaries list them. So
the document is cut into pieces (lines, and long lines into sentences), each piece is scored on its own, and the
document's toxicity is the mean of the scores weighted by the pieces' lengths. Of the rules that were measured (highest
score, mean of the three highest, share of the text above a piece threshold) the weighted mean finds most toxic comments
at the same number of false alarms.

The classifier is `toxicity.ftz`; how it was trained and measured, and what it cannot do, is in `toxicity.md`. The
threshold belongs to it: who trains his own (`python -m tasks.filters.train_toxicity`) calibrates the threshold again.
"""

from __future__ import annotations

import contextlib
import functools
import html
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.checks import Check, CheckedRule
from tasks.text_features import TextFeatures

MODEL_FILE = Path(__file__).with_name("toxicity.ftz")
TOXIC_LABEL = "__label__toxic"

MAX_LINE_CHARS = 200  # a longer line is cut into sentences: a paragraph hides one bad sentence in the average
MAX_PIECE_CHARS = 1000  # a sentence without an end (tables, code, 1 MB of one letter) is cut here

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_MENTION_OR_LINK = re.compile(r"https?://\S+|www\.\S+|@\w+")
_DIGITS = re.compile(r"\d+")
_WORD_OR_MARK = re.compile(r"[^\W_]+(?:['’*@$][^\W_]+)*|[!?]+|[^\w\s]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def split_into_pieces(text: str) -> Iterator[str]:
    """Lines, long lines cut into sentences, and endless sentences cut by length; never an empty piece."""
    for line in text.splitlines():
        stripped = line.strip()
        sentences = _SENTENCE_END.split(stripped) if len(stripped) > MAX_LINE_CHARS else [stripped]
        for sentence in sentences:
            for start in range(0, len(sentence), MAX_PIECE_CHARS):
                piece = sentence[start : start + MAX_PIECE_CHARS].strip()
                if piece:
                    yield piece


def as_classifier_input(piece: str) -> str:
    """The piece as the classifier sees it, in training and in use: one line of lower-case words and marks.

    Case, digits, names and links are taken away because they would betray the source of a training example (a tweet, a
    comment, a web page) instead of its tone. Lone surrogates have no UTF-8 form and become U+FFFD.
    """
    text = unicodedata.normalize("NFKC", _SURROGATE.sub("\ufffd", html.unescape(piece))).lower()
    text = _DIGITS.sub("0", _MENTION_OR_LINK.sub(" ", text))
    return " ".join(_WORD_OR_MARK.findall(text))


@functools.lru_cache(maxsize=2)
def load_classifier(path: Path) -> Any:
    """The fastText model in `path`, loaded once per process. Raises ValueError where it is no such model."""
    import fasttext

    try:
        # load_model() prints a notice about its return type to stderr each time.
        with contextlib.redirect_stderr(io.StringIO()):
            model = fasttext.load_model(str(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a fastText model ({error}); train one with tasks.filters.train_toxicity"
        ) from error
    if TOXIC_LABEL not in model.get_labels():
        raise ValueError(
            f"{path} has the labels {model.get_labels()}, but not {TOXIC_LABEL}; it was trained for another task"
        )
    return model


def score_piece(model: Any, piece: str) -> float:
    """The classifier's probability of "toxic" for one piece, 0 to 1; 0 for a piece without any letter."""
    classifier_input = as_classifier_input(piece)
    if not any(char.isalpha() for char in classifier_input):
        return 0.0
    # Not model.predict(): in fasttext-wheel 0.9.2 under numpy 2 it raises for a string, and for a list with k > 1 it
    # returns the best label's score for every label.
    predictions = model.f.predict(classifier_input + "\n", -1, 0.0, "strict")
    return min(1.0, max((score for score, label in predictions if label == TOXIC_LABEL), default=0.0))


class Toxicity(CheckedRule):
    """Drops a document whose toxicity exceeds `max_toxicity`: reason "toxic", detail the worst piece; or "empty".

    A document known to be in another language than English passes: the classifier has read none, and takes what it
    does not know for slang (it scores one in ten other languages above the threshold).
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-wheel",)

    max_toxicity: float = Field(
        0.3,
        gt=0.0,
        lt=1.0,
        description="Mean toxicity of a document's pieces, weighted by characters, at most. 0.3 belongs to the supplied"
        " model: at most 1 of 248 ordinary pages scored higher in cross-validation (toxicity.md).",
    )
    model_file: Path | None = Field(
        None, description="Another fastText model with the label __label__toxic; needs its own threshold."
    )

    def files(self) -> tuple[Path, ...]:
        return (self.model_file or MODEL_FILE,)

    def checks(self) -> tuple[Check, ...]:
        """Raises ValueError where the model file is missing or is no toxicity model."""
        model = load_classifier(self.files()[0])

        @functools.lru_cache(maxsize=1)
        def judged(text: str) -> tuple[float, str]:
            return document_toxicity(model, text)

        def toxicity(features: TextFeatures) -> float | None:
            return judged(features.text)[0] if features.document.language in ("", "en") else None

        def worst_piece(features: TextFeatures) -> str:
            return judged(features.text)[1]

        return (Check("toxic", "max_toxicity", "above", toxicity, "mean toxicity of the text", worst_piece),)


def document_toxicity(model: Any, text: str) -> tuple[float, str]:
    """Mean score of the text's pieces, weighted by their characters, and the piece with the highest score.

    A text without pieces (empty, only whitespace) has toxicity 0.
    """
    weighted_sum, num_chars, highest_score, worst_piece = 0.0, 0, -1.0, ""
    for piece in split_into_pieces(text):
        score = score_piece(model, piece)
        weighted_sum += score * len(piece)
        num_chars += len(piece)
        if score > highest_score:
            highest_score, worst_piece = score, piece
    return (weighted_sum / num_chars if num_chars else 0.0), worst_piece


def highest_piece(probabilities: Callable[[Sequence[str]], list[float]], text: str) -> float:
    """A document is as toxic as its most toxic piece; 0 without a piece."""
    return max(probabilities(list(split_into_pieces(text))), default=0.0)


AGGREGATIONS: Mapping[str, Callable[[Callable[[Sequence[str]], list[float]], str], float]] = {
    "highest_piece": highest_piece
}
"""How the probabilities of a document's pieces make its own, by the names that `classifier.json` gives them."""
