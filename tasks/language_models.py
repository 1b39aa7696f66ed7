"""What tells languages apart: the model inside the py3langid package, or a fastText model that a recipe names.

Both look at the beginning of a text, and say its likeliest language and a score. What the score means is the model's
own affair, and so is the limit that goes with it:

py3langid 0.4    naive Bayes over byte n-grams for 139 languages and `zxx`, "no language", a descendant of langid.py
                 (Lui and Baldwin 2012); a probability over those, softened by the square root of the text's length
fastText         the probability of the best label, which is not added to that of another label of the same language
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from tasks.language_codes import language_code
from tasks.model_files import model_path

MAX_CHARS = 5_000
"""Of a text, from its beginning, that are looked at: 1 ms for all. At 20,000 as many of 495 web pages are kept."""

UNDETERMINED = "und"  # ISO 639-2, for what has no letters to go by
NO_LANGUAGE = "zxx"  # ISO 639-2, for what is not in a language: program code, figures


class LanguageModel(Protocol):
    """A model that is loaded."""

    @property
    def languages(self) -> frozenset[str]:
        """The codes that it can answer with."""
        ...

    def identify(self, pieces: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each piece and its score, 0 to 1; `und` with 0 for nothing but white space.

        The score is rounded to 4 digits, so that it is the same on machines whose arithmetic differs in the last one.
        """
        ...


class EmbeddedModel:
    """py3langid's own model."""

    @property
    def languages(self) -> frozenset[str]:
        return frozenset(map(str, _langid().labels))

    def identify(self, pieces: Sequence[str]) -> list[tuple[str, float]]:
        return [_identified(piece) for piece in pieces]


class FastTextModel:
    """A fastText model whose labels are languages. Raises ValueError where the file is none, or they are not."""

    def __init__(self, path: Path) -> None:
        from tasks.classifiers.fast_text import load_fast_text
        from tasks.classifiers.normalise import as_words
        from tasks.tables import clean

        self._clean, self._as_words = clean, as_words
        self._model = load_fast_text(path)
        self._codes = {label: language_code(label) for label in self._model.labels}
        if odd := [label for label, code in self._codes.items() if not (code.isascii() and code.islower())]:
            raise ValueError(f"{path} is no model of languages: one of its labels is {odd[0]!r}; name one like lid.176")
        self.languages: frozenset[str] = frozenset(self._codes.values())

    def identify(self, pieces: Sequence[str]) -> list[tuple[str, float]]:
        lines = [self._as_words(self._clean(piece)).replace("\n", " ") for piece in pieces]
        return [
            (self._codes[label], round(score, 4)) if label and not line.isspace() else (UNDETERMINED, 0.0)
            for line, (label, score) in zip(lines, self._model.best(lines), strict=True)
        ]


def language_model(name: str) -> LanguageModel:
    """The model that a rule names; "" is the embedded one. Raises ValueError as `tasks.model_files.model_path`."""
    if not name:
        return EmbeddedModel()
    path = model_path(name, None)
    if path.is_dir():
        raise ValueError(f"the model {name} is a classifier's folder; of languages, name one fastText file")
    return FastTextModel(path)


def beginning(text: str) -> str:
    """The characters of a text that a model looks at."""
    return text.lstrip()[:MAX_CHARS]


def identify(text: str) -> tuple[str, float]:
    """The likeliest language of a text's beginning by the embedded model, and its probability."""
    return _identified(beginning(text))


def _identified(piece: str) -> tuple[str, float]:
    if not piece or piece.isspace():
        return UNDETERMINED, 0.0
    language, score = _langid().classify(piece)
    return str(language), round(float(score), 4)


def wanted_probability(languages: tuple[str, ...]) -> Callable[[str], tuple[float, str]]:
    """A function from a text to the probability that it is in one of `languages`, and its likeliest language.

    By the embedded model, rounded as that of `identify`. Raises ValueError for a language that it does not know.
    """
    check_known(languages, EmbeddedModel())
    langid = _langid()

    def probability(text: str) -> tuple[float, str]:
        ranked = langid.rank(text)
        return round(float(sum(score for language, score in ranked if language in languages)), 4), str(ranked[0][0])

    return probability


def check_known(languages: Sequence[str], model: LanguageModel) -> None:
    """Raises ValueError, in one line, where the model has no label for one of `languages`."""
    if unknown := sorted(set(languages) - model.languages - {NO_LANGUAGE}):
        raise ValueError(f"the model does not know {', '.join(unknown)}; it knows {', '.join(sorted(model.languages))}")


@lru_cache(maxsize=1)
def _langid() -> Any:
    # Imported and unpacked when first needed: 1.5 s and 90 MB, once per process.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
