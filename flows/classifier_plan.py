"""What `train_classifier` is going to do, and what can be refused before any work."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.classifier_background import PlannedBackground, plan_background
from flows.classifier_parameters import LabelledData, TrainClassifierParameters
from infra.classifier_registry import champion_reference, check_classifier_name
from infra.settings import current_store
from tasks.address import redacted
from tasks.classifiers.fast_text import FastTextTraining
from tasks.classifiers.labelled import LabelCount, LabelledSource, check_sources, read_background
from tasks.classifiers.parts import check_labelled
from tasks.classifiers.search import Budget, Settings
from tasks.classifiers.table_rows import find_files
from tasks.classifiers.train import ClassifierTraining
from tasks.filters.piece_classifier import AGGREGATIONS
from tasks.manifest import fingerprint
from tasks.store import Store


@dataclass(frozen=True)
class ClassifierPlan:
    """What is trained on what, and where its unfinished work is kept."""

    store: Store
    training: ClassifierTraining
    background: PlannedBackground
    work: Path

    @property
    def name(self) -> str:
        return f"train classifier {self.training.name}"


def check_train_classifier(parameters: TrainClassifierParameters) -> ClassifierPlan:
    """What can be refused before any work, as ValueError in one line; else what is to be done."""
    store = current_store()
    for address in (*(data.file for data in parameters.data), *parameters.background.sources):
        _check_address(address)
    check_classifier_name(store, parameters.name)
    if not parameters.data:
        raise ValueError("name labelled data: a table of texts with a label each")
    purpose = parameters.purpose
    if purpose.aggregation and purpose.aggregation not in AGGREGATIONS:
        known = ", ".join(AGGREGATIONS)
        raise ValueError(f"there is no aggregation {purpose.aggregation!r}; there is {known}")
    if (purpose.unit == "piece") != bool(purpose.aggregation):
        raise ValueError("the unit piece goes with an aggregation, which makes the scores of pieces a document's")
    background = plan_background(store, parameters.background, purpose.languages)
    work = _work(store, parameters)
    labelled = _labelled(parameters.data, {source.name for source in background.sources(work)})
    check_sources(labelled, background.tables)
    return ClassifierPlan(store, _training(parameters, labelled, background, work), background, work)


def _check_address(address: str) -> None:
    """ValueError for one that may hold a secret, which the run, its card and its command would show."""
    scheme, _, rest = address.partition("://")
    is_query = scheme.lower() in ("http", "https") and "?" in rest
    if "@" in rest.partition("/")[0] or is_query:
        raise ValueError(
            f"{redacted(address)} was given with a user, a password or a query, and addresses are recorded with the"
            " run: leave credentials to the environment, or fetch the file first and name it by its path"
        )


def _labelled(tables: Sequence[LabelledData], others: Iterable[str]) -> tuple[LabelledSource, ...]:
    """The tables under names of their own, `others` being taken; of equal names of files, a number makes two."""
    taken = {*others}
    for given in (data.name for data in tables if data.name):
        if given in taken:
            raise ValueError(f"two sources are called {given!r}; figures by source need a name for each")
        taken.add(given)
    sources = []
    for data in tables:
        name = data.shown_name
        if not data.name:
            numbered = (f"{name}-{number}" for number in itertools.count(2))
            name = next(each for each in itertools.chain([name], numbered) if each not in taken)
            taken.add(name)
        sources.append(_source(data, name))
    return tuple(sources)


def _source(data: LabelledData, name: str) -> LabelledSource:
    return LabelledSource(
        name=name,
        paths=(data.file,),
        text=data.text,
        label=data.label,
        source=data.source,
        group=data.group,
        positive=tuple(data.positive),
        negative=tuple(data.negative),
        licence=data.licence,
        origin=data.origin or "unknown",
    )


def _training(
    parameters: TrainClassifierParameters,
    labelled: tuple[LabelledSource, ...],
    background: PlannedBackground,
    work: Path,
) -> ClassifierTraining:
    purpose, effort = parameters.purpose, parameters.effort
    return ClassifierTraining(
        name=parameters.name,
        task=purpose.task or f"Tells {purpose.positive} texts from {purpose.negative} ones.",
        positive=purpose.positive,
        negative=purpose.negative,
        labelled=labelled,
        background=background.sources(work),
        normaliser=purpose.normaliser,
        unit=purpose.unit,
        aggregation=purpose.aggregation,
        first=Settings(training=FastTextTraining(seed=effort.seed)),
        budget=Budget(trials=effort.trials, seconds=effort.minutes * 60.0),
        seed=effort.seed,
        false_alarm_fraction=parameters.gate.false_alarms,
        languages=tuple(purpose.languages),
        licence=purpose.licence,
        origin=purpose.origin or "unknown",
    )


def _work(store: Store, parameters: TrainClassifierParameters) -> Path:
    """Where a training of this name and background finds what a stopped one has left: pages, trials, a bundle."""
    key = fingerprint({"name": parameters.name, "background": parameters.background})
    return store.work / "train_classifier" / key[:20]


def dry_run_train_classifier(plan: ClassifierPlan, parameters: TrainClassifierParameters) -> dict[str, Any]:
    """What the run would do, as a plain mapping. Reads all tables, and writes nothing.

    ValueError where the labelled texts do not make a classifier: labels, rows, too few of a class.
    """
    champion = champion_reference(plan.store, parameters.name)
    gathered, sizes = check_labelled(plan.training.labelled, plan.training.normaliser)
    return {
        "dry_run": True,
        "classifier": parameters.name,
        "labelled": {source.name: list(find_files(source.paths)) for source in plan.training.labelled},
        "label_rows": {f"{count.source}: {count.label}": _label_rows(count) for count in gathered.labels},
        "distinct_texts": sizes,
        "background": [
            *(path for source in plan.background.tables for path in find_files(source.paths)),
            *(f"{source}, a sample of {parameters.background.pages:,} pages" for source in plan.background.pages),
        ],
        "background_rows": {source.name: sum(1 for _ in read_background(source)) for source in plan.background.tables},
        "trials": parameters.effort.trials,
        "minutes_of_search_at_most": parameters.effort.minutes,
        "goes_on_with_earlier_trials": (plan.work / "trials.csv").is_file(),
        "false_alarms_at_most": parameters.gate.false_alarms,
        "champion": champion or "none yet",
    }


def _label_rows(count: LabelCount) -> str:
    return f"{count.num_rows:,} {'positive' if count.positive else 'negative'}"
