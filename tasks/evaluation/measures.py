"""What a model was found to do, as measures that hold every example: so that each can be told with its noise, and two
models can be compared on the same examples.

    bits_per_byte                    held-out text of the corpus, by document
    held_out/<dimension>/<slice>     the same, of a slice
    <pack>/<task>/<metric>           a task, by example
    <pack>                           its centred score, 0 by chance and 1 at best: the mean over its tasks of
                                     (main metric - chance) / (1 - chance), as CORE of DCLM (Li et al. 2024). A task of
                                     code lengths is not in it; one of many parts counts once
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.decoder import Decoder
from tasks.classifiers.proportion import Estimate
from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.intervals import (
    ExampleSums,
    Ratios,
    mean_estimate,
    ratio_difference,
    ratio_estimate,
    share_difference,
    share_estimate,
    unchanged,
)
from tasks.evaluation.slices import Cell, metric_names, slice_documents

if TYPE_CHECKING:
    from tasks.evaluation.task_result import TaskResult

BITS_PER_BYTE = "bits_per_byte"
_SHARES = ("acc", "acc_norm")  # of right answers: an example is 0 or 1


@dataclass(frozen=True, eq=False)
class Measure:
    """One figure over examples: of the sum of numerators over the sum of denominators."""

    name: str
    ids: tuple[str, ...]
    sums: ExampleSums
    higher_is_better: bool
    chance: float | None = None
    """What a model that knows nothing would get, where that can be said."""
    is_share: bool = False
    figure: Callable[[Ratios], Ratios] = unchanged
    num_truncated: int = 0
    """Examples of which the network could not read all."""
    parts: tuple[str, ...] = ()
    """Of a task, what each example is about: a phenomenon of BLiMP."""

    @property
    def num_examples(self) -> int:
        return len(self.ids)

    def estimate(self) -> Estimate:
        """The figure and its 95 % interval."""
        if self.is_share:
            return share_estimate(self.sums[0] > 0)
        return ratio_estimate(self.sums, self.figure)

    @property
    def is_finite(self) -> bool:
        """Whether the model gave a finite number for every example; a perplexity may be infinite all the same."""
        return bool(np.isfinite(self.sums[0]).all())

    def difference(self, other: Measure) -> Estimate:
        """This one's figure less the other's, on the same examples. ValueError where they are not the same."""
        if self.ids != other.ids:
            raise ValueError(
                f"{self.name}: the two models were asked different examples ({len(self.ids):,} and {len(other.ids):,});"
                " score both on the same ones"
            )
        if self.is_share:
            return share_difference(self.sums[0] > 0, other.sums[0] > 0)
        return ratio_difference(self.sums, other.sums, self.figure)

    def without(self, ids: frozenset[str]) -> Measure | None:
        """The same figure without these examples; None where there are no others."""
        kept = np.array([one not in ids for one in self.ids], dtype=np.bool_)
        if not kept.any():
            return None
        sums = (self.sums[0][kept], self.sums[1][kept])
        names = tuple(one for one in self.ids if one not in ids)
        return Measure(self.name, names, sums, self.higher_is_better, self.chance, self.is_share, self.figure)


@dataclass(frozen=True, eq=False)
class CentredMean:
    """The score of a pack: the mean of its tasks' main metrics, each from 0 by chance to 1 at best."""

    name: str
    tasks: tuple[Measure, ...]
    higher_is_better: bool = True
    chance: float | None = 0.0

    @property
    def num_examples(self) -> int:
        return sum(task.num_examples for task in self.tasks)

    def estimate(self) -> Estimate:
        """The mean and its 95 % interval."""
        return mean_estimate([centred(task.estimate(), task.chance or 0.0) for task in self.tasks])

    @property
    def is_finite(self) -> bool:
        """Whether the model gave a finite number for every example."""
        return all(task.is_finite for task in self.tasks)

    def difference(self, other: CentredMean) -> Estimate:
        """This one's score less the other's, task by task on the same examples. ValueError where they are others."""
        if (names := [task.name for task in self.tasks]) != [task.name for task in other.tasks]:
            raise ValueError(f"{self.name}: the two models were not asked the same tasks, {', '.join(names)}")
        pairs = zip(self.tasks, other.tasks, strict=True)
        return mean_estimate([_stretched(one.difference(two), one.chance or 0.0) for one, two in pairs])


AnyMeasure = Measure | CentredMean


@dataclass(frozen=True)
class ModelScores:
    """All that was measured of a model, by name; and what the uniform distribution over its vocabulary would have got
    on the held-out text, as the measure `bits_per_byte`."""

    reference: str
    sha256: str
    """Of its weights."""
    measures: Mapping[str, AnyMeasure]
    uniform: Measure

    @property
    def not_finite(self) -> list[str]:
        """The measures on which the model gave no finite number for some example."""
        return [name for name, measure in self.measures.items() if not measure.is_finite]

    def measure(self, name: str) -> AnyMeasure:
        """ValueError, saying what there is, where nothing of this name was measured."""
        if name not in self.measures:
            raise ValueError(f"nothing is measured as {name!r}; there is {', '.join(self.measures)}")
        return self.measures[name]


