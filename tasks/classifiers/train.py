"""A classifier from labelled texts, from beginning to end: what `tokenmill train-classifier` does.

    labelled and background files
      -> distinct lines, near-duplicates on one side          (labelled, split, parts)
      -> settings, chosen on the validation side              (search)
      -> one model, quantised; a sigmoid fitted on the validation side        (fast_text, calibration)
      -> a threshold, chosen on one half of the background    (threshold)
      -> figures on the test side and on the other half       (measured)
      -> the bundle                                           (bundle, card)

    work/trials.csv                  every trial, whatever search it belongs to
    work/<name>-<fingerprint>/       of one configuration, data and code
        bundle/                      there when it is complete, and then not made again
        reports/                     pictures, slices, worst errors, trials

The test side and the reporting half are looked at once, for the figures; nothing is chosen by them. What a killed
training leaves besides is cleared away by the next one.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tasks.atomic import TEMPORARY_PREFIX, locked, remove_leftovers
from tasks.classifiers.bundle import Bundle, Classifier, line_keys, load_bundle, save_bundle
from tasks.classifiers.calibration import Calibration, fit_calibration
from tasks.classifiers.card import card
from tasks.classifiers.fast_text import FastText, train_fast_text
from tasks.classifiers.labelled import (
    BackgroundSource,
    Example,
    Gathered,
    LabelledSource,
    check_sources,
    gather,
    shown_labels,
)
from tasks.classifiers.measured import HeldOut, Measured, ScoreDocument, measure, score_texts, write_reports
from tasks.classifiers.metrics import average_precision
from tasks.classifiers.normalise import NORMALISERS, NormaliserName, normalised
from tasks.classifiers.parts import Parts, divide
from tasks.classifiers.scores import BoolArray, FloatArray
from tasks.classifiers.search import Budget, Score, Settings, Trial, best, search, trials_table
from tasks.classifiers.threshold import Threshold, choose_threshold
from tasks.manifest import PACKAGES, code_version, fingerprint, library_versions
from tasks.rule import Configuration
from tasks.stages import Progress, no_progress

TUNED_FOR = 0.6
"""The threshold is chosen for this part of the stated rate: chosen for the whole of it, every second one would exceed
it on other texts of the same kind."""

MAX_TRIAL_BACKGROUND = 2_000
"""Background documents that a trial is scored on, of the half that tunes, the first by hash."""

_NAME_DIGITS = 16


class ClassifierTraining(Configuration):
    """All that a trained classifier depends on, but for the content of its files."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", description="What it is registered as")
    task: str = Field(min_length=1, description="What it tells apart, in one sentence")
    positive: str = Field(
        "positive", pattern=r"^\S+$", description="Name of the class that scores are probabilities of"
    )
    negative: str = Field("negative", pattern=r"^\S+$", description="Name of the other class")
    labelled: tuple[LabelledSource, ...] = Field(min_length=1, description="Texts with labels")
    background: tuple[BackgroundSource, ...] = Field(
        min_length=1, description="Ordinary texts: one half chooses the threshold, the other counts false alarms"
    )
    normaliser: NormaliserName = Field(
        "words_and_marks", description=f"How texts become lines: one of {', '.join(NORMALISERS)}"
    )
    unit: Literal["document", "piece"] = Field("document", description="What one labelled text is")
    aggregation: str = Field("", description="How the scores of a document's pieces make its own; for unit piece")
    first: Settings = Field(Settings(), description="The settings that are tried first")
    budget: Budget = Budget()
    max_size_bytes: int = Field(4_000_000, ge=10_000, description="Of the quantised model's file, at most")
    false_alarm_fraction: float = Field(
        0.005, gt=0.0, lt=0.5, description="Background documents above the threshold, at most"
    )
    identity_slices: bool = Field(True, description="Figures on texts that mention identity groups (English terms)")
    languages: tuple[str, ...] = Field(("en",), description="Of the texts, as ISO 639-1 codes")
    licence: str = Field("unknown", description="Of the model")
    origin: str = Field("trained here", description="Who trained it, and where")
    seed: int = Field(1, ge=0, lt=2**31, description="Of the search")

    @model_validator(mode="after")
    def _holds_together(self) -> ClassifierTraining:
        if self.positive == self.negative:
            raise ValueError(f"both classes are called {self.positive!r}; give them two names")
        if self.aggregation and self.unit == "document":
            raise ValueError(f"aggregation {self.aggregation!r} is for unit piece; a document's score is its own")
        names = [source.name for source in (*self.labelled, *self.background)]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two sources are called {sorted(repeated)[0]!r}; figures by source need a name for each")
        return self


@dataclass(frozen=True)
class TrainedClassifier:
    """A complete bundle, and what was seen on the way."""

    bundle: Bundle
    reports: Path
    """Folder of pictures, tables and samples."""
    measured: Measured
    trials: tuple[Trial, ...]
    held_out: HeldOut
    reused: bool
    """The bundle was there, of the same configuration, data and code."""


