"""Ordinary pages for a classifier's background: tables of texts as they are, crawls by the main content of a sample.

What a refresh reads, extracts and finds to be in the classifier's languages is what a background text is: the same as
the classifier will be asked about. No other rule is applied, for the background is to be as ordinary as it comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.classifier_parameters import Background
from flows.progress import progress
from infra.ray_map import check_cluster, ray_cluster
from tasks.address import redacted
from tasks.atomic import write_file
from tasks.classifiers.labelled import BackgroundSource
from tasks.curation import extract, identify_language
from tasks.preview.sample import plan_sample, read_sample
from tasks.recipes.curation import CurationRecipe, resolve_curation_recipe
from tasks.screen import DOCUMENTS_FILE
from tasks.sources import collect_sources
from tasks.store import Store
from tasks.tables import read_rows

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}@[0-9]+")
_TABLE = re.compile(r"\.(csv|jsonl|parquet)(\.gz|\.zst)?$", re.IGNORECASE)
_PAGES_FILE = "pages.jsonl"
PAGES = "pages"
"""What the pages are called among the sources."""


@dataclass(frozen=True)
class PlannedBackground:
    """Where the texts come from."""

    tables: tuple[BackgroundSource, ...]
    """Their origin, where none is stated, is the source as it was asked for."""
    pages: tuple[str, ...]
    """Sources whose pages are extracted first."""
    asked: Background
    recipe: CurationRecipe

    def sources(self, folder: Path) -> tuple[BackgroundSource, ...]:
        """All of it as tables, where `extract_pages` has written into `folder`."""
        extracted = (
            [_table(self.asked, PAGES, folder / _PAGES_FILE, "text", self.sample, url="url")] if self.pages else []
        )
        return (*self.tables, *extracted)

    @property
    def sample(self) -> str:
        """What the pages are, for people."""
        sources = ", ".join(map(redacted, self.pages))
        return f"main content of a sample of at most {self.asked.pages:,} pages of {sources}"


def plan_background(store: Store, asked: Background, languages: Sequence[str]) -> PlannedBackground:
    """What is asked for, found. ValueError in one line where a source is not there, or none is named."""
    if not asked.sources:
        raise ValueError("name a background: ordinary pages, on which false alarms are counted and the threshold rests")
    tables, pages = [], []
    for number, source in enumerate(dict.fromkeys(asked.sources), 1):
        if _VERSION.fullmatch(source):
            path = store.corpus(source) / "documents/*.parquet"
            tables.append(_table(asked, source.replace("@", "-"), path, "text", source, url="url"))
        elif _TABLE.search(source):
            tables.append(_table(asked, f"background-{number}", source, asked.text, redacted(source)))
        else:
            pages.append(source)
    wanted = {"language.languages": json.dumps(list(languages))}
    recipe = resolve_curation_recipe("fineweb", wanted)
    if pages:
        check_cluster()
        collect_sources(store, pages, write=False)
    return PlannedBackground(tuple(tables), tuple(pages), asked, recipe)


def extract_pages(store: Store, planned: PlannedBackground, folder: Path) -> int:
    """Write the main content of a sample of the pages into `folder`; how many texts that are.

    What was read and extracted before is found. ValueError where no page is left.
    """
    sample = plan_sample(store, planned.pages, planned.recipe, pages=planned.asked.pages, progress=progress)
    with ray_cluster(None) as shard_map:
        records, _ = read_sample(sample, shard_map, progress)
        extracted = extract(sample, records, shard_map, progress)
        identified = identify_language(sample, extracted, shard_map, progress)
    rows = (row for shard in identified.shards for row in read_rows(shard / DOCUMENTS_FILE, ["text", "url"]))
    texts = [{"text": row["text"], "url": row["url"]} for row in rows if row["text"].strip()]
    if not texts:
        languages = ", ".join(planned.recipe.language.languages)
        raise ValueError(f"no page of {', '.join(planned.pages)} has text in {languages}: name another background")
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    write_file(folder / _PAGES_FILE, lines.encode())
    return len(texts)


def _table(
    asked: Background, name: str, path: str | Path, text: str, source: str, *, url: str = ""
) -> BackgroundSource:
    return BackgroundSource(
        name=name, paths=(str(path),), text=text, url=url, licence=asked.licence, origin=asked.origin or source
    )