def centred(estimate: Estimate, chance: float) -> Estimate:
    """A share with 0 at what chance gives."""
    value, low, high = ((each - chance) / (1 - chance) for each in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high)


def _stretched(difference: Estimate, chance: float) -> Estimate:
    """The difference of two shares that are then centred."""
    value, low, high = (each / (1 - chance) for each in (difference.value, difference.low, difference.high))
    return Estimate(value, low, high)


def held_out_measures(
    ids: Sequence[str], scores: Sequence[Score], slices: Mapping[str, Sequence[int]]
) -> list[Measure]:
    """Bits per byte of documents with these ids, and of slices: by the measure's name, places among the documents.

    Slices without text are left out. Raises ValueError where there is no text at all.
    """
    if not any(score.num_bytes for score in scores):
        raise ValueError("the held-out documents hold no text to evaluate on: raise held_out_fraction")
    everything = {BITS_PER_BYTE: range(len(scores)), **slices}
    nats = [score.nats for score in scores]
    found = [_code_length(name, ids, nats, scores, own) for name, own in everything.items()]
    return [measure for measure in found if measure.num_examples]


def uniform_measure(ids: Sequence[str], scores: Sequence[Score], vocab_size: int) -> Measure:
    """Bits per byte of the same documents where every token costs log2 of the vocabulary."""
    nats = [score.num_tokens * math.log(vocab_size) for score in scores]
    return _code_length(BITS_PER_BYTE, ids, nats, scores, range(len(scores)))


def _code_length(
    name: str, ids: Sequence[str], nats: Sequence[float], scores: Sequence[Score], own: Sequence[int]
) -> Measure:
    kept = [place for place in own if scores[place].num_bytes]  # an empty text has no bits per byte
    bits = np.array([nats[place] for place in kept]) / math.log(2)
    num_bytes = np.array([scores[place].num_bytes for place in kept], dtype=np.float64)
    return Measure(name, tuple(ids[place] for place in kept), (bits, num_bytes), higher_is_better=False)


def slice_places(whole: Sequence[Cell], numbers: Sequence[int]) -> dict[str, list[int]]:
    """By the measure's name, which of the documents with these numbers are in each slice."""
    places = {number: place for place, number in enumerate(numbers)}
    documents = slice_documents(whole)
    names = metric_names(documents)
    return {names[key]: [places[number] for number in own] for key, own in documents.items()}


def task_measures(pack: str, results: Sequence[TaskResult]) -> list[AnyMeasure]:
    """The centred score of a pack where it has one, then each metric of each task, the main one first."""
    measures: list[AnyMeasure] = []
    in_score: list[Measure] = []
    for result in results:
        names = sorted(result.metrics, key=lambda name: (name != result.main_metric, name))
        of_task = [_task_measure(pack, result, metric) for metric in names]
        measures += of_task
        if of_task[0].is_share:
            in_score.append(of_task[0])
    return [CentredMean(pack, tuple(in_score)), *measures] if in_score else measures


def _task_measure(pack: str, result: TaskResult, metric: str) -> Measure:
    """How each of the harness's metrics is made of the examples (`tasks.evaluation.task_result.aggregate`)."""
    values, ones = result.examples, np.ones(len(result.examples))
    figure: Callable[[Ratios], Ratios] = unchanged
    if metric in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        nats = -np.array([each.values["loglikelihood"] for each in values])
        unit = np.array([each.weights["words" if metric == "word_perplexity" else "bytes"] for each in values])
        sums, figure = (nats, unit.astype(np.float64)), np.exp
        if metric == "bits_per_byte":
            sums, figure = (nats / math.log(2), sums[1]), unchanged
    elif metric == "perplexity":
        sums, figure = (-np.array([each.values[metric] for each in values]), ones), np.exp
    else:
        sums = (np.array([each.values[metric] for each in values], dtype=np.float64), ones)
    is_main = metric == result.main_metric
    return Measure(
        name=f"{pack}/{result.task}/{metric}",
        ids=tuple(each.id for each in values),
        sums=sums,
        higher_is_better=result.higher_is_better if is_main else metric in _SHARES,
        chance=result.chance if metric in _SHARES else None,
        is_share=metric in _SHARES,
        figure=figure,
        num_truncated=result.num_truncated,
        parts=tuple(each.part for each in values),
    )


def examples_sha256(source_sha256: str, measures: Sequence[AnyMeasure]) -> str:
    """What figures of a pack or corpus are told by from those of another choice of its examples."""
    digest = hashlib.sha256(source_sha256.encode())
    for measure in measures:
        if isinstance(measure, Measure):
            digest.update(f"\n{measure.name} {' '.join(measure.ids)}".encode())
    return digest.hexdigest()


def weights_sha256(model: Decoder) -> str:
    """What a model is told from another by, whatever it is called and however its files are cut."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