def check_training(configuration: ClassifierTraining) -> None:
    """Look at the first row of every file. Raises ValueError, in one line, where a file or a column is missing."""
    check_sources(configuration.labelled, configuration.background)


def train_classifier(
    configuration: ClassifierTraining,
    work: Path,
    progress: Progress = no_progress,
    *,
    score_document: ScoreDocument | None = None,
    created: str = "",
) -> TrainedClassifier:
    """Train, measure and write a classifier.

    `score_document` is how the use makes a document's score of its pieces', where the configuration names an
    aggregation. The same texts, configuration and `created` give the same bundle, byte for byte, where the budget's
    trials bind and not its seconds; a bundle that is there in `work` keeps its own `created`. Raises ValueError for
    what is wrong with files, labels or sizes.
    """
    assert (score_document is None) == (not configuration.aggregation), "an aggregation and its function go together"
    with locked(work / ".lock"):  # who trains the same at the same time waits, and finds it done
        remove_leftovers(work)
        return _train(configuration, work, progress, score_document, created)


def _train(
    configuration: ClassifierTraining,
    work: Path,
    progress: Progress,
    score_document: ScoreDocument | None,
    created: str,
) -> TrainedClassifier:
    gathered = gather(configuration.labelled, configuration.background, configuration.normaliser)
    num_texts = len(gathered.examples) + len(gathered.background)
    progress("read", 1, 1, records=num_texts, note=f"{num_texts:,} texts, labels: {shown_labels(gathered.labels)}")
    parts = divide(gathered)
    progress("divide", 1, 1, note=f"{len(parts.train):,} train, {len(parts.test):,} test")
    identity = _identity(configuration, gathered, score_document)
    trials = search(
        lambda settings: _try(settings, configuration, parts, score_document, work),
        configuration.first,
        configuration.budget,
        configuration.seed,
        identity,
        work / "trials.csv",
        progress,
    )
    chosen = best(trials, configuration.max_size_bytes)
    key = fingerprint({"configuration": configuration, **identity})
    folder = work / f"{configuration.name}-{key[:_NAME_DIGITS]}"
    reused = (folder / "bundle").is_dir()
    if reused:
        bundle = load_bundle(folder / "bundle")
        measured = measure(bundle, parts.held_out, score_document, identity=configuration.identity_slices)
    else:
        bundle, measured = _make(configuration, gathered, parts, chosen, folder, score_document, created)
    progress("model", 1, 1, note=f"average precision {measured.report.average_precision}")
    reports = folder / "reports"
    write_reports(bundle, measured, parts.held_out, reports, negative=configuration.negative)
    (reports / "trials.csv").write_text(trials_table(trials), encoding="utf-8")
    progress("reports", 1, 1)
    return TrainedClassifier(bundle, reports, measured, trials, parts.held_out, reused)


def _identity(
    configuration: ClassifierTraining, gathered: Gathered, score_document: ScoreDocument | None
) -> dict[str, Any]:
    """What a trial's score depends on, beside its settings."""
    modules = {__name__}
    function: Any = score_document
    while isinstance(function, functools.partial):
        function = function.func
    if function is not None and function.__module__.partition(".")[0] in PACKAGES:
        modules.add(function.__module__)
    return {
        "data": gathered.sha256,
        "labels": [configuration.positive, configuration.negative],
        "normaliser": configuration.normaliser,
        "aggregation": configuration.aggregation,
        "code": code_version(*sorted(modules)),
        "libraries": library_versions(("fasttext-wheel", "numpy", "scikit-learn")),
    }


def _lines(
    examples: Sequence[Example], settings: Settings, configuration: ClassifierTraining
) -> Iterator[tuple[str, str]]:
    """What fastText is trained on: the rarer class as often as the settings say."""
    num_positives = sum(example.positive for example in examples)
    rarer_is_positive = num_positives * 2 <= len(examples)
    num_rarer = min(num_positives, len(examples) - num_positives)
    repetitions = settings.repetitions(num_rarer, len(examples) - num_rarer)
    for example in examples:
        label = configuration.positive if example.positive else configuration.negative
        for _ in range(repetitions if example.positive == rarer_is_positive else 1):
            yield label, example.line


def _labels(examples: Sequence[Example]) -> BoolArray:
    return np.array([example.positive for example in examples], dtype=np.bool_)


