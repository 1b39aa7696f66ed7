"""Which examples of task packs stand in a published corpus version: what to know of a score before believing it.

    overlap   per part of the version   its documents -> where examples stand, and in how many of them each n-gram does
    report    once                      the parts' -> for each task how many of its examples are there, and where

A part that two versions share is looked through once. The report does not depend on the order of parts, documents or
tasks; of an example it has the longest stretches, those in the same number of words by document and place.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.atomic import write_json
from tasks.classifiers.proportion import proportion
from tasks.decontamination.index import ExampleIndex
from tasks.decontamination.sought import sought_in_packs
from tasks.document import ShardReport
from tasks.evaluation.task_pack import TaskPack
from tasks.manifest import read_manifest
from tasks.ports import ShardMap
from tasks.rule import Configuration
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.tables import read_rows, write_rows

MAX_HITS = 5
"""Of one example in the report; counts are of all."""
MAX_RARE_DOCUMENTS = 10
"""GPT-3 (appendix C) takes an n-gram in more documents for common text, a licence or a proverb, and ignores it."""

REPORT_FILE, HITS_FILE, NGRAMS_FILE = "contamination.json", "hits.parquet", "ngrams.parquet"
HITS = pa.schema(
    [
        ("example", pa.int32()),  # its number in the index
        ("document_id", pa.string()),
        ("url", pa.string()),
        ("start_chars", pa.int64()),
        ("end_chars", pa.int64()),
        ("num_words", pa.int64()),
        ("ngrams", pa.list_(pa.int32())),  # their numbers in the index
    ]
)
HitRow = tuple[str, str, int, int, int, Sequence[int]]
"""The columns of `HITS` but the first."""
NGRAMS = pa.schema([("ngram", pa.int32()), ("num_documents", pa.int64())])


class Hit(Configuration):
    """A stretch of a document that is also one of an example."""

    example_id: str
    document_id: str
    url: str
    start_chars: int
    end_chars: int
    num_words: int
    num_documents: int
    """That have the rarest n-gram of the stretch: many where it is common text."""


class TaskContamination(Configuration):
    """How many examples of a task stand in the corpus, whole or in part."""

    pack: str
    task: str
    num_examples: int
    num_searched: int
    """Those that are long enough to be looked for."""
    num_hit: int
    num_rare_hit: int
    """Hit by an n-gram that at most `MAX_RARE_DOCUMENTS` documents have."""
    fraction: float | None
    """Of those that were looked for, how many were hit, with its 95 % interval; None where none was."""
    low: float | None
    high: float | None
    hit_ids: tuple[str, ...]
    """Of all examples that were hit, in order."""
    hits: tuple[Hit, ...]
    """At most `MAX_HITS` of an example, by example."""


class ContaminationReport(Configuration):
    """What a corpus version has of some task packs."""

    corpus: str
    corpus_digest: str
    packs: tuple[str, ...]
    num_documents: int
    tasks: tuple[TaskContamination, ...]

    def task(self, pack: str, task: str) -> TaskContamination:
        """Raises ValueError where the report is not about this task."""
        for each in self.tasks:
            if (each.pack, each.task) == (pack, task):
                return each
        known = ", ".join(f"{each.pack}/{each.task}" for each in self.tasks)
        raise ValueError(f"the contamination of {pack}/{task} was not looked for; that of {known} was")


def contamination(
    version: Path, packs: Sequence[TaskPack], work: Path, shard_map: ShardMap, progress: Progress = no_progress
) -> ContaminationReport:
    """What the corpus version in this folder has of the packs; found in `work` where it was looked for before.

    Raises ValueError where there is no version, two packs have one name, or a row of a pack is no example; ShardError
    where a part cannot be read.
    """
    manifest = read_manifest(version)
    if manifest is None:
        raise ValueError(f"{version} is no published corpus version: it has no manifest")
    names = [pack.name for pack in packs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the task pack {twice[0]} is given twice; give one version of it")
    packs = tuple(sorted(packs, key=lambda pack: pack.name))
    parts = [part for part in manifest["parts"] if part["path"].startswith("documents/") and part["rows"]]
    stage = Stage(
        "contamination",
        {"packs": [pack.sha256 for pack in packs]},
        ("numpy", "pyarrow", "scipy"),
        (__name__,),
        after=manifest["digest"],
    )

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        write_json(directory / REPORT_FILE, [each.model_dump(mode="json") for each in _by_task(packs, shards)])
        return {}

    output = run_stage(
        stage,
        work,
        shard_map,
        functools.partial(overlap_shard, packs=packs),
        [version / part["path"] for part in parts],
        inputs=[{"part": part["sha256"]} for part in parts],
        progress=progress,
        finish=finish,
    )
    return ContaminationReport.model_validate(
        {
            "corpus": f"{manifest['name']}@{manifest['version']}",
            "corpus_digest": manifest["digest"],
            "packs": [pack.reference for pack in packs],
            "num_documents": output.report.records_in,
            "tasks": json.loads((output.directory / REPORT_FILE).read_bytes()),
        }
    )


def overlap_shard(part: Path, directory: Path, *, packs: tuple[TaskPack, ...]) -> ShardReport:
    """Write where the packs' examples stand in the documents of a part. Memory: the index, and a row group."""
    index = _index(packs)
    hits: dict[int, list[HitRow]] = {}
    num_documents = num_hit = 0
    with_ngram: Counter[int] = Counter()
    for row in read_rows(part, ["document_id", "url", "text"]):
        num_documents += 1
        found = index.find(row["text"])
        num_hit += bool(found)
        with_ngram.update({ngram for each in found for ngram in each.ngrams})
        for each in found:
            of_example = hits.setdefault(each.example, [])
            place = (each.start_chars, each.end_chars, each.num_words, each.ngrams)
            of_example.append((row["document_id"], row["url"], *place))
            if len(of_example) > 2 * MAX_HITS:  # else sorted for each document that has common text
                of_example[:] = _first(of_example)
    rows = [
        {"example": example, **dict(zip(HITS.names[1:], hit, strict=True))}
        for example in sorted(hits)
        for hit in _first(hits[example])
    ]
    write_rows(directory / HITS_FILE, HITS, rows)
    counts = [{"ngram": ngram, "num_documents": count} for ngram, count in sorted(with_ngram.items())]
    write_rows(directory / NGRAMS_FILE, NGRAMS, counts)
    return ShardReport(num_documents, num_documents - num_hit, {"contamination/hit": num_hit} if num_hit else {})


