"""Which pages neither recipe is trained on, and on which of them both are measured.

A page is held out by a hash of its URL, whatever a recipe does with it; so the same pages are kept from both trainings,
and all captures of a page stand on one side. Of these, the evaluation takes the pages that **both** recipes keep. A
page that a recipe drops is not its text: on all that a keeps, a recipe that keeps junk would be best at junk. The other
way around, what only one of them keeps is not looked at here; texts that are given beside the pages are.

A recipe may cut or mend a text, and which of two texts of a page is the right one is what the ablation is about. So a
page whose texts differ counts as both of them together, and the comparison is the same with the recipes exchanged.

Deduplication is a part of a recipe, and one that removes little leaves near-duplicates of held-out pages in its
training text. A page or text of which either training has a near-duplicate is not measured on, by one rule for both:
the defaults of `tasks.dedup`.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.address import redacted
from tasks.atomic import write_json
from tasks.classifiers.table_rows import files_sha256, read_rows
from tasks.dedup.config import Deduplication
from tasks.dedup.jaccard import jaccard
from tasks.dedup.signature import Hashes, WordHashes, bands, shingles, signatures
from tasks.document import ShardReport
from tasks.manifest import fingerprint
from tasks.ports import ShardMap
from tasks.stages import Progress, Stage, no_progress, run_stage
from tasks.tokenizer import corpus_files, encodable, is_held_out

HELD_OUT = "held-out pages"
"""The group of the pages; a file of texts is a group by its name."""
TEXT_COLUMN = "text"
NEAR_DUPLICATE = Deduplication()

_PAGES_FILE, _COUNTS_FILE, _SEEN_FILE = "pages.parquet", "counts.json", "seen.json"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("group", "page", "document_id", "text")])
_READ_ROWS = 256


def page_key(url: str, document_id: str) -> str:
    """What a page is held out by, as one: its URL; of a record that has none, its id, which comes from its content."""
    return url or document_id


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
    """Pages and texts that are left out, because a training has a near-duplicate of them."""
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
    overlap = run_stage(
        Stage(
            "ablation_overlap",
            identity | {"near_duplicate": NEAR_DUPLICATE},
            ("numpy", "pyarrow"),
            modules=("tasks.ablation.pages",),
            after=stage.fingerprint,
        ),
        work,
        shard_map,
        functools.partial(_find_seen, pages_file=chosen / _PAGES_FILE, held_out_fraction=held_out_fraction),
        looked_at,
        progress=progress,
    )
    seen = frozenset(page for shard in overlap.shards for page in json.loads((shard / _SEEN_FILE).read_bytes()))
    counts = PageCounts(**json.loads((chosen / _COUNTS_FILE).read_bytes()))
    return EvaluationPages(chosen / _PAGES_FILE, counts, seen, overlap.fingerprint)


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


def _find_seen(documents_file: Path, directory: Path, *, pages_file: Path, held_out_fraction: float) -> ShardReport:
    """SEEN_FILE: the pages that a training document of this bucket is a near-duplicate of."""
    known = _Known(pq.read_table(pages_file, columns=["page", "text"]).to_pydict())
    num_documents = 0
    with pq.ParquetFile(documents_file) as parquet:
        for batch in parquet.iter_batches(_READ_ROWS, columns=["document_id", "url", "text"]):
            texts = [
                row["text"]
                for row in batch.to_pylist()
                if not is_held_out(page_key(row["url"], row["document_id"]), held_out_fraction)
            ]
            known.look_at(texts)
            num_documents += len(texts)
    write_json(directory / _SEEN_FILE, sorted(known.seen))
    return ShardReport(num_documents, num_documents)


class _Known:
    """The texts to measure on, found again by their bands."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self._pages, self._texts = columns["page"], columns["text"]
        self._word_hashes = WordHashes()
        self._by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._shingles: dict[int, Hashes] = {}
        self.seen: set[str] = set()
        for number, keys in enumerate(self._bands(self._texts)):
            for place in enumerate(keys):
                self._by_band[place].append(number)

    def look_at(self, texts: Sequence[str]) -> None:
        for text, keys in zip(texts, self._bands(texts), strict=True):
            near = {number for place in enumerate(keys) for number in self._by_band.get(place, ())}
            near = {number for number in near if self._pages[number] not in self.seen}
            if near:
                own = self._distinct(text)
                self.seen |= {self._pages[number] for number in near if self._resembles(number, own)}

    def _resembles(self, number: int, other: Hashes) -> bool:
        if number not in self._shingles:
            self._shingles[number] = self._distinct(self._texts[number])
        return jaccard(self._shingles[number], other) >= NEAR_DUPLICATE.min_jaccard

    def _distinct(self, text: str) -> Hashes:
        return np.unique(shingles(text, NEAR_DUPLICATE.minhash, self._word_hashes))

    def _bands(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = bands(
            signatures(texts, NEAR_DUPLICATE.minhash, self._word_hashes), NEAR_DUPLICATE.minhash
        ).tolist()
        return found
