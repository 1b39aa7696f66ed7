"""The stages that keep the best share of a corpus: score every shard, find the cut for all, apply it to every shard.

    share_scores   what is left of a shard -> a score for each of its documents
    share          the shard, its scores, the cut -> documents and ledger rows, as of any stage of screening

Scores depend on the texts and the model alone. The cut enters the second stage, so another share reads the scores that
are there and computes no text again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.checks import score_with
from tasks.document import Drop, ShardReport
from tasks.model_files import models_in
from tasks.ports import ShardMap
from tasks.quality_share import TICKS, Cut, find_cut
from tasks.screen import DOCUMENTS_FILE, ShardOutput
from tasks.share_rule import ShareRule
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tables import document_of, read_rows

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.refresh import Refresh

SCORES_FILE = "scores.parquet"
SHARE_STAGE = "share"
"""Of the ledger, too."""


@dataclass(frozen=True)
class ScoredShard:
    """A shard and the scores of its documents."""

    texts: Path
    scores: Path


def score_shard(texts: Path, directory: Path, *, rule: ShareRule, models: Path | None = None) -> ShardReport:
    """Write the score of every document, in ticks; none where the rule does not apply. `models` is the store's."""
    ids: list[str] = []
    ticks: list[int | None] = []
    with models_in(models):
        score = score_with(rule)
        for row in read_rows(texts / DOCUMENTS_FILE):
            document = document_of(row)
            (figure,) = score(document).figures
            ids.append(document.document_id)
            ticks.append(None if figure is None else round(figure * TICKS))
    table = {"document_id": pa.array(ids, pa.string()), "ticks": pa.array(ticks, pa.int32())}
    pq.write_table(pa.table(table), directory / SCORES_FILE, compression="zstd")
    return ShardReport(len(ids), len(ids))


def share_shard(item: ScoredShard, directory: Path, *, min_score: float, reason: str) -> ShardReport:
    """Drop the documents that score below the cut; those without a score stay."""
    scores = pq.read_table(item.scores / SCORES_FILE)
    of_document = dict(zip(scores["document_id"].to_pylist(), scores["ticks"].to_pylist(), strict=True))
    with ShardOutput(directory, SHARE_STAGE) as output:
        for row in read_rows(item.texts / DOCUMENTS_FILE):
            document = document_of(row)
            ticks = of_document[document.document_id]
            if ticks is None or ticks / TICKS >= min_score:
                output.keep(document)
            else:
                output.drop(document, Drop(reason, ticks / TICKS, min_score))
        return output.report()


def _counted(shards: Sequence[Path]) -> list[list[int]]:
    """Documents by score: pairs of ticks and number, of the scores that occur."""
    counts = np.zeros(TICKS + 1, np.int64)
    for shard in shards:
        ticks = pq.read_table(shard / SCORES_FILE, columns=["ticks"])["ticks"].drop_null()
        counts += np.bincount(ticks.to_numpy(), minlength=TICKS + 1)
    return [[ticks, int(counts[ticks])] for ticks in np.flatnonzero(counts).tolist()]


def keep_best(
    refresh: Refresh, documents: StageOutput, shard_map: ShardMap, progress: Progress = no_progress
) -> StageOutput:
    """The share of `documents` that the recipe asks for; onto a version with a cut, by that cut."""
    rule, store = refresh.recipe.share_rule, refresh.store
    assert rule is not None, "a recipe without a share has no such stage"
    shards = documents.shards
    scored = run_stage(
        refresh.stages["share_scores"],
        store.work,
        shard_map,
        functools.partial(score_shard, rule=rule.scoring(), models=store.models),
        shards,
        inputs=[{"shard": shard.name} for shard in shards],
        progress=progress,
        finish=lambda _, outputs: {"counts": _counted(outputs)},
    )
    cut = share_cut(refresh, scored)
    items = [ScoredShard(*pair) for pair in zip(shards, scored.shards, strict=True)]
    return run_stage(
        refresh.stages[SHARE_STAGE],
        store.work,
        shard_map,
        functools.partial(share_shard, min_score=cut.min_score, reason=str(getattr(rule, "kind", SHARE_STAGE))),
        items,
        inputs=[{"texts": item.texts.name, "scores": item.scores.name, "min_score": cut.min_score} for item in items],
        progress=progress,
        finish=lambda *_: scored.manifest["extra"],
    )


def share_cut(refresh: Refresh, scored: StageOutput | None) -> Cut:
    """The cut of the version that `refresh` makes; `scored` is either stage's output, None where nothing was read."""
    rule = refresh.recipe.share_rule
    assert rule is not None and rule.keep_share is not None
    counts: dict[int, int] = dict(scored.manifest["extra"]["counts"]) if scored is not None else {}
    if refresh.inherited_cut is not None:
        return refresh.inherited_cut.with_more(counts)
    return find_cut(counts, rule.keep_share, version=refresh.version, inputs=refresh.cut_inputs)


def cut_fact(refresh: Refresh, outputs: Mapping[str, StageOutput]) -> dict[str, Any]:
    """What the manifest says of the cut; nothing where the recipe keeps no share."""
    if refresh.recipe.share_rule is None:
        return {}
    assert not outputs or SHARE_STAGE in outputs, "the recipe keeps a share, and nobody has called keep_best"
    return {"quality_share": share_cut(refresh, outputs.get(SHARE_STAGE)).model_dump(mode="json")}
