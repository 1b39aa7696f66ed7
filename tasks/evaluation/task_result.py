"""What a task measured: its metrics, and the value of each example that they are made of."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOGLIKELIHOOD, WORDS, BYTES = "loglikelihood", "words", "bytes"

_PER: Mapping[str, str] = {"word_perplexity": WORDS, "byte_perplexity": BYTES, "bits_per_byte": BYTES}


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """One example.

    `acc`, `acc_norm`: 0 or 1. `perplexity`: the log-likelihood of the word, nats, as the harness logs it. For a text
    the value is its `loglikelihood`, nats, and the weights are its `words` and `bytes`.
    """

    id: str
    values: Mapping[str, float]
    part: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """One task."""

    task: str
    kind: str
    num_examples: int
    metrics: Mapping[str, float]  # each is `aggregate` of the examples
    main_metric: str
    chance: float  # of the main metric
    higher_is_better: bool  # of the main metric
    examples: tuple[ExampleScore, ...]
    num_truncated: int = 0  # examples of which the network could not read all
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metrics by part, where there are several


def aggregate(metric: str, examples: Sequence[ExampleScore]) -> float:
    """A metric of these examples: a ratio of sums for what is counted by word or byte, else of a mean.

    A perplexity beyond the largest float is infinite.
    """
    if metric in _PER:
        nats = -math.fsum(example.values[LOGLIKELIHOOD] for example in examples)
        per_unit = nats / math.fsum(example.weights[_PER[metric]] for example in examples)
        return per_unit / math.log(2) if metric == "bits_per_byte" else _exp(per_unit)
    mean = statistics.fmean(example.values[metric] for example in examples)
    return _exp(-mean) if metric == "perplexity" else mean


def by_part(metrics: Sequence[str], examples: Sequence[ExampleScore]) -> dict[str, dict[str, float]]:
    """The metrics of each part; nothing where there is but one."""
    parts: dict[str, list[ExampleScore]] = defaultdict(list)
    for example in examples:
        parts[example.part].append(example)
    if len(parts) < 2:
        return {}
    return {part: {metric: aggregate(metric, parts[part]) for metric in metrics} for part in sorted(parts)}


def centred(result: TaskResult) -> float | None:
    """The main metric with chance at 0 and the best value at 1; None where the best value is not 1 (perplexity)."""
    if not result.higher_is_better:
        return None
    return (result.metrics[result.main_metric] - result.chance) / (1 - result.chance)


def pack_score(results: Sequence[TaskResult]) -> float | None:
    """The mean of the centred metrics, as CORE (DCLM, Li et al. 2024); None where no task has one.

    A task counts once, however many examples or parts it has.
    """
    found = [score for result in results if (score := centred(result)) is not None]
    return statistics.fmean(found) if found else None


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
