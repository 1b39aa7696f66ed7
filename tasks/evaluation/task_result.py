"""What a task measured: its metrics, and the value of each example that they are made of."""

from __future__ import annotations

import math
import statistics
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


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
