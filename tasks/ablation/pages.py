"""Which pages neither recipe is trained on, and on which of them both are measured.

A page is held out by a hash of its URL, whatever a recipe does with it; so the same pages are kept from both trainings,
and all captures of a page stand on one side. Of these, the evaluation takes the pages that **both** recipes keep. A
page that a recipe drops is not its text: on all that a keeps, a recipe that keeps junk would be best at junk. The other
way around, what only one of them keeps is not looked at here; texts that are given beside the pages are.

A recipe may cut or mend a text, and which of two texts of a page is the right one is what the ablation is about. So a
page whose texts differ counts as both of them together, and the comparison is the same with the recipes exchanged.

What either training has seen under another URL is not measured on (`tasks.ablation.seen`).
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.ablation.held_out import page_key
from tasks.ablation.seen import find_seen, seen_pages
from tasks.address import redacted
from tasks.atomic import write_json
from tasks.classifiers.table_rows import files_sha256, read_rows
from tasks.document import ShardReport
from tasks.manifest import fingerprint
from tasks.ports import ShardMap
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.tokenizer import corpus_files, encodable, is_held_out

HELD_OUT = "held-out pages"
"""The group of the pages; a file of texts is a group by its name."""
TEXT_COLUMN = "text"

_PAGES_FILE, _COUNTS_FILE, _SEEN_FILE = "pages.parquet", "counts.json", "seen.json"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("group", "page", "document_id", "text")])


@dataclass(frozen=True, slots=True)
class PageText:
    """One text to measure on; a page whose texts differ by recipe has two."""

    group: str
    page: str
    text: str


@dataclass(frozen=True)
class PageCounts:
    """How the pages that are measured on were come by."""

    held_out_a: int
    held_out_b: int
    kept_by_both: int
    chosen: int  # of those, at most as many as were asked for
    with_two_texts: int  # of the chosen


@dataclass(frozen=True)
class EvaluationPages:
    """What both recipes are measured on."""

    file: Path
    counts: PageCounts
    seen: frozenset[str]
    """Pages and texts that are left out, because much of them stands in training text."""
    fingerprint: str

    def texts(self) -> list[PageText]:
        """In the order of groups as they were given, then of pages."""
        rows = pq.read_table(self.file, columns=["group", "page", "text"]).to_pylist()
        return [PageText(**row) for row in rows if row["page"] not in self.seen]


def evaluation_pages(
    work: Path,
    corpora: Sequence[tuple[Path, str]],
    texts: Sequence[str],
    shard_map: ShardMap,
    progress: Progress = no_progress,
    *,
    held_out_fraction: float,
    max_pages: int,
) -> EvaluationPages:
    """Choose them; `corpora` are the versions of the two recipes with their digests, `texts` tables of further texts.

    At most `max_pages` of the pages and of each table, by hash: a larger choice contains every smaller one. Raises
    ValueError for a table that can't be read.
    """
    identity = {"fraction": held_out_fraction, "max_pages": max_pages}
    folders = tuple(folder for folder, _ in corpora)
    stage = Stage(
        "ablation_pages",
        identity,
        ("pyarrow",),
        modules=("tasks.ablation.pages",),
        after=fingerprint({"corpora": [digest for _, digest in corpora], "texts": texts_identity(texts)}),
    )
    choice = _Choice(folders, tuple(texts), held_out_fraction, max_pages)
    chosen = run_stage(stage, work, shard_map, _choose, [choice], progress=progress).shards[0]
    looked_at = [file for folder in dict.fromkeys(folders) for file in corpus_files(folder)]
    pages_file = chosen / _PAGES_FILE

    def finish(directory: Path, shards: tuple[Path, ...]) -> Mapping[str, Any]:
        write_json(directory / _SEEN_FILE, seen_pages(pages_file, shards))
        return {}

    overlap = run_stage(
        Stage(
            "ablation_overlap",
            identity,
            ("numpy", "pyarrow"),
            modules=("tasks.ablation.seen",),
            after=stage.fingerprint,
        ),
        work,
        shard_map,
        functools.partial(find_seen, pages_file=pages_file, held_out_fraction=held_out_fraction),
        looked_at,
        progress=progress,
        finish=finish,
    )
    seen = frozenset(json.loads((overlap.directory / _SEEN_FILE).read_bytes()))
    counts = PageCounts(**json.loads((chosen / _COUNTS_FILE).read_bytes()))
    return EvaluationPages(pages_file, counts, seen, overlap.fingerprint)


@dataclass(frozen=True)
class _Choice:
    """What is chosen from."""

    corpora: tuple[Path, ...]
    texts: tuple[str, ...]
    held_out_fraction: float
    max_pages: int


def _choose(choice: _Choice, directory: Path) -> ShardReport:
    """The only shard of its stage: PAGES_FILE and COUNTS_FILE."""
    held_out = [_held_out_pages(corpus, choice.held_out_fraction) for corpus in choice.corpora]
    both = set.intersection(*(set(pages) for pages in held_out))
    chosen = heapq.nsmallest(choice.max_pages, both, key=_order)
    found: dict[str, dict[str, str]] = {page: {} for page in chosen}  # page -> text -> document
    for corpus, pages in zip(choice.corpora, held_out, strict=True):
        wanted = {pages[page]: page for page in chosen}
        for document_id, text in _texts_of(corpus, wanted):
            found[wanted[document_id]].setdefault(text, document_id)
    rows = [
        {"group": HELD_OUT, "page": page, "document_id": document_id, "text": text}
        for page, texts in sorted(found.items())
        for text, document_id in sorted(texts.items())
    ]
    for path, name in zip(choice.texts, text_groups(choice.texts), strict=True):
        texts = _chosen_texts(path, choice.max_pages)
        rows += [
            {"group": name, "page": f"{name}/{digest[:16]}", "document_id": "", "text": texts[digest]}
            for digest in sorted(texts)
        ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / _PAGES_FILE)
    counts = PageCounts(
        held_out_a=len(held_out[0]),
        held_out_b=len(held_out[1]),
        kept_by_both=len(both),
        chosen=len(chosen),
        with_two_texts=sum(len(texts) > 1 for texts in found.values()),
    )
    write_json(directory / _COUNTS_FILE, asdict(counts))
    return ShardReport(len(rows), len(rows))


def text_groups(paths: Sequence[str]) -> tuple[str, ...]:
    """What tables of texts are called: by the names of their files. Raises ValueError where two have the same."""
    names = tuple(PurePath(redacted(path)).name for path in paths)
    for name in names:
        if names.count(name) > 1 or name == HELD_OUT:
            raise ValueError(f"two tables of texts are called {name}: rename one of them")
    return names


def texts_identity(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Of each table its group and its content: what is found on a group is kept and shown by the group's name."""
    return [(name, files_sha256([path])) for name, path in zip(text_groups(paths), paths, strict=True)]


