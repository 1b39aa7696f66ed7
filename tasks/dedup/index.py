"""The index of a corpus: what every document that ever reached deduplication looks like, without its text.

A bucket's index is a Parquet file with one row per document, sorted by id, removed and taken-down ones included; and a
key run, which names the documents by their rows in that file. The footer holds everything that determines a signature
besides the text; files that were written with other settings are refused. The same documents give the same bytes,
whether they came all at once or by many refreshes.
"""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.dedup.array_file import ArrayWriter
from tasks.dedup.exact import text_sha256, url_key
from tasks.dedup.keys import KEY, row_keys, sorted_run
from tasks.dedup.signature import Hashes, MinHash, WordHashes, signatures

INDEX_FILE = "index.parquet"
KEYS_FILE = "keys.npy"
TOUCHED_FILE = "touched.npy"

CONFIG_KEY = b"tokenmill.minhash"

SCOPES = ("", "document", "cluster")
"""What `taken_down` may say, each more than the one before: nothing; this document alone; it and all its copies."""

_DOCUMENTS_PER_BATCH = 512  # whose texts are in memory at the same time
_ROWS_PER_GROUP = 1024  # of the index file: some 1 MB of signatures
_TEXT_COLUMNS = ("document_id", "url", "date", "text")

ScopeOf = Callable[[str, str], str]


class IndexFileError(ValueError):
    """A file handed to the index is not what the step needs: which file, what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What `write_index` wrote."""

    num_documents: int
    num_new: int  # of them not in the base
    num_keys: int


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """The index files of all buckets as one table.

    A document's *node* is its row in that table: file `i` holds nodes `starts[i]` up to `starts[i + 1]`, and `starts`
    has one more entry than there are files.
    """

    paths: tuple[Path, ...]
    starts: NDArray[np.int64]
    config: MinHash


def index_schema(config: MinHash) -> pa.Schema:
    return pa.schema(
        [
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("date", pa.string(), nullable=False),
            pa.field("num_chars", pa.int64(), nullable=False),
            pa.field("url_key", pa.binary(16)),  # null: the document has no URL
            pa.field("text_sha256", pa.binary(32), nullable=False),
            pa.field("taken_down", pa.string(), nullable=False),
            pa.field("signature", pa.binary(8 * config.num_hashes), nullable=False),  # little-endian 64-bit hashes
        ],
        metadata={CONFIG_KEY: _describe(config).encode()},
    )


def write_index(
    base: Path | None,
    carried: Path | None,
    new: Path | None,
    directory: Path,
    config: MinHash,
    scope_of: ScopeOf,
    newly: Mapping[str, str],
) -> IndexReport:
    """Write the index of one bucket into `directory`: `INDEX_FILE`, `KEYS_FILE`, `TOUCHED_FILE`.

    `base` is the bucket's index file of the version before; `new` a Parquet file of documents (columns of `TEXTS`,
    sorted by id). `scope_of(document_id, url)` says which of the new ones are taken down, `newly` (id -> scope) which
    of those in the base are from now on; a scope never shrinks. Of `carried`, the index file of a version that is not
    built onto, only what is taken down is taken over; where `new` has such a document, it is indexed from its text.
    `TOUCHED_FILE` holds, ascending, the rows that are not in the base or were flagged now.

    Memory: a batch of documents with their texts, and some 50 bytes per key of the bucket while its run is sorted.
    Raises `IndexFileError` for files with other parameters, missing columns or nulls, out of order, or ids twice.
    """
    assert base is None or carried is None, "built onto a version, or not"
    sources: list[_Source] = []
    num_old = 0
    if base is not None:
        sources.append(_Source(base, _of_base(base, config, newly)))
        num_old = pq.read_metadata(base).num_rows
    scopes = _taken_down(carried) if carried is not None else {}
    if carried is not None and (missing := scopes.keys() - _ids(new)):
        sources.append(_Source(carried, _of_carried(carried, config, missing)))
    if new is not None:
        sources.append(_Source(new, _of_texts(new, config, scope_of, scopes)))

    schema = index_schema(config)
    runs = [np.empty(0, dtype=KEY)]
    num_rows = 0
    with (
        pq.ParquetWriter(
            directory / INDEX_FILE,
            schema,
            use_dictionary=["date", "taken_down"],
            compression={name: "none" if name == "signature" else "zstd" for name in schema.names},  # hashes are noise
        ) as writer,
        ArrayWriter(directory / TOUCHED_FILE, np.dtype("<i8")) as touched,
    ):
        for group in _groups(_merged(sources)):
            writer.write_table(group.drop_columns("touched").cast(schema), row_group_size=_ROWS_PER_GROUP)
            touched.write(num_rows + np.flatnonzero(group["touched"].to_numpy()))
            runs.append(_keys(group, config, num_rows))
            num_rows += len(group)
    assert num_rows < 2**32, f"{num_rows} documents in one bucket"
    keys = sorted_run(np.concatenate(runs))
    np.save(directory / KEYS_FILE, keys)
    return IndexReport(num_rows, num_rows - num_old, len(keys))


