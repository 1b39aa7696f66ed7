"""A classifier on disk: the bundle, a folder that says what the model in it is for and how far it is to be trusted.

    model.ftz | model.bin   the fastText model
    classifier.json         all that using it needs, and the figures it was published with
    card.md                 the same for people
    seen.npy                keys of the texts that it was trained or tuned on, so that no test counts them

Its identity is the SHA-256 of `classifier.json`, which holds those of the model and of `seen.npy`. The card is no part
of it: a better sentence does not make another model.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from tasks.atomic import new_directory, write_file
from tasks.classifiers.calibration import Calibration
from tasks.classifiers.fast_text import FastText, FastTextTraining, load_fast_text
from tasks.classifiers.normalise import NormaliserName, model_lines, normalised
from tasks.model_files import CLASSIFIER_FILE
from tasks.rule import Configuration

CARD_FILE = "card.md"
SEEN_FILE = "seen.npy"
MODEL_FILES = ("model.ftz", "model.bin")

_SHA256_OR_NOT_YET = r"^([0-9a-f]{64})?$"


class DataFacts(Configuration):
    """One source of texts that a classifier was trained, tuned or measured on."""

    name: str
    sha256: str = Field(description="Of its files' contents, in the order of their names")
    num_texts: int = Field(ge=0)
    licence: str
    origin: str


class Classifier(Configuration):
    """`classifier.json`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    task: str = Field(description="What it tells apart, in one sentence for people")
    positive: str = Field(description="The label that a score is the probability of, without __label__")
    labels: tuple[str, ...]
    normaliser: NormaliserName = Field(description="How a text becomes a line for the model, in training and in use")
    unit: Literal["document", "piece"] = Field(description="What one training example was")
    aggregation: str = Field("", description="How the scores of its pieces make a document's; none for whole documents")
    threshold: float = Field(ge=0.0, le=1.0, description="On the calibrated, aggregated score; what is strictly above")
    false_alarm_fraction: float = Field(gt=0.0, lt=1.0, description="The rate that the threshold was chosen for")
    calibration: Calibration
    model_file: Literal["model.ftz", "model.bin"] = "model.ftz"
    model_sha256: str = Field("", pattern=_SHA256_OR_NOT_YET)
    seen_sha256: str = Field("", pattern=_SHA256_OR_NOT_YET)
    training: FastTextTraining
    data: tuple[DataFacts, ...]
    scores: dict[str, float] = Field(description="Held-out figures, by flat names")
    licence: str
    origin: str
    languages: tuple[str, ...]
    created: str = Field("", description="When, as a date or a time in ISO 8601")

    @model_validator(mode="after")
    def _holds_together(self) -> Classifier:
        if self.positive not in self.labels:
            raise ValueError(f"positive {self.positive!r} is none of the labels {', '.join(self.labels)}")
        if self.unit == "document" and self.aggregation:
            raise ValueError(f"aggregation {self.aggregation!r} is for pieces; a document's score is its own")
        return self


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. The model is read when it is first asked, and once per process."""

    folder: Path
    classifier: Classifier
    sha256: str

    @property
    def model(self) -> FastText:
        """Raises ValueError where the model does not have the labels that `classifier.json` names."""
        model = load_fast_text(self.model_path)
        if set(model.labels) != set(self.classifier.labels):
            raise ValueError(
                f"{self.model_path} has the labels {', '.join(model.labels)}, but {CLASSIFIER_FILE} says"
                f" {', '.join(self.classifier.labels)}; the bundle was put together wrongly: train it again"
            )
        return model

    @property
    def model_path(self) -> Path:
        return self.folder / self.classifier.model_file

    def files(self) -> tuple[Path, ...]:
        """What its identity covers: `classifier.json`, the model, and the keys of the texts it has seen."""
        return (self.folder / CLASSIFIER_FILE, self.model_path, self.folder / SEEN_FILE)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """The calibrated probability of `classifier.positive` for each text, an example of `classifier.unit`."""
        return self.classifier.calibration.probabilities(self.raw_probabilities(texts))

    def raw_probabilities(self, texts: Sequence[str]) -> list[float]:
        """As the model gives them; 0 for a text of which the normaliser leaves nothing."""
        return self.model.probabilities_of(model_lines(self.classifier.normaliser, texts), self.classifier.positive)

    def seen(self) -> NDArray[np.uint64]:
        """Keys (`text_keys`) of the texts it was trained or tuned on, ascending."""
        keys: NDArray[np.uint64] = np.load(self.folder / SEEN_FILE, allow_pickle=False)
        return keys

    def has_seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Of each text whether it is one that the classifier was trained or tuned on."""
        return np.isin(text_keys(self.classifier.normaliser, texts), self.seen())