def _order(page: str) -> bytes:
    return hashlib.sha256(page.encode("utf-8")).digest()


def _held_out_pages(corpus: Path, fraction: float) -> dict[str, str]:
    """The document of each held-out page; of several (captures that were not found to be copies) the first by id."""
    pages: dict[str, str] = {}
    for file in corpus_files(corpus):
        columns = pq.read_table(file, columns=["document_id", "url"]).to_pydict()
        for document_id, url in zip(columns["document_id"], columns["url"], strict=True):
            page = page_key(url, document_id)
            if is_held_out(page, fraction):
                pages[page] = min(pages.get(page, document_id), document_id)
    return pages


def _texts_of(corpus: Path, document_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    wanted = pc.field("document_id").isin(pa.array(document_ids, pa.string()))
    for file in corpus_files(corpus):
        table = pq.read_table(file, columns=["document_id", "text"], filters=wanted)
        for document_id, text in zip(table["document_id"].to_pylist(), table["text"].to_pylist(), strict=True):
            yield document_id, encodable(text)


def _chosen_texts(path: str, max_texts: int) -> dict[str, str]:
    """Those with the smallest SHA-256, by that. Reads the table twice, so that only the chosen texts are held."""
    chosen = set(heapq.nsmallest(max_texts, {digest for digest, _ in _table_texts(path)}))
    return {digest: text for digest, text in _table_texts(path) if digest in chosen}


def _table_texts(path: str) -> Iterator[tuple[str, str]]:
    """Each text that is not empty, after its SHA-256."""
    for number, row in read_rows(path, [TEXT_COLUMN]):
        text = row[TEXT_COLUMN]
        if not isinstance(text, str):
            raise ValueError(f"{redacted(path)}, row {number}: its {TEXT_COLUMN} is no string: give a string")
        if text.strip():
            text = encodable(text)
            yield hashlib.sha256(text.encode("utf-8")).hexdigest(), text
