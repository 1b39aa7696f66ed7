"""Toxic text, found by a small fastText classifier that reads piece by piece.

A page is toxic when a good share of it is, not when one sentence is: news quotes insults, dictionaries list them. So the
document is cut into pieces (lines, and long lines into sentences), each piece is scored on its own, and the document is
dropped when the pieces the classifier is sure of make up too much of its characters.

The classifier is `toxicity.ftz`; how it was trained and measured, and what it cannot do, is in `toxicity.md`. Its scores
mean nothing to another model: who trains his own (`python -m tasks.filters.train_toxicity`) calibrates both thresholds.
"""

from __future__ import annotations

import contextlib
import functools
import html
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.document import Decision, Document, Drop, Keep
from tasks.rule import Rule

MODEL_FILE = Path(__file__).with_name("toxicity.ftz")
TOXIC_LABEL = "__label__toxic"

MAX_LINE_CHARS = 200  # a longer line is cut into sentences: a paragraph hides one bad sentence in the average
MAX_PIECE_CHARS = 1000  # a sentence without an end (tables, code, 1 MB of one letter) is cut here
MAX_DETAIL_CHARS = 200

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
        raise ValueError(f"{path} is not a fastText model ({error}); train one with tasks.filters.train_toxicity") from error
    if TOXIC_LABEL not in model.get_labels():
        raise ValueError(f"{path} has the labels {model.get_labels()}, but not {TOXIC_LABEL}; it was trained for another task")
    return model


def score_piece(model: Any, piece: str) -> float:
    """The classifier's probability of "toxic" for one piece, 0 to 1."""
    classifier_input = as_classifier_input(piece)
    if not classifier_input:
        return 0.0
    # Not model.predict(): in fasttext-wheel 0.9.2 under numpy 2 it raises for a string, and for a list with k > 1 it
    # returns the best label's score for every label.
    predictions = model.f.predict(classifier_input + "\n", -1, 0.0, "strict")
    return min(1.0, max((score for score, label in predictions if label == TOXIC_LABEL), default=0.0))
