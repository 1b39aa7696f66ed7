"""Which language a document is in, and whether it stays: the rule, and what it does where no model can know.

**The embedded model** is py3langid's, which needs no download. It was chosen by `tests/benchmarks/bench_language.py`
(61 languages that all but whatlang claim; accuracy is the mean over languages):

                    articles of the declaration   50 chars   20 chars   web: en of 495   ms a text    MB
    py3langid 0.4          .938 (.931-.945)         .908       .791          494             1.3       4.6
    pycld2 0.42            .931 (.922-.939)         .848       .631          493              .16     14
    lingua 2.1             .930 (.922-.938)         .900       .836          493            10       100
    fastText of ours       .918 (.905-.932)         .846       .664          375              .95      1.2
    lid.176.ftz            .861 (.849-.874)         .799       .675          491              .91       .9
    whatlang 0.6           .734 (.729-.738)         .704       .622          488              .30      5.4

None is more accurate on anything longer than 20 characters, and none finds more of the pages. pycld2 is eight times as
fast, which saves 1 ms of the 20 that a page costs, but it calls other languages English (precision .63 at 50
characters, 1.0 here) and gives no probability. lingua needs 1.4 GB of memory, py3langid 80 MB.

**Its threshold** is its own: py3langid's score is a probability, softened by the square root of the text's length.

    threshold                                        0    .3    .5   .65    .9
    kept, of 495 web pages' main texts             494   490   489   488   486   one is mostly Indonesian
    kept, of 48 English pieces of 200 chars         48    48    48    48    48   lowest score .973
    kept, of 3,396 such pieces in the 283 files
    of the declaration in other languages            1     0     0     0     0

Those below .5 are lists of products and prices. This table and those below were looked at whole while the limits were
chosen. By halves (`tests/benchmarks/report_language.py`; 95 % intervals), of the odd one, which reports, stay

    web pages' main texts, all English but perhaps one              247 of 249   99.2 % (97.1 to 99.9)
    English pieces of 50 characters, declaration                      69 of 69   100 % (94.8 to 100)
    pieces of 200 characters in other languages                       0 of 810   0 % (0 to .45)
    pieces of 50 characters in other languages                      1 of 1,006   .1 % (0 to .55)
    lines of English pages, 10-24, 25-49 and 50-99 letters         of 500 each   56 %, 89 %, 98 %
    30,000 characters, 30 % and 70 % English at the beginning       of 12 each   0 (0 to 26 %), 12 (74 to 100 %)
    program code: Python, C headers, JavaScript             of 158, 161 and 160   54 %, 30 %, 7.5 %

and on the even half .5 keeps as many pages as .3 and .65 do (242 of 246). The .65 that FineWeb published belongs to
lid.176, and another model has to be given with a limit of its own.

**Short texts.** Softened, the score of a short text says how short it is: of lines of English web pages, .5 keeps

    letters                         10-15   20-25   30-40   50-70   70-100   100-150
    kept by a score of .5            .050    .250    .570    .867     .943      .983
    English is the likeliest         .423    .697    .910    .987     .983      .993
    others called English [1]       .0037   .0000   .0000   .0000    .0000     .0000    [1] the declaration's pieces

so below 100 letters the likeliest language decides, and the score does not. lid.176 calls .02 to .06 of the others
English there, whatever their length, and texts without a letter: with another model the score always counts.

**Mixed texts.** Up to eight windows of 200 characters, evenly spread over the whole text, are identified on their own;
those that the model is sure of vote. In all 461 of the 495 pages that have such windows every one is English, so none
is lost. Of texts that begin in English and go on in one of twelve other languages, those of 30,000 characters stay with
50 % English and go with 40 %; of shorter ones the model sees the whole, and they go as another language.

**Program code** is found by the form of its lines (`tasks.language_shape`), of the first `MAX_CHARS` characters. No
model does: of 900 files of code py3langid takes 876 for English. Share of the characters on such lines:

    web pages (495)           99 % at most .27   highest .45
    documentation (1,200)     99 % at most .59   highest .69, but one page that is a program and nothing else: .82
    code above .75            C headers 62 %, JavaScript 88 %, Python 41 %; the others begin with licences or prose
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.document import Document, Drop, Keep
from tasks.language_models import (
    MAX_CHARS,
    NO_LANGUAGE,
    UNDETERMINED,
    LanguageModel,
    beginning,
    check_known,
    identify,
    language_model,
    wanted_probability,
)
from tasks.language_shape import code_fraction, num_letters, windows
from tasks.model_files import ModelName, model_files, parse_model
from tasks.rule import Rule

__all__ = ["MAX_CHARS", "NO_LANGUAGE", "UNDETERMINED", "LanguageRule", "identify", "wanted_probability"]

EMBEDDED_MIN_SCORE = 0.5
"""Found for the embedded model: below are lists of products and prices."""
EMBEDDED_TRUSTED_LETTERS = 100

SURE_SCORE = 0.5
"""Likelier than all others together, by any model whose scores are probabilities."""
MIN_WINDOW_LETTERS = 80
"""A window with fewer, of 200 characters, is a table of figures, and in no other language for sure."""


@dataclass(frozen=True)
class Judged:
    """What is known of a document before its score meets a limit."""

    document: Document
    """With its language and score."""
    score: float | None
    """That a limit is for; None where none is: the text is short, dropped for another reason, or program code."""
    drop: Drop | None
    """Why it is dropped, whatever the limit of the score."""


class LanguageRule(Rule):
    """Keeps documents in the wanted languages.

    Reasons, in the order in which they are looked at:

    language_code    program code alone (value: its share of the characters; detail: what the model takes it for)
    language_short   fewer than `trusted_letters` letters, and likelier in another language, though not surely (value:
                     how many letters; detail: that language)
    language_other   another language (value: its score; detail: the language)
    language_mixed   in a wanted language at the beginning, but too little of it (value: the share of the windows that
                     are in one; detail: the language of most others)
    language_score   a wanted language, but too unsure (value: the score; detail: the language)

    `language_rough` is that of the check before extraction (`tasks.rough_language`).
    """

    kind: Literal["language"] = "language"
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-wheel", "numpy", "py3langid")

    languages: tuple[str, ...] = Field(
        default=("en",),
        min_length=1,
        description="Languages to keep, as ISO 639-1 codes in lower case; zxx: program code",
    )
    model: ModelName = Field(
        default="",
        description="A fastText model whose labels are languages, as lid.176.ftz, or a path or address with"
        " #sha256=...; empty: the embedded one. Another model needs a min_score of its own.",
    )
    min_score: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Lowest score of the language; none: .5, which was found for the embedded model",
    )
    min_scores: dict[str, float] = Field(
        default_factory=dict, description="Lowest score for single languages, in place of `min_score`"
    )
    trusted_letters: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Letters (an ideograph is 3) from which on the score counts; a shorter text stays where a wanted"
        " language is the likeliest, whatever its score. None: 100, which was found for the embedded model; 0 for"
        " another one",
    )
    min_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Of the windows over a text that the model is sure of, the share in wanted languages, at least;"
        " 0: any",
    )
    max_code_fraction: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="Characters on lines of program code, of all, at most; above, a text is in zxx; 1: any",
    )
    rough_check: bool = Field(
        default=True, description="Before extraction, drop pages that are surely in none of the languages"
    )

    @field_validator("languages")
    @classmethod
    def _codes(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        for code in languages:
            if not (code.isascii() and code.isalpha() and code.islower() and len(code) in (2, 3)):
                raise ValueError(f"languages: {code!r} is no ISO 639-1 code; write them like 'en'")
        return languages

    @model_validator(mode="after")
    def _scores_of_wanted_languages(self) -> LanguageRule:
        for code, score in self.min_scores.items():
            if code not in self.languages:
                raise ValueError(f"min_scores: {code!r} is not among the languages {', '.join(self.languages)}")
            if not 0 <= score <= 1:
                raise ValueError(f"min_scores: {score} for {code!r} is no probability, 0 to 1")
        return self

    @model_validator(mode="after")
    def _a_model_has_its_own_score(self) -> LanguageRule:
        if parse_model(self.model).kind == "registry":
            raise ValueError(
                f"model: {self.model} is of the registry, whose classifiers tell two classes apart; name a fastText"
                " model of languages, as lid.176.ftz, or by path or address"
            )
        if self.model and self.min_score is None:
            raise ValueError(
                "min_score: the default belongs to the embedded model, and each model's scores mean something else:"
                " give one with the model (.65 was published for lid.176, by FineWeb, and is right for no other)"
            )
        return self

    def min_score_of(self, language: str) -> float:
        """The limit for a document in this language: it is dropped where its score is lower."""
        default = EMBEDDED_MIN_SCORE if self.min_score is None else self.min_score
        return self.min_scores.get(language, default)

    @property
    def num_trusted_letters(self) -> int:
        """From which on the score counts."""
        default = 0 if self.model else EMBEDDED_TRUSTED_LETTERS
        return default if self.trusted_letters is None else self.trusted_letters

    def files(self) -> tuple[Path, ...]:
        """The fastText model; the embedded one is part of a library."""
        return model_files(self.model, None) if self.model else ()

    def build(self) -> Callable[[Document], Keep | Drop]:
        """The decision alone. Raises ValueError for a language that the model does not know, or no such model."""
        decide = self.build_identified()
        return lambda document: decide(document)[1]

    def build_identified(self) -> Callable[[Document], tuple[Document, Keep | Drop]]:
        """The decision, and the document with `language` and `language_score` set, kept or not. Raises as `build`."""
        judge = self.build_judged()

        def decide(document: Document) -> tuple[Document, Keep | Drop]:
            judged = judge(document)
            language, score = judged.document.language, judged.score
            if judged.drop is None and score is not None and score < (limit := self.min_score_of(language)):
                return judged.document, Drop("language_score", score, limit, language)
            return judged.document, judged.drop or Keep()

        return decide

    def build_judged(self) -> Callable[[Document], Judged]:
        """All of the decision but the limit of the score. Raises as `build`."""
        model = language_model(self.model)
        check_known(self.languages, model)
        trusted = self.num_trusted_letters

        def judge(document: Document) -> Judged:
            text = beginning(document.text)
            fraction = code_fraction(text)
            ((language, score),) = model.identify([text])
            if fraction > self.max_code_fraction:
                known = replace(document, language=NO_LANGUAGE, language_score=round(fraction, 4))
                drop = Drop("language_code", known.language_score, self.max_code_fraction, language)
                return Judged(known, None, None if NO_LANGUAGE in self.languages else drop)
            known = replace(document, language=language, language_score=score)
            letters = num_letters(text, trusted)
            is_short = letters < trusted
            if language not in self.languages:
                if is_short and score < SURE_SCORE:
                    return Judged(known, None, Drop("language_short", letters, trusted, language))
                return Judged(known, None, Drop("language_other", score, self.min_score_of(language), language))
            return Judged(known, None if is_short else score, self._mixed(document.text, model))

        return judge

    def _mixed(self, text: str, model: LanguageModel) -> Drop | None:
        """What windows over the whole text say, as far as the model is sure of them."""
        pieces = windows(text) if self.min_share else []
        wanted, others = 0, Counter[str]()
        for piece, (language, score) in zip(pieces, model.identify(pieces), strict=True):
            if score >= SURE_SCORE:
                if language in self.languages:
                    wanted += 1
                elif language != NO_LANGUAGE and num_letters(piece, MIN_WINDOW_LETTERS) >= MIN_WINDOW_LETTERS:
                    others[language] += 1
        share = wanted / (wanted + others.total()) if others else 1.0
        if share >= self.min_share:
            return None
        return Drop("language_mixed", round(share, 4), self.min_share, min(others, key=lambda one: (-others[one], one)))
