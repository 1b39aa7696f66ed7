"""Who stays and who goes: the members of one partition, decided one after the other in the recipe's order.

    taken-down documents first; then each other document:
      a taken-down one has its text, its URL or (by signature) resembles it   -> takedown / taken_down_copy
      a survivor has its text                                                 -> exact_dedup / exact_duplicate
      a survivor has its URL                          (where the recipe does) -> url_dedup / canonical_url
      the earliest survivor that shares a band and resembles it enough        -> near_dedup / near_duplicate
      none                                                                    -> it survives

This is leader clustering: the first maximal independent set of the graph of resemblances in lexicographic order. No
document is removed for one that is itself removed, so a chain of small changes is not one cluster, and what survives is
a function of the documents alone. Documents of other components share no key with these, so the partition is no part
of the result.

In memory: per member some 150 bytes (id, date, hashes, decision); per distinct text what `BandGroups` states; 84 MB at
most for `SharedShingles` and the hashes of words; never texts beyond a batch. Signatures and shingles are in mapped
scratch files, whose pages the system may drop.

Only survivors are compared with, and of them only those that share a band and could be similar enough by the number of
shingles that they can have in common. So copies cost one look-up each, and the pages of one template almost as little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.candidates import BandGroups, Scratch, blocks
from tasks.dedup.config import Deduplication
from tasks.dedup.index import IndexFileError, binary_to_hashes
from tasks.dedup.jaccard import SharedShingles, jaccard, jaccard_bounds, min_equal_hashes
from tasks.dedup.members import PartitionReader, members_schema
from tasks.dedup.signature import Hashes, WordHashes, shingles

NUM_LARGEST_CLUSTERS = 20
ROWS_PER_GROUP = 4096
MAX_WORDS = 1 << 17
"""Hashes of words that are kept from one batch of texts to the next, some 20 MB."""

DECISIONS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("survivor_id", pa.string()),
        pa.field("cluster_size", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
    ]
)
"""One row per member, sorted by `document_id`.