def text_keys(normaliser: str, texts: Sequence[str]) -> NDArray[np.uint64]:
    """What `seen.npy` knows texts by, in their order."""
    return line_keys(normalised(normaliser, texts))


def line_keys(lines: Sequence[str]) -> NDArray[np.uint64]:
    """The first 8 bytes of the SHA-256 of each line that a normaliser made of a text."""
    digests = b"".join(hashlib.sha256(line.encode()).digest()[:8] for line in lines)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def embedded(name: str) -> Path:
    """The folder of the classifier `name` that comes with this package."""
    return Path(__file__).with_name("embedded") / name


def load_bundle(folder: Path, sha256: str = "") -> Bundle:
    """The bundle in `folder`, verified; with `sha256` only the one of that identity.

    Raises ValueError where it is incomplete, where a hash differs (with both), or `classifier.json` is not understood.
    """
    try:
        return _load(folder, sha256)
    except OSError as error:
        raise ValueError(
            f"the classifier in {folder} can't be read ({error}): check the folder and its rights"
        ) from error


def _load(folder: Path, sha256: str) -> Bundle:
    for name in (CLASSIFIER_FILE, SEEN_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no classifier: it has no {name}; name a folder that a training wrote")
    content = (folder / CLASSIFIER_FILE).read_bytes()
    identity = hashlib.sha256(content).hexdigest()
    if sha256 and identity != sha256:
        raise _differs(folder / CLASSIFIER_FILE, identity, sha256)
    try:
        classifier = Classifier.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        raise ValueError(
            f"{folder / CLASSIFIER_FILE} is not understood ({where}: {first['msg']}); it was changed, or written by"
            " another version: fetch or train the classifier again"
        ) from error
    bundle = Bundle(folder, classifier, identity)
    for path, expected in ((bundle.model_path, classifier.model_sha256), (folder / SEEN_FILE, classifier.seen_sha256)):
        if not path.is_file():
            raise ValueError(f"{folder} is no classifier: it has no {path.name}; name a folder that a training wrote")
        if (found := _sha256_of(path)) != expected:
            raise _differs(path, found, expected)
    return bundle


def save_bundle(folder: Path, classifier: Classifier, model_file: Path, seen: NDArray[np.uint64], card: str) -> Bundle:
    """Write a bundle, whole or not at all. The names and hashes of its files are filled in.

    Raises ValueError where `folder` exists, or the model file is neither .ftz nor .bin.
    """
    name = f"model{model_file.suffix}"
    if name not in MODEL_FILES:
        raise ValueError(f"{model_file} is neither a .ftz nor a .bin file: name a fastText model")
    if folder.exists():
        raise ValueError(f"{folder} is there already: remove it or choose another folder for the classifier")
    with new_directory(folder) as directory:
        shutil.copyfile(model_file, directory / name)
        np.save(directory / SEEN_FILE, np.unique(seen.astype(np.uint64)), allow_pickle=False)
        (directory / CARD_FILE).write_text(card, encoding="utf-8")
        complete = classifier.model_copy(
            update={
                "model_file": name,
                "model_sha256": _sha256_of(directory / name),
                "seen_sha256": _sha256_of(directory / SEEN_FILE),
            }
        )
        write_file(directory / CLASSIFIER_FILE, (complete.model_dump_json(indent=1) + "\n").encode())
    return load_bundle(folder)


def _differs(path: Path, found: str, expected: str) -> ValueError:
    return ValueError(f"{path} has the SHA-256 {found}, but {expected} is expected: remove it and fetch it again")


def _sha256_of(path: Path) -> str:
    """Of a file's content, which is read once per process for as long as the file stays what it is."""
    facts = path.stat()
    return _hashed(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hashed(path: Path, inode: int, num_bytes: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
