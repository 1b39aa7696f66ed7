"""Made-up models: what they were measured to do, without any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.measures import ModelScores, held_out_measures, task_measures, uniform_measure
from tasks.evaluation.task_result import ExampleScore, TaskResult, aggregate

NUM_DOCUMENTS = 40
VOCAB_SIZE = 1024
IDS = [f"document {number}" for number in range(NUM_DOCUMENTS)]
SLICES = {"held_out/source/web": range(30), "held_out/source/docs": range(30, NUM_DOCUMENTS)}


def share_task(name: str, right: Sequence[bool], chance: float = 0.5, metric: str = "acc") -> TaskResult:
    examples = tuple(ExampleScore(f"{number:04d}", {metric: float(each)}) for number, each in enumerate(right))
    metrics = {metric: aggregate(metric, examples)}
    return TaskResult(name, "multiple_choice", len(examples), metrics, metric, chance, True, examples)


def answers(num: int, num_right: int, seed: int = 0) -> list[bool]:
    draw = np.random.default_rng(seed)
    return [bool(each) for each in draw.permutation(np.arange(num) < num_right)]


def documents(bits_per_byte: float = 2.0, *, noise: float = 0.0, seed: int = 1) -> list[Score]:
    """The same documents for every model: their lengths and how hard they are do not depend on the arguments."""
    of_texts, of_model = np.random.default_rng(0), np.random.default_rng(seed)
    num_bytes = of_texts.integers(500, 5000, NUM_DOCUMENTS)
    hardness = of_texts.normal(1.0, 0.2, NUM_DOCUMENTS)
    own = of_model.normal(0.0, noise, NUM_DOCUMENTS)
    nats = num_bytes * np.log(2) * (bits_per_byte * hardness + own)
    return [Score(float(one), int(size) // 4, int(size), 1) for one, size in zip(nats, num_bytes, strict=True)]


def model(
    reference: str,
    held_out: Sequence[Score],
    packs: Mapping[str, Sequence[TaskResult]] | None = None,
    sha256: str = "",
) -> ModelScores:
    tasks = [measure for pack, results in (packs or {}).items() for measure in task_measures(pack, results)]
    measures = [*held_out_measures(IDS, held_out, SLICES), *tasks]
    return ModelScores(
        reference=reference,
        sha256=sha256 or reference,
        measures={measure.name: measure for measure in measures},
        uniform=uniform_measure(IDS, held_out, VOCAB_SIZE),
    )
