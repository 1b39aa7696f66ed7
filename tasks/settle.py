"""From decisions to the next state of a bucket: the base's rows and this run's, each record in the place it has now.

A record that nothing new concerns keeps its rows. Of the others

- a kept one has its text in `documents`, as a survivor with the size of its cluster;
- a duplicate has its text in `originals`, for should its survivor go, it comes back;
- what was taken down has its text nowhere, and no edits, which hold pieces of it.

The ledger has one row for each record, whatever version it came with. A file whose rows are all as they were in the
base is the base's file (a hard link); one that is written anew holds equal bytes for equal rows.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.atomic import link_file
from tasks.bucket import Bucket, buckets
from tasks.dedup.index import INDEX_FILE
from tasks.dedup.resolve import DECISIONS
from tasks.document import ShardReport
from tasks.funnel import DEDUP_STAGES, TAKEDOWN
from tasks.gather import edits_in_order
from tasks.ports import ShardMap
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.stages import Progress, StageOutput, no_progress, run_stage
from tasks.tables import DOCUMENTS, EDITS, LEDGER, ORIGINALS, TEXTS, PartWriter, read_between
from tasks.tombstones import Tombstones

if TYPE_CHECKING:  # a stage's code is what its shards run: the plan is no part of it
    from tasks.deduplicate import DedupOutput
    from tasks.refresh import Refresh

ORIGINALS_FILE = "originals.parquet"
SUPERSEDED = "superseded"
PARAGRAPH_STAGE = "paragraph_dedup"
_RECORDS_PER_SLICE = 4096


class LedgerError(RuntimeError):
    """The ledger does not hold exactly one row for each record: a fault of this software, never of the input."""


@dataclass(frozen=True)
class BaseBucket:
    """A bucket, and what the version that is built onto has of it."""

    bucket: Bucket
    base: Path | None
    """Folder of that version."""
    base_version: int

    def base_rows(self, kind: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns of the base's part of this kind; no rows where there is no base."""
        if self.base is None:
            return schema.empty_table().select(list(columns or schema.names))
        return pq.read_table(self.base / self.bucket.part(kind), columns=list(columns or schema.names))

    def base_slice(self, kind: str, schema: pa.Schema, low: str, high: str) -> pa.Table:
        """The rows of the base's part whose document ids lie between the bounds."""
        if self.base is None:
            return schema.empty_table()
        return read_between(self.base / self.bucket.part(kind), "document_id", low, high)

    def id_slices(self, ids: pa.ChunkedArray) -> Iterator[tuple[str, str]]:
        """Bounds of ids that part the bucket into slices of 4,096 records: so many texts are in memory at once."""
        low, high = self.bucket.bounds()
        cuts = [low, *(ids[row].as_py() for row in range(_RECORDS_PER_SLICE, len(ids), _RECORDS_PER_SLICE)), high]
        return itertools.pairwise(cuts)


@dataclass(frozen=True)
class SettleBucket(BaseBucket):
    """A bucket, and everything that its next state is made of."""

    gathered: Path
    index: Path


def base_buckets(refresh: Refresh) -> tuple[BaseBucket, ...]:
    """Every bucket with the version that is built onto."""
    version = refresh.base["version"] if refresh.base is not None else 0
    return tuple(BaseBucket(bucket, refresh.base_dir, version) for bucket in buckets(refresh.recipe.num_buckets))


