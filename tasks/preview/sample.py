"""Which records a preview looks at: some thousand, spread evenly over the files of a source and the places in them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.curation import inventory
from tasks.inputs import InputFile, select_inputs
from tasks.manifest import code_version
from tasks.model_files import models_in
from tasks.occurrences import OCCURRENCES_FILE, number_occurrences
from tasks.ports import ShardMap
from tasks.preview import draw
from tasks.preview.draw import RANGE_RECORDS, sample_shard, sample_shards, take
from tasks.read.shard import ranges_of
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.refresh_stages import refresh_stages
from tasks.sources import collect_sources
from tasks.stages import Progress, Stage, StageOutput, no_progress, run_stage
from tasks.store import Store
from tasks.tombstones import Tombstones

DEFAULT_PAGES = 1_000
MAX_PAGES = 100_000
"""Of a sample: their figures are held in memory, some 500 bytes a page."""
MAX_ARCHIVES = 16
MAX_ARCHIVE_BYTES = 8 << 30
"""At most so many files with more than one record are counted, and at most so many bytes of them, but one at least."""


@dataclass(frozen=True)
class Sampling:
    """How the sample came about."""

    sources: tuple[str, ...]
    seed: int
    wanted_records: int
    records: int
    """In the sample."""
    counted_records: int
    """In the files that were counted."""
    counted_files: int
    files: int
    """Of the sources, of formats that are read."""
    ignored_files: int

    @property
    def is_all(self) -> bool:
        """Whether every record of the sources is in the sample."""
        return self.counted_files == self.files and self.records == self.counted_records


@dataclass(frozen=True)
class SampledRefresh(Refresh):
    """A refresh that reads a sample and publishes nothing; its stages are told from those of a whole one."""

    pages: int = DEFAULT_PAGES
    seed: int = 0
    num_files: int = 0
    """Of the sources; `inputs` are those that are counted."""

    @functools.cached_property
    def stages(self) -> Mapping[str, Stage]:
        drawn = {"pages": self.pages, "seed": self.seed, "range": RANGE_RECORDS, "code": code_version(draw.__name__)}
        with models_in(self.store.models):
            return refresh_stages(self.recipe, start={"inputs": self.inputs, "sample": drawn}, deciding={})


def plan_sample(
    store: Store,
    sources: Sequence[str],
    recipe: CurationRecipe,
    *,
    pages: int = DEFAULT_PAGES,
    seed: int = 0,
    progress: Progress = no_progress,
) -> SampledRefresh:
    """The sources' files, those among them that are counted, and the stages that the sample goes through.

    Raises ValueError where a source can't be read, or `pages` is not from 1 to `MAX_PAGES`.
    """
    if not 1 <= pages <= MAX_PAGES:
        raise ValueError(f"a sample of {pages} pages: choose 1 to {MAX_PAGES:,}")
    collected = collect_sources(store, sources, progress)
    inputs = select_inputs((), collected.files, version=1, profile="full", replace=False).inputs
    return SampledRefresh(
        store=store,
        name="preview",
        version=1,
        sources=tuple(sources),
        collected=collected,
        inputs=counted_files(inputs, pages, seed),
        waiting_files=0,
        recipe=recipe,
        last=None,
        base=None,
        mode_reason="a preview",
        decided_by={},
        tombstones=Tombstones(),
        newly_taken_down={},
        pages=pages,
        seed=seed,
        num_files=len(inputs),
    )


def with_recipe(refresh: SampledRefresh, recipe: CurationRecipe) -> SampledRefresh:
    """The same sample by another recipe: the sources are not looked at again."""
    return dataclasses.replace(refresh, recipe=recipe)


def counted_files(inputs: Sequence[InputFile], pages: int, seed: int) -> tuple[InputFile, ...]:
    """Of many files those that are looked into: evenly spaced in the order of their names, from a seeded start."""
    in_order = sorted(inputs, key=lambda entry: (entry.source, entry.path))
    pages_of_one = [entry for entry in in_order if entry.format == "html"]  # a file is a record
    archives = [entry for entry in in_order if entry.format != "html"]
    chosen = _spread(archives, MAX_ARCHIVES, seed)
    sizes = itertools.accumulate(entry.size_bytes for entry in chosen)
    within = [entry for entry, size in zip(chosen, sizes, strict=True) if size <= MAX_ARCHIVE_BYTES]
    return (*_spread(pages_of_one, pages, seed), *(within or chosen[:1]))


def _spread(entries: Sequence[InputFile], most: int, seed: int) -> list[InputFile]:
    if len(entries) <= most:
        return list(entries)
    start = random.Random(seed).random()  # noqa: S311 - a sample, not a secret
    return [entries[int((index + start) * len(entries) / most)] for index in range(most)]


def read_sample(
    refresh: SampledRefresh, shard_map: ShardMap, progress: Progress = no_progress
) -> tuple[StageOutput, Sampling]:
    """Count, choose and read: what stands where the stage "read" of a refresh stands.

    Raises ValueError where the sources hold no record.
    """
    fine = with_recipe(refresh, refresh.recipe.model_copy(update={"shard_records": RANGE_RECORDS}))
    counted = inventory(fine, shard_map, progress)
    entries = zip(refresh.inputs, counted.shards, strict=True)
    ranges = [(entry.source, part) for entry, shard in entries for part in ranges_of(shard)]
    ranges.sort(key=lambda each: (each[0], each[1].file.path, each[1].start))
    items = tuple(sample_shards(take(ranges, refresh.pages, refresh.seed), refresh.recipe.shard_records))
    read = refresh.stages["read"]

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        return {"repeated_ids": number_occurrences(shards, directory / OCCURRENCES_FILE)}

    output = run_stage(
        Stage("sample", read.identity, read.libraries, (*read.modules, draw.__name__), read.after),
        refresh.store.work,
        shard_map,
        functools.partial(sample_shard, limits=refresh.recipe.reading, url_filter=refresh.recipe.url_filter),
        items,
        inputs=[item.identity for item in items],
        progress=progress,
        finish=finish,
    )
    sampling = Sampling(
        sources=refresh.sources,
        seed=refresh.seed,
        wanted_records=refresh.pages,
        records=output.report.records_in,
        counted_records=counted.report.records_in,
        counted_files=len(refresh.inputs),
        files=refresh.num_files,
        ignored_files=sum(refresh.collected.ignored.values()),
    )
    return output, sampling