def _try(
    settings: Settings,
    configuration: ClassifierTraining,
    parts: Parts,
    score_document: ScoreDocument | None,
    work: Path,
) -> Score:
    """Average precision on the validation side, with ordinary documents among the negatives, which weigh as much as
    all labelled ones: how many there are of either says nothing about the use. 0 where no model comes of it."""
    from sklearn.metrics import average_precision_score

    size_bytes = 0
    try:
        with tempfile.TemporaryDirectory(dir=work, prefix=TEMPORARY_PREFIX) as scratch:
            path = Path(scratch) / "model.ftz"
            train_fast_text(_lines(parts.train, settings, configuration), settings.training, path, quantised=True)
            size_bytes = path.stat().st_size
            model = FastText(path)
        calibration = _calibration(model, configuration, parts.validation)
    except ValueError as error:  # such as a learning rate that is too high: the next settings may do
        return Score(0.0, size_bytes, str(error))
    labels = _labels(parts.validation)

    def probabilities(texts: Sequence[str]) -> list[float]:
        lines = normalised(configuration.normaliser, texts)
        return calibration.probabilities(model.probabilities(lines, configuration.positive))

    background = parts.tuning[:MAX_TRIAL_BACKGROUND]
    texts = [example.text for example in (*parts.validation, *background)]
    scores = score_texts(probabilities, texts, score_document)
    weights = np.ones(len(texts))
    weights[len(labels) :] = np.count_nonzero(~labels) / len(background)
    is_positive = np.concatenate([labels, np.zeros(len(background), dtype=np.bool_)])
    return Score(float(average_precision_score(is_positive, scores, sample_weight=weights)), size_bytes)


def _calibration(model: FastText, configuration: ClassifierTraining, examples: Sequence[Example]) -> Calibration:
    scores = model.probabilities([example.line for example in examples], configuration.positive)
    return fit_calibration(_labels(examples), scores)


def _make(
    configuration: ClassifierTraining,
    gathered: Gathered,
    parts: Parts,
    chosen: Trial,
    folder: Path,
    score_document: ScoreDocument | None,
    created: str,
) -> tuple[Bundle, Measured]:
    """The chosen settings once more, for good: model, calibration, threshold, figures, bundle."""
    settings = chosen.settings
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=TEMPORARY_PREFIX) as scratch:
        path, dense_path = Path(scratch) / "model.ftz", Path(scratch) / "model.bin"
        lines = _lines(parts.train, settings, configuration)
        train_fast_text(lines, settings.training, path, quantised=True, dense_out=dense_path)
        model, dense = FastText(path), FastText(dense_path)
        draft = Classifier(
            name=configuration.name,
            task=configuration.task,
            positive=configuration.positive,
            labels=tuple(sorted((configuration.positive, configuration.negative))),
            normaliser=configuration.normaliser,
            unit=configuration.unit,
            aggregation=configuration.aggregation,
            threshold=1.0,
            false_alarm_fraction=configuration.false_alarm_fraction,
            calibration=_calibration(model, configuration, parts.validation),
            training=settings.training,
            data=gathered.data,
            scores={},
            licence=configuration.licence,
            origin=configuration.origin,
            languages=configuration.languages,
            created=created,
        )
        seen = line_keys([example.line for example in (*parts.train, *parts.validation, *parts.tuning)])
        # What is measured is a bundle, read as its users read it, and not what lies around while one is made.
        unmeasured = save_bundle(Path(scratch) / "unmeasured", draft, path, seen, "")
        threshold = _threshold(unmeasured, configuration, parts, score_document)
        at_threshold = draft.model_copy(update={"threshold": threshold.value})
        unmeasured = save_bundle(Path(scratch) / "measured", at_threshold, path, seen, "")
        measured = measure(unmeasured, parts.held_out, score_document, identity=configuration.identity_slices)
        given_up = _given_up(model, dense, configuration, parts.test, path, dense_path)
        complete = at_threshold.model_copy(update={"scores": {**measured.figures(), **given_up}})
        text = card(complete, measured, threshold, gathered, parts.sizes(), chosen)
        return save_bundle(folder / "bundle", complete, path, seen, text), measured


def _threshold(
    bundle: Bundle, configuration: ClassifierTraining, parts: Parts, score_document: ScoreDocument | None
) -> Threshold:
    scores: FloatArray = score_texts(bundle.probabilities, [document.text for document in parts.tuning], score_document)
    return choose_threshold(scores, TUNED_FOR * configuration.false_alarm_fraction)


def _given_up(
    model: FastText,
    dense: FastText,
    configuration: ClassifierTraining,
    test: Sequence[Example],
    path: Path,
    dense_path: Path,
) -> dict[str, float]:
    """What quantising cost, on single texts of the test side: average precision after and before, bytes of both."""
    lines, labels = [example.line for example in test], _labels(test)
    before = average_precision(labels, dense.probabilities(lines, configuration.positive)).value
    after = average_precision(labels, model.probabilities(lines, configuration.positive)).value
    return {
        "average_precision_quantised": after,
        "average_precision_before": before,
        "size_bytes": float(path.stat().st_size),
        "size_bytes_before": float(dense_path.stat().st_size),
    }
