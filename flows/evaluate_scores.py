"""Asking one model everything: held-out texts and tasks, in this process or on several workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from flows.evaluate_plan import EvaluatePlan
from flows.progress import progress
from infra.ray_map import ray_cluster
from infra.registry import ModelVersion
from tasks.atomic import TEMPORARY_PREFIX
from tasks.decontamination.report import ContaminationReport, contamination
from tasks.evaluation.bits_per_byte import Score, document_texts, score_each_text
from tasks.evaluation.harness import evaluate_tasks
from tasks.evaluation.loglikelihood import LocalScorer, Scorer
from tasks.evaluation.mapped_scorer import MappedScorer
from tasks.evaluation.measures import (
    AnyMeasure,
    ModelScores,
    held_out_measures,
    task_measures,
    uniform_measure,
    weights_sha256,
)
from tasks.evaluation.task_pack import TaskPack
from tasks.generation import TextGenerator
from tasks.pack import TokenShards
from tasks.ports import InProcessMap, ShardMap

_TEXTS_AT_A_TIME = 64  # between two reports of progress


@dataclass(frozen=True)
class HeldOutTexts:
    """Documents of the candidate's corpus that it was not trained on, and the slices they are in.

    Where another model was trained on some of them, that is to its advantage: a champion is only ever displaced by what
    is better all the same.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    slices: Mapping[str, Sequence[int]]  # by measure, places among the documents


def held_out_texts(plan: EvaluatePlan, generator: TextGenerator) -> HeldOutTexts:
    """ValueError where a guarded slice is not there."""
    shards = TokenShards(plan.tokens, "held_out")
    ids = [shards.document(number).document_id for number in plan.numbers]
    return HeldOutTexts(ids, document_texts(shards, plan.numbers, generator.tokenizer), plan.slices())


@contextmanager
def shard_map_of(workers: int) -> Iterator[ShardMap]:
    """This process alone, or so many of Ray's."""
    with nullcontext(InProcessMap()) if workers == 1 else ray_cluster(workers) as shard_map:
        yield shard_map


def score_texts_of(generator: TextGenerator, held_out: HeldOutTexts) -> list[Score]:
    """The code length of each document under the model, with its own tokenizer."""
    order = sorted(range(len(held_out.texts)), key=lambda place: len(held_out.texts[place]))
    by_place: dict[int, Score] = {}
    progress("evaluate", 0, len(order))
    for first in range(0, len(order), _TEXTS_AT_A_TIME):
        places = order[first : first + _TEXTS_AT_A_TIME]  # of like length, which are scored together
        found = score_each_text(generator.model, generator.tokenizer, [held_out.texts[place] for place in places])
        by_place |= zip(places, found, strict=True)
        progress("evaluate", len(by_place), len(order))
    return [by_place[place] for place in range(len(order))]


def model_scores(
    version: ModelVersion,
    generator: TextGenerator,
    held_out: HeldOutTexts,
    scores: Sequence[Score],
    tasks: Sequence[AnyMeasure],
) -> ModelScores:
    """All measures of a model."""
    measures: list[AnyMeasure] = [*held_out_measures(held_out.ids, scores, held_out.slices), *tasks]
    by_name = {measure.name: measure for measure in measures}
    assert len(by_name) == len(measures), "a pack's name is no other figure's"
    return ModelScores(
        reference=version.reference,
        sha256=weights_sha256(generator.model),
        measures=by_name,
        uniform=uniform_measure(held_out.ids, scores, generator.tokenizer.get_vocab_size()),
    )


def is_finite(held_out: HeldOutTexts, scores: Sequence[Score]) -> bool:
    """Whether the model gives numbers at all; the harness would stop with an error where it does not."""
    return all(measure.is_finite for measure in held_out_measures(held_out.ids, scores, {}))


def ask_tasks(
    plan: EvaluatePlan, version: ModelVersion, generator: TextGenerator, limit: int, shard_map: ShardMap, workers: int
) -> list[AnyMeasure]:
    """Every task's measures. ValueError for rows that are not as they have to be."""
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=_work(plan)) as folder:
        scorer: Scorer = LocalScorer(generator.model)
        if workers > 1:
            scorer = MappedScorer(
                shard_map,
                version.folder,
                Path(folder),
                max_positions=scorer.max_positions,
                vocab_size=scorer.vocab_size,
                num_shards=workers,
                stage="tasks",
            )
        return [measure for pack in plan.asked for measure in _ask(pack, scorer, generator, limit)]


def _ask(pack: TaskPack, scorer: Scorer, generator: TextGenerator, limit: int) -> list[AnyMeasure]:
    names = [task.name for task in pack.tasks]

    def on_progress(task: str, done: int, total: int) -> None:
        progress("tasks", names.index(task) + (done >= total), len(names), note=f"{task}: {done:,} of {total:,}")

    results = evaluate_tasks(scorer, generator.tokenizer, pack, limit=limit or None, progress=on_progress)
    return task_measures(pack.name, results)


def search_corpora(plan: EvaluatePlan, shard_map: ShardMap) -> list[ContaminationReport]:
    """What each corpus that the model was trained on holds of the tasks."""
    return [contamination(folder, plan.asked, _work(plan), shard_map, progress) for _, folder in plan.corpora]


def _work(plan: EvaluatePlan) -> Path:
    plan.store.work.mkdir(parents=True, exist_ok=True)
    return plan.store.work
