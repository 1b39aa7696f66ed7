"""What each trained twin makes of each page, text and example of a task: the figures that the verdict is found from."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ablation.pages import EvaluationPages
from tasks.ablation.verdict import FloatArray
from tasks.checkpoints import load_decoder
from tasks.document import ShardReport
from tasks.evaluation.asked_tasks import asked_tasks
from tasks.evaluation.bits_per_byte import score_each_text
from tasks.manifest import fingerprint
from tasks.ports import ShardMap
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tasks.evaluation.task_result import ExampleScore, TaskResult

SCORES_FILE = "scores.parquet"
BITS_PER_BYTE, LOG_LIKELIHOOD = "bits per byte", "nats"
_SCHEMA = pa.schema(
    [
        ("group", pa.string()),
        ("page", pa.string()),
        ("value", pa.float64()),
        ("size", pa.float64()),
        ("metric", pa.string()),
        ("higher_is_better", pa.bool_()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TrainedTwin:
    """A model of one recipe and one seed."""

    run: str  # name of its folder, which stands for all that it was trained with
    checkpoint: str  # folder or URL


@dataclass(frozen=True)
class Examples:
    """What is asked beside the pages: packs of tasks as an operator names them, and examples of each at most."""

    packs: tuple[str, ...]
    limit: int
    work: Path  # of the store, where stock tasks are fetched to

    @property
    def identity(self) -> dict[str, object]:
        """All that determines what is asked."""
        asked = [pack.reference for pack in asked_tasks(self.packs, self.work)]
        return {"packs": asked, "limit": self.limit}


@dataclass(frozen=True)
class Scores:
    """One model's figures on one group, page by page (or text, or example) in their order.

    The metric is the sum of values over the sum of sizes: bits and bytes, or 0 and 1 and one for each example.
    """

    pages: tuple[str, ...]
    values: FloatArray
    sizes: FloatArray
    metric: str = BITS_PER_BYTE
    higher_is_better: bool = False


def score_twins(
    work: Path,
    twins: Sequence[TrainedTwin],
    tokenizer_file: Path,
    pages: EvaluationPages,
    shard_map: ShardMap,
    progress: Progress = no_progress,
    *,
    examples: Examples | None = None,
) -> list[Mapping[str, Scores]]:
    """Of each twin its scores by group, in the order of the twins; every group has the same pages for all of them."""
    asked = examples.identity if examples else {}
    inputs = [{"run": twin.run, "pages": pages.fingerprint, "examples": asked} for twin in twins]
    stage = Stage(
        "ablation_scores",
        {},
        ("numpy", "tokenizers", "torch", *(("lm_eval",) if examples else ())),
        modules=("tasks.ablation.scoring",),
        after=fingerprint({"inputs": inputs}),
    )
    output = run_stage(
        stage,
        work,
        shard_map,
        functools.partial(_score, tokenizer_file=tokenizer_file, pages=pages, examples=examples),
        twins,
        inputs=inputs,
        progress=progress,
    )
    return [_read(shard / SCORES_FILE) for shard in output.shards]


def _score(
    twin: TrainedTwin, directory: Path, *, tokenizer_file: Path, pages: EvaluationPages, examples: Examples | None
) -> ShardReport:
    model, _ = load_decoder(twin.checkpoint)
    tokenizer = load_tokenizer(tokenizer_file)
    texts = pages.texts()
    scores = score_each_text(model, tokenizer, [each.text for each in texts])
    of_text = {"metric": BITS_PER_BYTE, "higher_is_better": False}
    rows: list[dict[str, object]] = [
        {"group": each.group, "page": each.page, "value": score.nats / math.log(2), "size": score.num_bytes, **of_text}
        for each, score in zip(texts, scores, strict=True)
    ]
    if examples is not None:
        from tasks.evaluation.harness import evaluate_tasks  # the harness takes seconds to import
        from tasks.evaluation.loglikelihood import LocalScorer

        for pack in asked_tasks(examples.packs, examples.work):
            for result in evaluate_tasks(LocalScorer(model), tokenizer, pack, limit=examples.limit):
                rows += _task_rows(f"{pack.name}/{result.task}", result)
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / SCORES_FILE)
    return ShardReport(len(rows), len(rows))


def _task_rows(group: str, result: TaskResult) -> Iterator[dict[str, object]]:
    """A task's main metric where each example has a value of it; a perplexity, which is no mean, as what it is made of:
    of texts bits per byte, of words the log-likelihood."""
    for example in result.examples:
        metric, value, size, higher_is_better = _figure(result, example)
        yield {
            "group": group,
            "page": example.id,
            "value": value,
            "size": size,
            "metric": metric,
            "higher_is_better": higher_is_better,
        }


def _figure(result: TaskResult, example: ExampleScore) -> tuple[str, float, float, bool]:
    if result.kind == "perplexity":
        return BITS_PER_BYTE, -example.values["loglikelihood"] / math.log(2), example.weights["bytes"], False
    if result.main_metric == "perplexity":
        return LOG_LIKELIHOOD, example.values["perplexity"], 1.0, True
    return result.main_metric, example.values[result.main_metric], 1.0, result.higher_is_better


def _read(file: Path) -> Mapping[str, Scores]:
    """A page of two texts is one page, with the sums of both."""
    sums: dict[tuple[str, str, bool], dict[str, tuple[float, float]]] = {}
    for row in pq.read_table(file).to_pylist():
        pages = sums.setdefault((row["group"], row["metric"], row["higher_is_better"]), {})
        value, size = pages.get(row["page"], (0.0, 0.0))
        pages[row["page"]] = (value + row["value"], size + row["size"])
    return {
        group: Scores(
            tuple(pages),
            np.array([value for value, _ in pages.values()]),
            np.array([size for _, size in pages.values()]),
            metric,
            higher_is_better,
        )
        for (group, metric, higher_is_better), pages in sums.items()
    }