def open_index(paths: Sequence[Path]) -> IndexFiles:
    """Read the footers. Raises `IndexFileError` where files are missing or were written with other settings."""
    if not paths:
        raise IndexFileError("no index files were given; write_index makes one for each bucket")
    described = [_described(path) for path in paths]
    for path, description in zip(paths, described, strict=True):
        if description != described[0]:
            raise IndexFileError(
                f"{path}: written with {description}, but {paths[0]} with {described[0]}; signatures compare only if "
                "both agree: write all buckets with one configuration"
            )
    settings = json.loads(described[0])
    del settings["unicode"]
    starts = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in paths)], dtype=np.int64)
    return IndexFiles(tuple(paths), starts, MinHash(**settings))


def binary_to_hashes(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """A column of fixed-size binary as 64-bit numbers, of shape (rows, bytes / 8); what a null gives is undefined."""
    num_bytes = column.type.byte_width
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[chunk.offset * num_bytes :][: len(chunk) * num_bytes]
        for chunk in chunks
        if len(chunk)
    ]
    data = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)
    return data.view("<u8").astype(np.uint64, copy=False).reshape(len(column), num_bytes // 8)


# --- where rows come from: tables of the index's columns and `touched`, in the order of ids ---------------------------


def _of_base(path: Path, config: MinHash, newly: Mapping[str, str]) -> Iterator[pa.Table]:
    """All rows of the version before; touched are those whose scope grows now."""
    _check_parameters(path, config)
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_GROUP):
        table = pa.Table.from_batches([batch])
        before = table["taken_down"].to_pylist()
        now = [_wider(scope, newly.get(id_, "")) for id_, scope in zip(_column(table), before, strict=True)]
        yield _table(table, config, now, [new != old for new, old in zip(now, before, strict=True)])


def _taken_down(path: Path) -> dict[str, str]:
    """The scopes of what is taken down in an index file, whatever its parameters."""
    _described(path)
    columns = pq.read_table(path, columns=["document_id", "taken_down"]).to_pydict()
    return {id_: scope for id_, scope in zip(*columns.values(), strict=True) if scope}


def _of_carried(path: Path, config: MinHash, ids: Set[str]) -> Iterator[pa.Table]:
    """The rows of an index file that is not built onto, for these taken-down documents, which exist nowhere else."""
    _check_parameters(path, config)
    for batch in pq.ParquetFile(path).iter_batches(_ROWS_PER_GROUP):
        table = pa.Table.from_batches([batch])
        table = table.filter(pa.array([id_ in ids for id_ in _column(table)], pa.bool_()))
        yield _table(table, config, table["taken_down"].to_pylist(), [True] * len(table))


def _ids(path: Path | None) -> set[str]:
    return set(_column(pq.read_table(path, columns=["document_id"]))) if path is not None else set()


def _of_texts(path: Path, config: MinHash, scope_of: ScopeOf, scopes: Mapping[str, str]) -> Iterator[pa.Table]:
    """The rows of documents that are not in the index yet; `scopes` are those that some have from elsewhere."""
    documents = pq.ParquetFile(path)
    if missing := set(_TEXT_COLUMNS) - set(documents.schema_arrow.names):
        raise IndexFileError(f"{path}: no column {', '.join(sorted(missing))}; is it a file of documents?")
    word_hashes = WordHashes()
    for batch in documents.iter_batches(_DOCUMENTS_PER_BATCH, columns=list(_TEXT_COLUMNS)):
        for name in _TEXT_COLUMNS:
            if batch.column(name).null_count:
                raise IndexFileError(f"{path}: column {name} has nulls; every document needs it, if only empty")
        ids, urls, texts = (batch.column(name).to_pylist() for name in ("document_id", "url", "text"))
        found = signatures(texts, config, word_hashes)
        columns = {
            "document_id": batch.column("document_id"),
            "date": batch.column("date"),
            "num_chars": [len(text) for text in texts],
            "url_key": pa.array([url_key(url) for url in urls], pa.binary(16)),
            "text_sha256": pa.array([text_sha256(text) for text in texts], pa.binary(32)),
            "signature": _to_binary(found),
        }
        now = [_wider(scope_of(id_, url), scopes.get(id_, "")) for id_, url in zip(ids, urls, strict=True)]
        yield _table(columns, config, now, [True] * len(ids))


