"""Held-out loss by slice: which sources, languages and lengths the network predicts well, and which it does not.

The documents of an evaluation are grouped into cells, one for each source, language and class of length that occur
together. Cells are scored one after the other (`tasks.evaluation.bits_per_byte`), and every slice is a sum of cells,
as is the evaluation as a whole: one pass over the documents gives all of it. Cells add up over processes.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.decoder import Decoder
from tasks.evaluation.bits_per_byte import BATCH_TOKENS, BitsPerByte, Score, score_documents, summed
from tasks.pack import TokenShards
from tasks.tokenizer import corpus_files

Dimension = Literal["source", "language", "length"]
DIMENSIONS: tuple[Dimension, ...] = ("source", "language", "length")

LENGTH_BOUNDS_BYTES = (1_000, 4_000, 16_000, 64_000)
"""Classes of length, of the text as UTF-8: below the first, from one to the next, from the last on."""
UNKNOWN, OTHERS = "unknown", "others"
MAX_SLICES = 12
"""Of a dimension, the ones with the most text; the rest are one slice, `others`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Documents that belong to the same slice in every dimension."""

    slices: tuple[str, str, str]  # in the order of DIMENSIONS
    numbers: tuple[int, ...]  # of the documents in the shards


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The evaluation of one slice."""

    dimension: Dimension
    slice: str
    score: BitsPerByte


def length_slice(num_bytes: int) -> str:
    """The class of length of a text: `below 1 kB`, `1-4 kB`, ..., `64 kB and more`."""
    names = [f"below {LENGTH_BOUNDS_BYTES[0] // 1000} kB"]
    names += [f"{low // 1000}-{high // 1000} kB" for low, high in pairwise(LENGTH_BOUNDS_BYTES)]
    names += [f"{LENGTH_BOUNDS_BYTES[-1] // 1000} kB and more"]
    return names[bisect.bisect_right(LENGTH_BOUNDS_BYTES, num_bytes)]


def document_languages(corpus_dir: Path, document_ids: Sequence[str]) -> dict[str, str]:
    """The languages (ISO 639-1) of these documents of a corpus version: token shards do not hold them.

    Reads two columns. A document that is missing, or of a version without languages, is left out.
    """
    wanted = pc.field("document_id").isin(pa.array(document_ids, pa.string()))
    languages: dict[str, str] = {}
    for file in corpus_files(corpus_dir):
        if "language" in pq.read_schema(file).names:
            table = pq.read_table(file, columns=["document_id", "language"], filters=wanted)
            found = zip(table["document_id"].to_pylist(), table["language"].to_pylist(), strict=True)
            languages |= {document_id: language for document_id, language in found if language}
    return languages


def cells(shards: TokenShards, numbers: Sequence[int], languages: Mapping[str, str]) -> list[Cell]:
    """The cells of the documents with these numbers, in an order that every process finds."""
    documents = {number: shards.document(number) for number in numbers}
    values = {
        number: (
            document.source or UNKNOWN,
            languages.get(document.document_id) or UNKNOWN,
            length_slice(document.num_bytes),
        )
        for number, document in documents.items()
    }
    sizes = {number: document.num_bytes for number, document in documents.items()}
    shown = [_largest({number: names[place] for number, names in values.items()}, sizes) for place in range(2)]
    grouped: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, (source, language, length) in values.items():
        kept = (
            source if source in shown[0] else OTHERS,
            language if language in shown[1] else OTHERS,
            length,
        )
        grouped[kept].append(number)
    return [Cell(slices, tuple(sorted(grouped[slices]))) for slices in sorted(grouped)]


def _largest(names: Mapping[int, str], sizes: Mapping[int, int]) -> set[str]:
    """The names that stay slices of their own."""
    num_bytes: dict[str, int] = defaultdict(int)
    for number, name in names.items():
        num_bytes[name] += sizes[number]
    ordered = sorted(num_bytes, key=lambda name: (-num_bytes[name], name))
    return set(ordered if len(ordered) <= MAX_SLICES else ordered[: MAX_SLICES - 1])


def share(whole: Sequence[Cell], rank: int, world_size: int) -> list[Cell]:
    """What process `rank` of `world_size` scores: of all documents every so manieth, in the same cells."""
    numbers = sorted(number for cell in whole for number in cell.numbers)
    own = set(numbers[rank::world_size])
    return [Cell(cell.slices, tuple(number for number in cell.numbers if number in own)) for cell in whole]


def score_cells(
    model: Decoder, shards: TokenShards, own: Sequence[Cell], *, batch_tokens: int = BATCH_TOKENS
) -> list[Score]:
    """One score a cell, of nothing where it is empty. `summed` of them is the evaluation as a whole."""
    return [score_documents(model, shards, cell.numbers, batch_tokens=batch_tokens) for cell in own]


def slice_scores(whole: Sequence[Cell], scores: Sequence[Score]) -> list[SliceScore]:
    """Every slice that holds text, by dimension, the largest first. `scores` are of the whole cells, in their order."""
    found: list[SliceScore] = []
    for place, dimension in enumerate(DIMENSIONS):
        parts: dict[str, list[Score]] = defaultdict(list)
        for cell, score in zip(whole, scores, strict=True):
            parts[cell.slices[place]].append(score)
        results = [
            SliceScore(dimension, name, summed(each))
            for name, each in parts.items()
            if any(score.num_tokens for score in each)
        ]
        found += sorted(results, key=lambda result: (-result.score.num_bytes, result.slice))
    return found


def slice_documents(whole: Sequence[Cell]) -> dict[tuple[Dimension, str], list[int]]:
    """The numbers of the documents of every slice, by dimension and name."""
    found: dict[tuple[Dimension, str], list[int]] = defaultdict(list)
    for place, dimension in enumerate(DIMENSIONS):
        for cell in whole:
            found[dimension, cell.slices[place]] += cell.numbers
    return dict(sorted(found.items(), key=lambda entry: (DIMENSIONS.index(entry[0][0]), entry[0][1])))


def slice_metrics(results: Sequence[SliceScore]) -> dict[str, float]:
    """Bits per byte by name, for metrics: `held_out/source/web`."""
    names = metric_names([(result.dimension, result.slice) for result in results])
    return {names[result.dimension, result.slice]: result.score.bits_per_byte for result in results}


def metric_names(slices: Iterable[tuple[Dimension, str]]) -> dict[tuple[Dimension, str], str]:
    """By slice the name of its metric. MLflow accepts few characters: the others are `_`, and no two are alike."""
    names: dict[tuple[Dimension, str], str] = {}
    for dimension, slice_ in slices:
        name = f"held_out/{dimension}/{_metric_name(slice_)}"
        if name in names.values():  # two slices differ only in what a metric's name can not hold
            name += f" {len(names)}"
        names[dimension, slice_] = name
    return names


def _metric_name(name: str) -> str:
    allowed = [
        character if character.isascii() and (character.isalnum() or character in "_-. ") else "_" for character in name
    ]
    return "".join(allowed)