_INDEXES: dict[tuple[str, ...], ExampleIndex] = {}
"""The last one that was built in this process, by the hashes of its packs."""


def _index(packs: tuple[TaskPack, ...]) -> ExampleIndex:
    key = tuple(pack.sha256 for pack in packs)
    if key not in _INDEXES:
        _INDEXES.clear()
        _INDEXES[key] = ExampleIndex(sought_in_packs(packs))
    return _INDEXES[key]


def _ordered(hit: HitRow) -> tuple[int, str, int]:
    """Hits of an example that come first are shown: the longest."""
    return -hit[4], hit[0], hit[2]


def _first(hits: Iterable[HitRow]) -> list[HitRow]:
    return sorted(hits, key=_ordered)[:MAX_HITS]


def _by_task(packs: tuple[TaskPack, ...], shards: Sequence[Path]) -> list[TaskContamination]:
    """What the parts have, added up."""
    index = _index(packs)
    num_documents = np.zeros(index.num_ngrams, np.int64)
    hits: dict[int, list[HitRow]] = {}
    for shard in shards:
        counts = pq.read_table(shard / NGRAMS_FILE)
        num_documents[counts["ngram"].to_numpy()] += counts["num_documents"].to_numpy()
        for row in read_rows(shard / HITS_FILE):
            of_example = hits.setdefault(row["example"], [])
            of_example.append(tuple(row[name] for name in HITS.names[1:]))
            hits[row["example"]] = _first(of_example)
    is_hit, is_rare = np.zeros((2, len(index.examples)), np.bool_)
    for ngram in np.flatnonzero(num_documents).tolist():
        owners = index.owners(ngram)
        is_hit[owners] = True
        if num_documents[ngram] <= MAX_RARE_DOCUMENTS:
            is_rare[owners] = True
    members: dict[str, list[int]] = {}
    for number, (task, _) in enumerate(index.examples):
        members.setdefault(task, []).append(number)
    return [
        _of_task(pack.name, task.name, index, members[f"{pack.name}/{task.name}"], is_hit, is_rare, hits, num_documents)
        for pack in packs
        for task in pack.tasks
    ]


def _of_task(
    pack: str,
    task: str,
    index: ExampleIndex,
    members: Sequence[int],
    is_hit: NDArray[np.bool_],
    is_rare: NDArray[np.bool_],
    hits: Mapping[int, Sequence[HitRow]],
    num_documents: NDArray[np.int64],
) -> TaskContamination:
    num_searched, num_hit = int(index.is_searched[members].sum()), int(is_hit[members].sum())
    share = proportion(num_hit, num_searched) if num_searched else None
    return TaskContamination(
        pack=pack,
        task=task,
        num_examples=len(members),
        num_searched=num_searched,
        num_hit=num_hit,
        num_rare_hit=int(is_rare[members].sum()),
        fraction=share.fraction if share else None,
        low=share.low if share else None,
        high=share.high if share else None,
        hit_ids=tuple(sorted(index.examples[number][1] for number in members if is_hit[number])),
        hits=tuple(
            Hit(
                example_id=index.examples[number][1],
                document_id=hit[0],
                url=hit[1],
                start_chars=hit[2],
                end_chars=hit[3],
                num_words=hit[4],
                num_documents=int(num_documents[list(hit[5])].min()),
            )
            for number in members
            for hit in hits.get(number, ())
        ),
    )
