"""What an operator sees of groups that were wiped out: how many documents by which rule, and some of the documents."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpus_card import SAMPLES_PER_RULE, Sample, sample_markdown
from tasks.group_counts import Exit, ScreenedShards, exits, screened_shards
from tasks.markdown import markdown_cell, markdown_table
from tasks.screen import DOCUMENTS_FILE
from tasks.stages import StageOutput
from tasks.wipe_out import WipeOut

_TEXT_BEFORE = {"language": "extract", "quality": "language", "toxicity": "quality", "decontaminate": "toxicity"}
"""The stage whose output holds the text that a stage took in; before the extraction there is none."""
_MAX_GROUPS_SHOWN = 20  # with samples; the table has all
_MAX_SHARDS_SEARCHED = 10_000  # about a minute, and a million records


@dataclass(frozen=True)
class WipeOutSamples:
    """A group that was wiped out, and some of its documents that are gone."""

    wipe_out: WipeOut
    samples: tuple[Sample, ...]


def wipe_out_samples(
    outputs: Mapping[str, StageOutput], wipe_outs: Sequence[WipeOut], hide: Callable[[str], str]
) -> tuple[WipeOutSamples, ...]:
    """Some removed documents of each group, from the first shards that hold any. `outputs` are those of screening.

    `hide` is applied to their texts (`CurationRecipe.hide`).
    """
    found: dict[int, list[Sample]] = {index: [] for index in range(len(wipe_outs))}
    for shard in itertools.islice(screened_shards(outputs), _MAX_SHARDS_SEARCHED):
        missing = [index for index, samples in found.items() if len(samples) < SAMPLES_PER_RULE]
        if not missing:
            break
        for left in exits(shard):
            for index in missing:
                if len(found[index]) < SAMPLES_PER_RULE and _is_among(left, wipe_outs[index]):
                    found[index].append(_sample(left, shard, hide))
    return tuple(WipeOutSamples(each, tuple(found[index])) for index, each in enumerate(wipe_outs))


def _is_among(left: Exit, wipe_out: WipeOut) -> bool:
    return (
        left.row["stage"] == wipe_out.stage
        and left.row["reason"] in wipe_out.reasons
        and left.groups.get(wipe_out.kind) == wipe_out.group
    )


def _sample(left: Exit, shard: ScreenedShards, hide: Callable[[str], str]) -> Sample:
    row = left.row
    facts = {name: row[name] for name in ("record_id", "url", "stage", "reason", "value", "threshold", "detail")}
    text = _text(shard, row["stage"], row["record_id"])
    return Sample(**facts, survivor_id=None, text=None if text is None else hide(text))


def _text(shard: ScreenedShards, stage: str, document_id: str) -> str | None:
    if stage not in _TEXT_BEFORE:
        return None
    file: Path = shard[_TEXT_BEFORE[stage]] / DOCUMENTS_FILE
    texts = pq.read_table(file, columns=["text"], filters=pc.field("document_id") == document_id)["text"].to_pylist()
    return texts[0] if texts else None


def wipe_outs_markdown(wiped_out: Sequence[WipeOutSamples], *, allowed: bool) -> str:
    """The groups as a table, then for each what it was removed by, and samples. What came from pages is escaped."""
    rows = [
        (each.stage, each.kind, each.group, each.documents_in, each.removed, f"{each.removed / each.documents_in:.1%}")
        for each in (of_group.wipe_out for of_group in wiped_out)
    ]
    what = (
        "All the same, it was allowed to be published."
        if allowed
        else "Nothing was published. What was read and screened is kept: the next run with other rules, or with"
        " `--allow-wipe-out` (*Allow a wipe-out* in the form), goes on from there."
    )
    sections = [
        f"A stage removed nearly all of {'a group' if len(rows) == 1 else f'{len(rows):,} groups'}. {what}",
        markdown_table(["stage", "group", "name", "entered", "removed", "share"], rows),
    ]
    for of_group in wiped_out[:_MAX_GROUPS_SHOWN]:
        each = of_group.wipe_out
        sections += [f"### {markdown_cell(f'{each.stage}: {each.kind} {each.group}')}", markdown_cell(str(each))]
        sections += [f"{markdown_cell(sample.reason)}: {sample_markdown(sample)}" for sample in of_group.samples]
    return "\n\n".join(sections)
