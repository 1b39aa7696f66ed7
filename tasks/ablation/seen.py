"""Which of the pages and texts to measure on a training has seen, though their URLs are held out.

A page may stand within another one, or be copied under another URL, and deduplication, which would remove a copy, is a
part of the recipes that are compared. So by one rule for both recipes, a page or text is left out where

    near-duplicate   a training document resembles it as a whole, by the defaults of `tasks.dedup`; or
    runs of words    of its different runs of 13 words more than `MAX_SEEN_FRACTION` stand somewhere in training text
                     (`tasks.decontamination.index`; a text of fewer words is one run, of fewer than 8 none)

Runs that more than 100 of the pages share, such as menus and licences, count neither for nor against a page.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.ablation.held_out import page_key
from tasks.atomic import write_json
from tasks.decontamination.index import ExampleIndex
from tasks.decontamination.sought import Sought
from tasks.dedup.config import Deduplication
from tasks.dedup.jaccard import jaccard
from tasks.dedup.signature import Hashes, WordHashes, bands, shingles, signatures
from tasks.document import ShardReport
from tasks.tokenizer import is_held_out

NEAR_DUPLICATE = Deduplication()
MAX_SEEN_FRACTION = 0.3
"""As much as a document may have of examples without being dropped (`tasks.decontamination.step`). Our own choice."""

_NEAR_FILE, _RUNS_FILE = "near.json", "runs.npy"
_READ_ROWS = 256


def find_seen(documents_file: Path, directory: Path, *, pages_file: Path, held_out_fraction: float) -> ShardReport:
    """What the training documents of this bucket have of the pages: near-duplicates, and runs of words by number."""
    known, index = _Known(pq.read_table(pages_file, columns=["page", "text"]).to_pydict()), _runs(pages_file)
    runs: set[int] = set()
    num_documents = 0
    with pq.ParquetFile(documents_file) as parquet:
        for batch in parquet.iter_batches(_READ_ROWS, columns=["document_id", "url", "text"]):
            texts = [
                row["text"]
                for row in batch.to_pylist()
                if not is_held_out(page_key(row["url"], row["document_id"]), held_out_fraction)
            ]
            known.look_at(texts)
            for text in texts:
                runs.update(run for found in index.find(text) for run in found.ngrams)
            num_documents += len(texts)
    write_json(directory / _NEAR_FILE, sorted(known.seen))
    np.save(directory / _RUNS_FILE, np.array(sorted(runs), np.int64))
    return ShardReport(num_documents, num_documents)


def seen_pages(pages_file: Path, shards: Sequence[Path]) -> list[str]:
    """The pages and texts that are left out, from what all buckets of both recipes have found."""
    index = _runs(pages_file)
    is_found = np.zeros(index.num_ngrams, np.bool_)
    for shard in shards:
        is_found[np.load(shard / _RUNS_FILE)] = True
    seen = {page for shard in shards for page in json.loads((shard / _NEAR_FILE).read_bytes())}
    by_runs = np.flatnonzero(index.fractions(is_found) > MAX_SEEN_FRACTION).tolist()
    return sorted(seen | {index.examples[number][1] for number in by_runs})


@functools.lru_cache(1)
def _runs(pages_file: Path) -> ExampleIndex:
    """Of each text in the file, which never changes. Of a page with two texts each is looked for."""
    columns = pq.read_table(pages_file, columns=["page", "text"]).to_pydict()
    return ExampleIndex(
        Sought("pages", page, (text,)) for page, text in zip(columns["page"], columns["text"], strict=True)
    )


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