def is_in(values: pa.ChunkedArray, wanted: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.ChunkedArray:
    """Which of the values are among the wanted ones, as booleans without nulls."""
    if isinstance(wanted, pa.ChunkedArray):
        wanted = wanted.combine_chunks()
    return pc.is_in(values, value_set=pa.array(wanted, pa.string()))


def aligned(ids: pa.ChunkedArray, table: pa.Table, key: str) -> pa.Table:
    """For each id its row of `table`, with nulls where it has none."""
    return table.take(pc.index_in(ids, value_set=table[key].combine_chunks()))


def decided_rows(item: SettleBucket, decisions: Sequence[Path]) -> pa.Table:
    """What is decided of the bucket's documents (`DECISIONS`): and taken-down ones that nobody resembles go as well."""
    low, high = item.bucket.bounds()
    tables = [read_between(file, "document_id", low, high) for file in decisions]
    decided = pa.concat_tables([DECISIONS.empty_table(), *tables])
    flagged = pq.read_table(item.index, columns=["document_id"], filters=pc.field("taken_down") != "")["document_id"]
    alone = flagged.filter(pc.invert(is_in(flagged, decided["document_id"])))
    columns: dict[str, Any] = {field.name: pa.nulls(len(alone), field.type) for field in DECISIONS}
    columns |= {"document_id": alone, "kept": pa.repeat(False, len(alone))}
    columns |= {"stage": pa.repeat(TAKEDOWN, len(alone)), "reason": pa.repeat("taken_down", len(alone))}
    return pa.concat_tables([decided, pa.table([columns[name] for name in DECISIONS.names], schema=DECISIONS)])


def settled_ledger(before: pa.Table, new: pa.Table, decided: pa.Table) -> pa.Table:
    """The ledger rows of base and run, those that are decided on rewritten; `detail` says nothing of versions yet.

    Raises LedgerError where a record has two rows, or one that is decided on none.
    """
    gone = pc.equal(before["stage"], PARAGRAPH_STAGE)  # whether it goes again is found anew, once all texts are known
    nothing = {"value": pa.float64(), "threshold": pa.float64(), "reason": pa.string(), "survivor_id": pa.string()}
    state = {"stage": "publish", "outcome": "kept", **{name: pa.scalar(None, kind) for name, kind in nothing.items()}}
    for name, value in state.items():
        before = replaced(before, name, pc.if_else(gone, value, before[name]))
    ledger = pa.concat_tables([before, new]).sort_by("record_id")
    ids = ledger["record_id"]
    if len(pc.unique(ids)) != len(ids):
        raise LedgerError(f"a record between {ids[0]} and {ids[-1]} has more than one ledger row")
    decision = aligned(ids, decided, "document_id")
    is_decided = pc.is_valid(decision["document_id"])
    # what was taken down stays known though its record is gone from the input
    needed = pc.sum(pc.fill_null(pc.not_equal(decided["reason"], "taken_down"), True)).as_py() or 0
    found = pc.sum(pc.and_(is_decided, pc.fill_null(pc.not_equal(decision["reason"], "taken_down"), True))).as_py() or 0
    if found != needed:
        raise LedgerError(f"{needed - found} documents were decided on that are in no ledger row")
    kept = decision["kept"]
    now = {
        "stage": pc.if_else(kept, "publish", decision["stage"]),
        "outcome": pc.if_else(kept, "kept", "removed"),
        **{name: pc.if_else(kept, pa.scalar(None, kind), decision[name]) for name, kind in nothing.items()},
    }
    for name, value in now.items():
        ledger = replaced(ledger, name, pc.if_else(is_decided, value, ledger[name]))
    return ledger


def with_details(ledger: pa.Table, before: pa.Table, base_version: int) -> pa.Table:
    """`ledger` with the last version that published a document, where later ones do so no more."""
    earlier = aligned(ledger["record_id"], before.select(["record_id", "outcome", "detail"]), "record_id")
    by_others = pc.is_in(ledger["stage"], value_set=pa.array([TAKEDOWN, *DEDUP_STAGES]))
    how = pc.if_else(pc.equal(ledger["stage"], TAKEDOWN), "taken down", SUPERSEDED)
    fresh = pc.binary_join_element_wise(f"published up to version {base_version}", how, ", ")
    was_kept = pc.fill_null(pc.equal(earlier["outcome"], "kept"), False)
    detail = pc.if_else(by_others, pc.if_else(was_kept, fresh, earlier["detail"]), ledger["detail"])
    return replaced(
        ledger, "detail", pc.if_else(pc.equal(ledger["outcome"], "kept"), pa.scalar(None, pa.string()), detail)
    )


def replaced(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    """`table` with other values in one column."""
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


def superseded_edits(ledger: pa.Table) -> pa.Table:
    """One row of `EDITS` for each published document that gave way to another: the one that stands for it now."""
    gone = pc.and_(
        pc.is_in(ledger["stage"], value_set=pa.array(DEDUP_STAGES)),
        pc.fill_null(pc.ends_with(ledger["detail"], f", {SUPERSEDED}"), False),
    )
    rows = ledger.filter(gone)
    columns = {
        "document_id": rows["record_id"],
        "stage": rows["stage"],
        "rule": pa.repeat("deduplicate", len(rows)),
        "kind": pa.repeat(SUPERSEDED, len(rows)),
        "reason": pa.repeat(SUPERSEDED, len(rows)),
        "start": pa.repeat(pa.scalar(0, pa.int64()), len(rows)),
        "removed": pa.repeat("", len(rows)),
        "replacement": rows["survivor_id"],
    }
    return pa.table([columns[name] for name in EDITS.names], schema=EDITS)


def _hashed(known: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.Array:
    """SHA-256 of the texts whose hash is not known."""
    pairs = zip(known.to_pylist(), texts, strict=True)
    return pa.array([sha or hashlib.sha256(text.as_buffer()).hexdigest() for sha, text in pairs], pa.string())


def _texts_between(item: SettleBucket, low: str, high: str) -> pa.Table:
    """Every text there is, as screened, with the hash and the cluster size that the base has for it.

    Of a document whose paragraphs were taken out, the whole text is among the originals.
    """
    originals = item.base_slice("originals", ORIGINALS, low, high)
    documents = item.base_slice("documents", DOCUMENTS, low, high)
    sizes = pc.coalesce(
        originals["cluster_size"], aligned(originals["document_id"], documents, "document_id")["cluster_size"]
    )
    originals = replaced(originals, "cluster_size", sizes)
    originals = originals.append_column("text_sha256", pa.nulls(len(originals), pa.string()))
    whole = documents.filter(pc.invert(is_in(documents["document_id"], originals["document_id"])))
    new = read_between(item.gathered / DOCUMENTS_FILE, "document_id", low, high)
    for name in ("text_sha256", "cluster_size"):
        new = new.append_column(name, pa.nulls(len(new), DOCUMENTS.field(name).type))
    columns = [*TEXTS.names, "text_sha256", "cluster_size"]
    return pa.concat_tables([part.select(columns) for part in (originals, whole, new)]).sort_by("document_id")


def _write_texts(item: SettleBucket, directory: Path, ledger: pa.Table, decided: pa.Table) -> None:
    """Write `documents` and `originals` slice by slice. Raises LedgerError where a document has no text."""
    kept_ids = ledger.filter(pc.equal(ledger["outcome"], "kept"))["record_id"]
    duplicates = ledger.filter(pc.is_in(ledger["stage"], value_set=pa.array(DEDUP_STAGES)))["record_id"]
    num_texts = 0
    with (
        PartWriter(directory / DOCUMENTS_FILE, DOCUMENTS) as documents,
        PartWriter(directory / ORIGINALS_FILE, ORIGINALS) as originals,
    ):
        for low, high in item.id_slices(ledger["record_id"]):
            texts = _texts_between(item, low, high)
            kept = texts.filter(is_in(texts["document_id"], kept_ids))
            sizes = aligned(kept["document_id"], decided, "document_id")["cluster_size"]
            kept = replaced(kept, "text_sha256", _hashed(kept["text_sha256"], kept["text"]))
            kept = replaced(kept, "cluster_size", pc.coalesce(sizes, kept["cluster_size"], pa.scalar(1, pa.int64())))
            documents.write(kept.append_column("cluster_id", kept["document_id"]))
            others = texts.filter(is_in(texts["document_id"], duplicates))
            originals.write(replaced(others, "cluster_size", pa.nulls(len(others), pa.int64())))
        num_texts = documents.num_rows + originals.num_rows
    if num_texts != len(kept_ids) + len(duplicates):
        raise LedgerError(
            f"bucket {item.bucket.index}: {len(kept_ids)} documents and {len(duplicates)} duplicates, {num_texts} texts"
        )


def _purged(ids: pa.ChunkedArray, ledger: pa.Table, tombstones: Tombstones) -> pa.Array:
    """Of the records with edits, those of which nothing may stay: also such as a rule had removed before."""
    rows = ledger.filter(is_in(ledger["record_id"], pc.unique(ids))).select(["record_id", "url", "stage"]).to_pylist()
    return pa.array(
        [
            row["record_id"]
            for row in rows
            if row["stage"] == TAKEDOWN or tombstones.scope_of(row["record_id"], row["url"] or "")
        ],
        pa.string(),
    )


def settle_bucket(
    item: SettleBucket, directory: Path, *, decisions: Sequence[Path], tombstones: Tombstones, by_paragraph: bool
) -> ShardReport:
    """Write the bucket's documents, originals, ledger and edits as they are now.

    `by_paragraph`: paragraphs are looked at next, so nothing is linked and what went by paragraph is kept for now.
    Memory: the bucket's ledger, about 200 bytes a record, and the texts and edits of 4,096 records.
    """
    before, decided = item.base_rows("ledger", LEDGER), decided_rows(item, decisions)
    new = pq.read_table(item.gathered / LEDGER_FILE)
    ledger = with_details(settled_ledger(before, new, decided), before, item.base_version)
    may_link = item.base is not None and not by_paragraph

    def link(kind: str, name: str) -> None:
        assert item.base is not None
        link_file(item.base / item.bucket.part(kind), directory / name)

    if may_link and ledger.equals(before):
        link("ledger", LEDGER_FILE)
    else:
        with PartWriter(directory / LEDGER_FILE, LEDGER) as writer:
            writer.write(ledger)
    if may_link and _texts_stay(item, ledger, decided):
        link("documents", DOCUMENTS_FILE)
        link("originals", ORIGINALS_FILE)
    else:
        _write_texts(item, directory, ledger, decided)
    if not _write_edits(item, directory / EDITS_FILE, ledger, tombstones, may_link=may_link):
        link("edits", EDITS_FILE)
    kept = pc.sum(pc.equal(ledger["outcome"], "kept")).as_py() or 0
    return ShardReport(len(ledger), kept)


def _texts_stay(item: SettleBucket, ledger: pa.Table, decided: pa.Table) -> bool:
    """Whether the base's documents and originals are those of `ledger`, and the clusters of one size."""
    documents = item.base_rows("documents", DOCUMENTS, ["document_id", "cluster_size"])
    originals = item.base_rows("originals", ORIGINALS, ["document_id"])["document_id"]
    kept = ledger.filter(pc.equal(ledger["outcome"], "kept"))["record_id"]
    duplicates = ledger.filter(pc.is_in(ledger["stage"], value_set=pa.array(DEDUP_STAGES)))["record_id"]
    sizes = aligned(documents["document_id"], decided, "document_id")["cluster_size"]
    return bool(
        kept.equals(documents["document_id"])
        and duplicates.equals(originals)
        and pc.coalesce(sizes, documents["cluster_size"]).equals(documents["cluster_size"])
    )


def _write_edits(item: SettleBucket, path: Path, ledger: pa.Table, tombstones: Tombstones, *, may_link: bool) -> bool:
    """Write the edits of the bucket, or return False where they are the base's."""
    superseded = superseded_edits(ledger)
    known = item.base_rows("edits", EDITS, ["document_id", "rule", "replacement"])
    is_superseded = pc.equal(known["rule"], "deduplicate")
    new_ids = pq.read_table(item.gathered / EDITS_FILE, columns=["document_id"])["document_id"]
    ids = pa.chunked_array([*known["document_id"].chunks, *new_ids.chunks], pa.string())
    purged = _purged(ids, ledger, tombstones)
    if may_link and not len(new_ids) and not pc.any(is_in(known["document_id"], purged)).as_py():
        columns = ["document_id", "replacement"]
        if known.filter(is_superseded).select(columns).equals(superseded.select(columns)):
            return False
    with PartWriter(path, EDITS) as writer:
        for low, high in item.id_slices(ledger["record_id"]):
            base = item.base_slice("edits", EDITS, low, high)
            derived = pc.or_(pc.equal(base["rule"], "deduplicate"), pc.equal(base["stage"], PARAGRAPH_STAGE))
            new = read_between(item.gathered / EDITS_FILE, "document_id", low, high)
            of_slice = pc.and_(
                pc.greater_equal(superseded["document_id"], low), pc.less(superseded["document_id"], high)
            )
            edits = pa.concat_tables([base.filter(pc.invert(derived)), new, superseded.filter(of_slice)])
            writer.write(edits_in_order(edits.filter(pc.invert(is_in(edits["document_id"], purged)))))
    return True


def settle(
    refresh: Refresh,
    gathered: StageOutput,
    dedup: DedupOutput,
    shard_map: ShardMap,
    progress: Progress = no_progress,
) -> StageOutput:
    """One shard a bucket: its documents, originals, ledger and edits after deduplication."""
    return run_stage(
        refresh.stages["settle"],
        refresh.store.work,
        shard_map,
        functools.partial(
            settle_bucket,
            decisions=dedup.decisions,
            tombstones=refresh.tombstones,
            by_paragraph=refresh.recipe.deduplication.min_paragraph_chars > 0,
        ),
        [
            SettleBucket(known.bucket, known.base, known.base_version, shard, index / INDEX_FILE)
            for known, shard, index in zip(base_buckets(refresh), gathered.shards, dedup.index.shards, strict=True)
        ],
        progress=progress,
    )
