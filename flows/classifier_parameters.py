"""What an operator can set for the training of a classifier: Prefect's form, and the options of the command line."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from flows.parameters import Form, Text

DEFAULT_PAGES = 10_000
_CLASSIFIER_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"
_Label = Annotated[str, Field(min_length=1, pattern=r"^[^|]*$")]  # the command line writes several as A|B
_SOURCE_NAME = r"^([A-Za-z0-9][A-Za-z0-9 ._-]*)?$"


class LabelledData(Form):
    """A labelled table: its columns, and which of its labels mean what."""

    file: Text = Field(
        title="File",
        description="A path, glob or address of CSV, JSONL or Parquet, plain, .gz or .zst.",
    )
    text: Text = Field("text", title="Text column", description="Holds the texts.")
    label: Text = Field("label", title="Label column", description="Holds each text's label.")
    positive: list[_Label] = Field(
        title="Positive labels", min_length=1, description="Values of the label column that make a positive."
    )
    negative: list[_Label] = Field(
        default_factory=list,
        title="Negative labels",
        description="Values that make a negative. None: every other value; else another value is an error.",
    )
    source: str = Field(
        "", title="Source column", description="Says where each text is from, for figures by source. Empty: none."
    )
    group: str = Field(
        "",
        title="Group column",
        description="Texts with the same value are never both trained on and tested: a page, thread or author. Empty:"
        " none.",
    )
    name: str = Field("", title="Name", pattern=_SOURCE_NAME, description="In cards and figures. Empty: the file's.")
    licence: str = Field("unknown", title="Licence", description="Of the data, for the card.")
    origin: str = Field("", title="Origin", description="Who made the data, and where it is, for the card.")

    @property
    def shown_name(self) -> str:
        """The given name, else the file's without its suffixes, in letters and digits of ASCII."""
        file = PurePosixPath(urlsplit(self.file).path).name.partition(".")[0]
        ascii_only = unicodedata.normalize("NFKD", file).encode("ascii", "ignore").decode()
        return self.name or re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_only).strip("_-") or "data"


class Background(Form):
    """Ordinary pages, on which false alarms are counted: half of them choose the threshold, half report."""

    sources: list[Text] = Field(
        default_factory=list,
        title="Sources",
        description="As for a refresh, where a page's main content is one text; or tables of texts (CSV, JSONL,"
        " Parquet); or published versions, name@version.",
    )
    text: Text = Field("text", title="Text column", description="Of tables.")
    pages: int = Field(
        DEFAULT_PAGES,
        ge=1,
        le=100_000,
        title="Pages",
        description="Of sources that are no tables, at most: a sample, spread evenly. The rarer the false alarms that"
        " are allowed, the more pages it takes to count them.",
    )
    licence: str = Field("unknown", title="Licence", description="Of the pages, for the card.")
    origin: str = Field("", title="Origin", description="Where they are from, for the card.")


class Purpose(Form):
    """What the classifier tells apart, and how a text is shown to it."""

    task: str = Field("", title="Task", description="One sentence for people. Empty: made of the two labels.")
    positive: str = Field("positive", title="Positive", pattern=_LABEL, description="What the score is the chance of.")
    negative: str = Field("negative", title="Negative", pattern=_LABEL, description="The other label.")
    unit: Literal["document", "piece"] = Field(
        "document",
        title="Unit",
        description="What a labelled text is: a whole document, or a sentence or line.",
    )
    aggregation: str = Field(
        "",
        title="Aggregation",
        description="How the scores of a document's pieces make the document's: highest_piece or"
        " highest_english_sentence. Empty for the unit document. The toxicity rule takes the unit piece only.",
    )
    normaliser: Literal["words_and_marks", "plain_line"] = Field(
        "words_and_marks",
        title="Normaliser",
        description="words_and_marks: lower-case words, without links, names, digits; plain_line: as it is, in a line.",
    )
    languages: list[Text] = Field(
        default_factory=lambda: ["en"], title="Languages", description="Of the labelled texts, as ISO 639-1 codes."
    )
    licence: str = Field("unknown", title="Licence", description="Under which the classifier may be used.")
    origin: str = Field("", title="Origin", description="Who made the classifier.")


class Effort(Form):
    """How long settings are searched for, and from which random numbers."""

    trials: int = Field(8, ge=1, le=1000, title="Trials", description="Settings that are tried; the first are usual.")
    minutes: float = Field(
        10.0, gt=0, le=10_000, allow_inf_nan=False, title="Minutes", description="After so many no trial is begun."
    )
    seed: int = Field(1, ge=0, le=2**31 - 1, title="Seed", description="Of the search, the training and the gate.")


class Gate(Form):
    """What a classifier must show to become the champion."""

    false_alarms: float = Field(
        0.005,
        gt=0,
        lt=0.5,
        title="False alarms at most",
        description="Share of the background that may be taken for a positive: chooses the threshold, and is a limit.",
    )
    metric: Literal["average_precision", "recall"] = Field(
        "average_precision",
        title="Figure",
        description="In which it must be better than the champion on texts that neither has seen, by more than chance.",
    )
    max_fall: float = Field(
        0.05,
        ge=0,
        lt=1,
        title="Fall at most",
        description="Share of a slice's texts (all, a source, a length, those that name a group of people) that it may"
        " miss, or flag wrongly, more than the champion, each at its own threshold.",
    )
    champion: Literal["by_gate", "never"] = Field(
        "by_gate", title="Move champion", description="never: the new version stays a candidate, whatever it shows."
    )


class TrainClassifierParameters(Form):
    """Labelled texts to a registered classifier."""

    name: str = Field(
        "toxicity", title="Classifier name", pattern=_CLASSIFIER_NAME, description="Its name in the registry."
    )
    data: list[LabelledData] = Field(
        default_factory=list, title="Labelled data", description="Tables of labelled texts; it takes one at least."
    )
    background: Background = Field(default_factory=Background, title="Background")
    purpose: Purpose = Field(default_factory=Purpose, title="Purpose")
    effort: Effort = Field(default_factory=Effort, title="Budget")
    gate: Gate = Field(default_factory=Gate, title="Gate")
    dry_run: bool = Field(
        False, title="Dry run", description="Resolve, check and estimate everything; do and write nothing."
    )