`survivor_id` is the document's own id where it is kept (the id of its cluster) and null where it was itself taken
down; of a copy of a taken-down document it is that one's id. `cluster_size` is the survivor with all removed for it,
and null unless kept. `value` is 1 for equal texts, null for equal URLs, and for near-duplicates the true Jaccard
similarity; the estimated one where verification is off or against taken-down documents, whose text is gone.
`threshold` is what `value` had to reach, where it had to.
"""

_COLUMNS = ["document_id", "date", "num_chars", "url_key", "text_sha256", "taken_down"]

_KEPT, _TAKEN_DOWN, _TAKEN_DOWN_COPY, _TAKEN_DOWN_NEAR, _EQUAL_TEXT, _EQUAL_URL, _NEAR = range(7)
_STAGES_AND_REASONS = (
    (None, None),
    ("takedown", "taken_down"),
    ("takedown", "taken_down_copy"),
    ("takedown", "taken_down_copy"),
    ("exact_dedup", "exact_duplicate"),
    ("url_dedup", "canonical_url"),
    ("near_dedup", "near_duplicate"),
)
_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Cluster:
    cluster_id: str
    num_documents: int


@dataclass(frozen=True, slots=True)
class ResolveReport:
    """What became of the members: `removed` counts them by "stage/reason"."""

    num_documents: int
    kept: int
    removed: Mapping[str, int]
    largest_clusters: tuple[Cluster, ...]
    """Of two or more documents, the largest first."""


@dataclass(frozen=True, slots=True)
class _Members:
    """The members in the order in which they are decided; texts and URLs as numbers, `_NOBODY` for no URL."""

    document_ids: pa.StringArray
    num_taken_down: int
    taken_down_alone: NDArray[np.bool_]  # blocks its URL, not what resembles it
    texts: NDArray[np.int64]
    urls: NDArray[np.int64]
    num_texts: int
    num_urls: int


class _Texts:
    """Signatures and shingles by number of the text."""

    def __init__(
        self,
        reader: PartitionReader,
        texts_of_rows: NDArray[np.int64],
        num_texts: int,
        signatures: Scratch,
        config: Deduplication,
    ) -> None:
        """`texts_of_rows` has the number of the text of each row that `reader` gives; `signatures` are those rows'."""
        self._reader, self._texts_of_rows, self._config = reader, texts_of_rows, config
        self._signatures = signatures.mapped().reshape(len(texts_of_rows), config.minhash.num_hashes)
        self._row = np.zeros(num_texts, dtype=np.int64)  # any row that has the text
        self._row[texts_of_rows] = np.arange(len(texts_of_rows))
        self._first = np.zeros(num_texts, dtype=np.int64)
        self._sizes = np.zeros(num_texts, dtype=np.int64)
        self._shared = np.zeros(num_texts, dtype=np.int64)  # shingles that another text may have, too
        self._shingles: Hashes = np.empty(0, dtype=np.uint64)
        self.lost = np.zeros(num_texts, dtype=np.bool_)
        """Texts that were to be shingled, but that no member has: those of taken-down documents and their copies."""

    def signatures(self, texts: NDArray[np.int64]) -> Hashes:
        return self._signatures[self._row[texts]]

    def make_shingles(self, wanted: NDArray[np.bool_], scratch: Scratch) -> None:
        """Shingle each wanted text once, where a member still has it."""
        word_hashes, first_row, missing = WordHashes(), 0, wanted.copy()
        shared = SharedShingles(int(wanted.sum()))
        for table in self._reader.batches(["text"]):
            texts = self._texts_of_rows[first_row : first_row + len(table)]
            rows = np.flatnonzero(missing[texts] & table["text"].is_valid().to_numpy())
            if len(word_hashes) > MAX_WORDS:
                word_hashes.clear()
            for row in rows[np.sort(np.unique(texts[rows], return_index=True)[1])]:
                unique = np.unique(shingles(table["text"][int(row)].as_py(), self._config.minhash, word_hashes))
                self._first[texts[row]], self._sizes[texts[row]] = len(scratch), len(unique)
                scratch.append(unique)
                shared.add(unique)
            missing[texts[rows]] = False
            first_row += len(table)
        self._shingles, self.lost = scratch.mapped(), missing
        for text in np.flatnonzero(wanted & ~missing):
            self._shared[text] = shared.count(self.shingles(int(text)))

    def num_equal(self, text: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Equal entries of the signatures of one text and of others."""
        equal = self.signatures(others) == self._signatures[self._row[text]]
        return np.asarray(np.count_nonzero(equal, axis=1), dtype=np.int64)

    def jaccard_bounds(self, text: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Upper bounds of the similarities of one text with others."""
        return jaccard_bounds(self._sizes[text], self._shared[text], self._sizes[others], self._shared[others])

    def shingles(self, text: int) -> Hashes:
        """Sorted, without repetitions, of a text for which they were made."""
        return self._shingles[self._first[text] : self._first[text] + self._sizes[text]]


def resolve_partition(
    member_files: Sequence[Path], partition: int, output_file: Path, config: Deduplication
) -> ResolveReport:
    """Decide the members of `partition` from all buckets' `member_files`, and write their `DECISIONS`."""
    reader = PartitionReader(member_files, partition)
    columns = members_schema(config).empty_table().select(_COLUMNS).replace_schema_metadata()
    signatures, parts = Scratch(output_file.parent), [columns]
    for table in reader.batches([*_COLUMNS, "signature"]):
        signatures.append(binary_to_hashes(table["signature"]))
        parts.append(table.select(_COLUMNS))
    members, texts_of_rows = _in_order(pa.concat_tables(parts).combine_chunks(), config)
    texts = _Texts(reader, texts_of_rows, members.num_texts, signatures, config)
    groups = BandGroups(texts.signatures, members.num_texts, config.minhash)
    if config.min_jaccard > 0:
        texts.make_shingles(groups.shares_any(), Scratch(output_file.parent))
    decisions = _Decider(members, texts, groups, config).decide()
    return _write(members, decisions, output_file, config)


def _in_order(table: pa.Table, config: Deduplication) -> tuple[_Members, NDArray[np.int64]]:
    """The members in the order of decision, and the number of the text of each row of `table`."""
    flagged = pc.not_equal(table["taken_down"], "")
    columns = {"date": table["date"], "document_id": table["document_id"]}
    keys = [("date", "ascending"), ("document_id", "ascending")]
    if config.order == "longest":
        columns["num_chars"] = table["num_chars"]
        keys.insert(0, ("num_chars", "descending"))
    sortable = pa.table({"flagged": flagged.cast(pa.int8()), **columns})
    order = pc.sort_indices(sortable, [("flagged", "descending"), *keys]).to_numpy().astype(np.int64)
    texts, num_texts = _numbered(table["text_sha256"])
    urls, num_urls = _numbered(table["url_key"])
    members = _Members(
        document_ids=table["document_id"].combine_chunks().take(pa.array(order)),
        num_taken_down=int(flagged.to_numpy().sum()),
        taken_down_alone=pc.equal(table["taken_down"], "document").to_numpy()[order],
        texts=texts[order],
        urls=urls[order],
        num_texts=num_texts,
        num_urls=num_urls,
    )
    return members, texts


def _numbered(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], int]:
    """Equal values as equal numbers, from 0; null as `_NOBODY`. And how many numbers there are."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(_NOBODY).to_numpy().astype(np.int64), len(encoded.dictionary)


@dataclass(frozen=True, slots=True)
class _Decisions:
    """Per member: the code of the decision, who stands for it (a member's number, or `_NOBODY`), and by how much."""

    codes: NDArray[np.int8]
    by: NDArray[np.int64]
    values: NDArray[np.float64]


class _Decider:
    def __init__(self, members: _Members, texts: _Texts, groups: BandGroups, config: Deduplication) -> None:
        self._members, self._texts, self._groups = members, texts, groups
        self._by_url = config.canonical_url
        self._min_jaccard = config.min_jaccard
        self._num_hashes = config.minhash.num_hashes
        self._min_equal = min_equal_hashes(config.min_jaccard, self._num_hashes)
        self._of_text = np.full(members.num_texts, _NOBODY, dtype=np.int64)  # the survivor that has it
        self._of_url = np.full(members.num_urls, _NOBODY, dtype=np.int64)
        self._taken_text = self._of_text.copy()  # the taken-down document that has it
        self._taken_url = self._of_url.copy()

    def decide(self) -> _Decisions:
        num_members, num_taken_down = len(self._members.texts), self._members.num_taken_down
        codes = np.full(num_members, _TAKEN_DOWN, dtype=np.int8)
        by = np.full(num_members, _NOBODY, dtype=np.int64)
        values = np.full(num_members, np.nan)
        for member in range(num_taken_down):
            self._block(member)
        for member in range(num_taken_down, num_members):
            text, url = int(self._members.texts[member]), int(self._members.urls[member])
            codes[member], by[member], values[member] = self._stands_for(member, text, url)
            if codes[member] == _KEPT:
                self._of_text[text] = member
                if url != _NOBODY:
                    self._of_url[url] = member
                self._groups.add(text, member)
        return _Decisions(codes, by, values)

    def _block(self, member: int) -> None:
        text, url = int(self._members.texts[member]), int(self._members.urls[member])
        if url != _NOBODY and self._taken_url[url] == _NOBODY:
            self._taken_url[url] = member
        if not self._members.taken_down_alone[member] and self._taken_text[text] == _NOBODY:
            self._taken_text[text] = member
            self._groups.add(text, member)

    def _stands_for(self, member: int, text: int, url: int) -> tuple[int, int, float]:
        """The decision on one member: its code, by whom, and the value."""
        if self._taken_text[text] != _NOBODY:
            return _TAKEN_DOWN_COPY, self._taken_text[text], 1.0
        if url != _NOBODY and self._taken_url[url] != _NOBODY:
            return _TAKEN_DOWN_COPY, self._taken_url[url], np.nan
        if self._members.num_taken_down:
            met = self._groups.met(text)
            taken_down, value = self._first_estimated(text, met[met < self._members.num_taken_down])
            if taken_down != _NOBODY:
                return _TAKEN_DOWN_NEAR, taken_down, value
        if self._of_text[text] != _NOBODY:
            return _EQUAL_TEXT, self._of_text[text], 1.0
        if self._by_url and url != _NOBODY and self._of_url[url] != _NOBODY:
            return _EQUAL_URL, self._of_url[url], np.nan
        if self._texts.lost[text]:
            raise IndexFileError(
                f"document {self._members.document_ids[member]}: its text is in none of the files that write_members "
                "was given; of a version that is built onto, give both the documents and the originals"
            )
        met = self._groups.met(text)
        first = self._first_true if self._min_jaccard > 0 else self._first_estimated
        survivor, value = first(text, met[met >= self._members.num_taken_down])
        return (_KEPT, member, np.nan) if survivor == _NOBODY else (_NEAR, survivor, value)

    def _first_estimated(self, text: int, candidates: NDArray[np.int64]) -> tuple[int, float]:
        """The first candidate whose estimated similarity suffices, and that similarity."""
        for block in blocks(candidates):
            estimates = self._texts.num_equal(text, self._members.texts[block]) / self._num_hashes
            enough = np.flatnonzero(estimates >= self._min_jaccard)
            if len(enough):
                return int(block[enough[0]]), float(estimates[enough[0]])
        return _NOBODY, np.nan

    def _first_true(self, text: int, candidates: NDArray[np.int64]) -> tuple[int, float]:
        """The first candidate whose true similarity suffices, and that similarity."""
        own = self._texts.shingles(text)
        bounds = self._texts.jaccard_bounds(text, self._members.texts[candidates])
        for block in blocks(candidates[bounds >= self._min_jaccard]):
            comparable = self._texts.num_equal(text, self._members.texts[block]) >= self._min_equal
            for candidate in block[comparable]:
                value = jaccard(own, self._texts.shingles(self._members.texts[candidate]))
                if value >= self._min_jaccard:
                    return int(candidate), value
        return _NOBODY, np.nan


def _write(members: _Members, decisions: _Decisions, output_file: Path, config: Deduplication) -> ResolveReport:
    codes, by = decisions.codes, decisions.by
    sizes = np.bincount(by[by != _NOBODY], minlength=len(codes))
    kept = codes == _KEPT
    compared = np.isin(codes, (_NEAR, _TAKEN_DOWN_NEAR)) & (config.min_jaccard > 0)
    stages, reasons = zip(*_STAGES_AND_REASONS, strict=True)
    ids = members.document_ids
    table = pa.table(
        [
            ids,
            pa.array(kept),
            ids.take(pa.array(by, mask=by == _NOBODY)),
            pa.array(sizes.astype(np.int64), mask=~kept),
            pa.array(stages, pa.string()).take(pa.array(codes)),
            pa.array(reasons, pa.string()).take(pa.array(codes)),
            pa.array(decisions.values, mask=np.isnan(decisions.values)),
            pa.array(np.full(len(codes), config.min_jaccard), mask=~compared),
        ],
        schema=DECISIONS,
    )
    pq.write_table(table.sort_by("document_id"), output_file, row_group_size=ROWS_PER_GROUP, compression="zstd")

    large = np.flatnonzero(kept & (sizes > 1))
    large = large[np.argsort(-sizes[large], kind="stable")][:NUM_LARGEST_CLUSTERS]
    counts = np.bincount(codes, minlength=len(_STAGES_AND_REASONS)).tolist()
    removed: dict[str, int] = {}
    for (stage, reason), count in zip(_STAGES_AND_REASONS[1:], counts[1:], strict=True):
        if count:
            removed[f"{stage}/{reason}"] = removed.get(f"{stage}/{reason}", 0) + count
    clusters = tuple(Cluster(ids[int(member)].as_py(), int(sizes[member])) for member in large)
    return ResolveReport(len(codes), counts[_KEPT], removed, clusters)
