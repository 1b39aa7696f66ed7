"""What each trained twin makes of each page and text: the figures that the verdict is found from."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ablation.pages import EvaluationPages
from tasks.ablation.verdict import FloatArray
from tasks.checkpoints import load_decoder
from tasks.document import ShardReport
from tasks.evaluation.bits_per_byte import score_each_text
from tasks.ports import ShardMap
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.tokenizer import load_tokenizer

SCORES_FILE = "scores.parquet"
_SCHEMA = pa.schema([("group", pa.string()), ("page", pa.string()), ("bits", pa.float64()), ("num_bytes", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class TrainedTwin:
    """A model of one recipe and one seed."""

    run: str  # name of its folder, which stands for all that it was trained with
    checkpoint: str  # folder or URL


@dataclass(frozen=True)
class PageScores:
    """One model's figures on one group of pages or texts, page by page in their order."""

    pages: tuple[str, ...]
    bits: FloatArray  # code length
    num_bytes: FloatArray  # of the text as UTF-8


def score_twins(
    work: Path,
    twins: Sequence[TrainedTwin],
    tokenizer_file: Path,
    pages: EvaluationPages,
    shard_map: ShardMap,
    progress: Progress = no_progress,
) -> list[Mapping[str, PageScores]]:
    """Of each twin its scores by group, in the order of the twins; every group has the same pages for all of them."""
    stage = Stage("ablation_scores", {}, ("torch",), modules=("tasks.ablation.scoring",))
    output = run_stage(
        stage,
        work,
        shard_map,
        functools.partial(_score, tokenizer_file=tokenizer_file, pages=pages),
        twins,
        inputs=[{"run": twin.run, "pages": pages.fingerprint} for twin in twins],
        progress=progress,
    )
    return [_read(shard / SCORES_FILE) for shard in output.shards]


def _score(twin: TrainedTwin, directory: Path, *, tokenizer_file: Path, pages: EvaluationPages) -> ShardReport:
    model, _ = load_decoder(twin.checkpoint)
    tokenizer = load_tokenizer(tokenizer_file)
    texts = pages.texts()
    scores = score_each_text(model, tokenizer, [each.text for each in texts])
    rows = [
        {"group": each.group, "page": each.page, "bits": score.nats / math.log(2), "num_bytes": score.num_bytes}
        for each, score in zip(texts, scores, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / SCORES_FILE)
    return ShardReport(len(rows), len(rows))


def _read(file: Path) -> Mapping[str, PageScores]:
    """A page of two texts is one page, with the sums of both."""
    sums: dict[str, dict[str, tuple[float, int]]] = {}
    for row in pq.read_table(file).to_pylist():
        pages = sums.setdefault(row["group"], {})
        bits, num_bytes = pages.get(row["page"], (0.0, 0))
        pages[row["page"]] = (bits + row["bits"], num_bytes + row["num_bytes"])
    return {
        group: PageScores(
            tuple(pages),
            np.array([bits for bits, _ in pages.values()]),
            np.array([num_bytes for _, num_bytes in pages.values()], dtype=np.float64),
        )
        for group, pages in sums.items()
    }
