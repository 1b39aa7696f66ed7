"""Search for a classifier's settings: a seeded random search within a budget, of which every trial is on record.

Random search finds good settings sooner than a grid where few of them matter (Bergstra and Bengio 2012, "Random search
for hyper-parameter optimization"). The first candidate is the one that was given, so a search never makes things worse.
Which settings follow depends on the seed alone; how many are tried, on the budget. Where time is the bound that binds,
a faster machine tries more of them: who wants the same model again bounds the trials.

Trials are rows of a file, written as soon as they are known. A search that was killed takes those that are there: a row
counts where its key is equal, which is a hash of the settings, the data and the code.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from tasks.atomic import write_file
from tasks.classifiers.csv_table import csv_table
from tasks.classifiers.fast_text import FastTextTraining
from tasks.manifest import fingerprint
from tasks.rule import Configuration
from tasks.stages import Progress, no_progress

STAGE = "trials"

_CHOICES: Mapping[str, Sequence[Any]] = {
    "dim": (8, 16, 32),
    "epoch": (2, 3, 5, 8, 12),
    "word_ngrams": (1, 2, 3),
    "subwords": ((0, 0), (2, 4), (3, 5), (3, 6)),
    "bucket": (50_000, 100_000, 200_000, 500_000),
    "min_count": (1, 2, 5),
    "cutoff": (10_000, 20_000, 30_000, 60_000, 100_000),
    "minority_ratio": (0.0, 0.25, 0.5, 1.0),
}
_LR_RANGE = (0.05, 1.0)  # drawn evenly on a logarithmic scale


class Budget(Configuration):
    """How long settings are searched: until the first of the two bounds is met, after one trial at least."""

    trials: int = Field(12, ge=1, le=1_000, description="Settings tried at most; 1 takes the first without a search")
    seconds: float = Field(600.0, gt=0.0, le=7 * 86_400.0, description="No trial is begun after so many seconds")


class Settings(Configuration):
    """What a trial tries."""

    training: FastTextTraining = FastTextTraining()
    minority_ratio: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="The rarer class is repeated until it has about this share of the commoner one's examples: 1 makes"
        " both weigh the same, 0 leaves them as they are",
    )

    def repetitions(self, num_rarer: int, num_commoner: int) -> int:
        """How often each example of the rarer class is given, once at least."""
        return max(1, round(self.minority_ratio * num_commoner / num_rarer))


@dataclass(frozen=True, slots=True)
class Score:
    """What came of a trial."""

    average_precision: float
    size_bytes: int
    """Of the model's file."""
    note: str = ""
    """Why the trial is worth nothing, where it is."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried; `number` from 1, in the order of the search."""

    number: int
    key: str
    settings: Settings
    score: Score
    seconds: float

    def row(self) -> dict[str, str | float]:
        """As a row of the file."""
        training = self.settings.training.model_dump()
        return {
            "number": self.number,
            "key": self.key,
            "average_precision": repr(self.score.average_precision),
            "size_bytes": self.score.size_bytes,
            "seconds": repr(self.seconds),
            "note": self.score.note,
            "minority_ratio": self.settings.minority_ratio,
            **training,
        }


def candidates(first: Settings, seed: int) -> Iterator[Settings]:
    """Settings without end: `first`, and then what the seed draws; none comes twice in a row of draws."""
    yield first
    seen, draw = {first}, np.random.default_rng(seed)
    while True:
        chosen = {name: values[int(draw.integers(len(values)))] for name, values in _CHOICES.items()}
        lr = float(np.exp(draw.uniform(*np.log(_LR_RANGE))))
        shortest, longest = chosen["subwords"]
        settings = Settings(
            training=FastTextTraining(
                dim=chosen["dim"],
                epoch=chosen["epoch"],
                lr=float(f"{lr:.3g}"),
                word_ngrams=chosen["word_ngrams"],
                min_subword_chars=shortest,
                max_subword_chars=longest,
                bucket=chosen["bucket"],
                min_count=chosen["min_count"],
                cutoff=chosen["cutoff"],
                seed=first.training.seed,
            ),
            minority_ratio=chosen["minority_ratio"],
        )
        if settings not in seen:
            seen.add(settings)
            yield settings


def search(
    evaluate: Callable[[Settings], Score],
    first: Settings,
    budget: Budget,
    seed: int,
    identity: Mapping[str, Any],
    trials_csv: Path,
    progress: Progress = no_progress,
) -> tuple[Trial, ...]:
    """Try settings within the budget. `identity` is all else that a score depends on (data, code).

    The seconds of trials that are taken from the file count, so that a search that is killed and begun again costs
    what was budgeted. Raises ValueError where the file is no list of trials, and what `evaluate` raises.
    """
    known = _read(trials_csv)
    trials: list[Trial] = []
    spent_s = 0.0
    for number, settings in enumerate(candidates(first, seed), start=1):
        key = fingerprint({"settings": settings, **identity})
        if key in known:
            score, seconds = _parsed(trials_csv, known[key])
        else:
            started = time.monotonic()
            score = evaluate(settings)
            seconds = round(time.monotonic() - started, 3)
        trial = Trial(number, key, settings, score, seconds)
        trials.append(trial)
        spent_s += seconds
        if key not in known:
            known[key] = {name: str(value) for name, value in trial.row().items()}
            _write(trials_csv, known)
        done = number == budget.trials or spent_s >= budget.seconds
        note = score.note or f"average precision {score.average_precision:.4f}"
        progress(STAGE, number, number if done else budget.trials, note=note)
        if done:
            break
    return tuple(trials)


def best(trials: Sequence[Trial], max_size_bytes: int) -> Trial:
    """The trial with the highest average precision whose model is small enough; of equal ones the smaller, earlier one.

    Raises ValueError where no model is small enough.
    """
    fitting = [trial for trial in trials if trial.score.size_bytes <= max_size_bytes and not trial.score.note]
    if not fitting:
        found = sorted({trial.score.note or f"{trial.score.size_bytes:,} bytes" for trial in trials})
        raise ValueError(
            f"none of {len(trials)} trials gave a model of at most {max_size_bytes:,} bytes that tells the classes"
            f" apart ({'; '.join(found)}): allow a larger one, lower cutoff, or look at the labels"
        )
    return min(fitting, key=lambda trial: (-trial.score.average_precision, trial.score.size_bytes, trial.number))


def trials_table(trials: Sequence[Trial]) -> str:
    """The trials as CSV."""
    rows = [trial.row() for trial in trials]
    return _table([{name: str(value) for name, value in row.items()} for row in rows])


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    return csv_table(columns, [[row.get(column, "") for column in columns] for row in rows])


def _write(trials_csv: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    trials_csv.parent.mkdir(parents=True, exist_ok=True)
    write_file(trials_csv, _table(list(rows.values())).encode())


def _read(trials_csv: Path) -> dict[str, dict[str, str]]:
    """The rows by their keys, in the order of the file; none where there is no file."""
    if not trials_csv.is_file():
        return {}
    with trials_csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if any(not row.get("key") for row in rows):
        raise ValueError(f"{trials_csv} is no list of trials: remove it, and the search begins anew")
    return {row["key"]: row for row in rows}


def _parsed(trials_csv: Path, row: Mapping[str, str]) -> tuple[Score, float]:
    try:
        score = Score(float(row["average_precision"]), int(row["size_bytes"]), row["note"])
        return score, float(row["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{trials_csv}: the row with the key {row['key']} is not as it was written ({error}): remove the file, and"
            " the search begins anew"
        ) from error