def _wider(one: str, other: str) -> str:
    return max(one, other, key=SCOPES.index)


def _to_binary(hashes: Hashes) -> pa.Array:
    data = pa.py_buffer(hashes.astype("<u8", copy=False).tobytes())
    return pa.Array.from_buffers(pa.binary(8 * hashes.shape[1]), len(hashes), [None, data])


def _table(columns: Any, config: MinHash, taken_down: Sequence[str], touched: Sequence[bool]) -> pa.Table:
    """Rows on their way into the index: its columns, and whether they are new or newly flagged."""
    schema = index_schema(config).append(pa.field("touched", pa.bool_(), nullable=False)).remove_metadata()
    added = {"taken_down": taken_down, "touched": touched}
    return pa.table({name: added[name] if name in added else columns[name] for name in schema.names}, schema=schema)


# --- one stream of rows in the order of ids ---------------------------------------------------------------------------


class _Source:
    """Tables of one file, which must ascend by id; the first rows not taken yet are at hand with their ids."""

    def __init__(self, path: Path, tables: Iterator[pa.Table]) -> None:
        self.path, self._tables = path, tables
        self._table: pa.Table | None = None
        self._last = ""
        self.ids: list[str] = []

    def fill(self) -> bool:
        """Make sure that rows are at hand; False where none are left."""
        while not self.ids:
            if (table := next(self._tables, None)) is None:
                return False
            self._table, self.ids = table, _column(table)
            for before, id_ in zip([self._last, *self.ids], self.ids, strict=False):
                if id_ <= before:
                    problem = "occurs twice" if id_ == before else f"stands after {before}"
                    raise IndexFileError(f"{self.path}: document_id {id_!r} {problem}; the rows must ascend by id")
            self._last = self.ids[-1] if self.ids else self._last
        return True

    def take_through(self, last: str) -> pa.Table:
        """The rows at hand whose id is at most `last`."""
        assert self._table is not None
        count = bisect_right(self.ids, last)
        taken, self._table = self._table.slice(0, count), self._table.slice(count)
        self.ids = self.ids[count:]
        return taken


def _merged(sources: Sequence[_Source]) -> Iterator[pa.Table]:
    """The rows of all sources by id; raises `IndexFileError` where two have the same document."""
    while at_hand := [source for source in sources if source.fill()]:
        last = min(source.ids[-1] for source in at_hand)
        rows = pa.concat_tables([source.take_through(last) for source in at_hand])
        if len(at_hand) > 1:
            rows = rows.sort_by("document_id")
            ids = _column(rows)
            for before, id_ in pairwise(ids):
                if id_ == before:
                    raise IndexFileError(
                        f"{sources[1].path}: document_id {id_!r} is in {sources[0].path} already; "
                        "give only new documents"
                    )
        yield rows


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in pieces of `_ROWS_PER_GROUP`, each in one chunk, so that nothing shows how they were read."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= _ROWS_PER_GROUP:
            rows = pa.concat_tables(waiting)
            yield rows.slice(0, _ROWS_PER_GROUP).combine_chunks()
            waiting = [rows.slice(_ROWS_PER_GROUP)]
    if sum(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def _column(table: pa.Table, name: str = "document_id") -> list[str]:
    values: list[str] = table[name].to_pylist()
    return values


def _keys(rows: pa.Table, config: MinHash, first_row: int) -> NDArray[np.void]:
    return row_keys(
        binary_to_hashes(rows["signature"]),
        binary_to_hashes(rows["text_sha256"])[:, 0],
        binary_to_hashes(rows["url_key"])[:, 0],
        rows["url_key"].is_valid().to_numpy(),
        config,
        first_row,
    )


# --- footers ----------------------------------------------------------------------------------------------------------


def _describe(config: MinHash) -> str:
    """Everything that determines a signature besides the text."""
    return json.dumps({**config.model_dump(), "unicode": unicodedata.unidata_version}, sort_keys=True)


def _described(path: Path) -> str:
    """What an index file says of itself."""
    metadata: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    if CONFIG_KEY not in metadata:
        raise IndexFileError(f"{path}: not an index file; write_index makes them")
    return metadata[CONFIG_KEY].decode()


def _check_parameters(path: Path, config: MinHash) -> None:
    if (described := _described(path)) != _describe(config):
        raise IndexFileError(
            f"{path}: written with {described}, but now it is {_describe(config)}; signatures compare only if both "
            "agree: use the same settings and Python, or start the corpus over (--replace)"
        )
