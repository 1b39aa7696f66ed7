from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup import members
from tasks.dedup.config import Deduplication
from tasks.dedup.index import IndexFileError
from tasks.dedup.members import PartitionReader, members_schema, partition_of, write_members
from tasks.dedup.resolve import resolve_partition
from tasks.dedup.signature import MinHash
from tests.tasks.dedup.chain import Page, deduplicate, write_texts

SMALL = Deduplication(minhash=MinHash(num_bands=6, rows_per_band=1, shingle_words=2))
PAGES = [
    Page("a", "one text"),
    Page("b", "one text"),
    Page("c", "alone here"),
    Page("d", "two copies"),
    Page("e", "two copies"),
    Page("f", "also alone", taken_down="document"),
    Page("g", "one text", taken_down="cluster"),
]


def members_of(folder: Path, config: Deduplication = SMALL) -> dict[str, Any]:
    rows = pq.read_table(folder / "bucket-0" / "members.parquet", schema=members_schema(config)).to_pylist()
    return {row["document_id"]: row for row in rows}


def test_members_share_a_key_or_are_taken_down(tmp_path: Path) -> None:
    deduplicate(tmp_path / "run", PAGES, SMALL, num_partitions=3)
    found = members_of(tmp_path / "run")
    assert {name: row["text"] for name, row in found.items()} == {
        "a": "one text",
        "b": "one text",
        "d": "two copies",
        "e": "two copies",
        "f": None,
        "g": None,
    }
    assert found["a"]["partition"] == found["b"]["partition"] == found["g"]["partition"]
    assert found["d"]["partition"] == found["e"]["partition"]


def test_only_touched_components_are_decided_again(tmp_path: Path) -> None:
    first = deduplicate(tmp_path / "1", PAGES, SMALL)
    second = deduplicate(tmp_path / "2", [Page("d2", "two copies"), Page("h", "new and alone")], SMALL, base=first)
    assert members_of(tmp_path / "2").keys() == {"d", "d2", "e"}
    deduplicate(tmp_path / "3", [], SMALL, base=second)
    assert members_of(tmp_path / "3") == {}
    deduplicate(tmp_path / "4", [], SMALL, base=second, newly={"c": "document"})
    assert members_of(tmp_path / "4").keys() == {"c"}


def test_texts_stay_out_where_nothing_is_verified(tmp_path: Path) -> None:
    unverified = SMALL.model_copy(update={"min_jaccard": 0.0})
    deduplicate(tmp_path / "run", PAGES, unverified)
    assert {row["text"] for row in members_of(tmp_path / "run", unverified).values()} == {None}


def write_again(run: Path, texts: Sequence[Path]) -> Path:
    bucket = run / "bucket-0"
    output_file = run / "again.parquet"
    write_members(bucket / "index.parquet", 0, run / "labels", None, texts, output_file, SMALL, 1)
    return output_file


def test_the_first_file_with_a_text_wins(tmp_path: Path) -> None:
    deduplicate(tmp_path / "run", PAGES, SMALL)
    shortened = write_texts([Page("a", "shortened"), Page("z", "not asked for")], tmp_path / "first.parquet")
    found = pq.read_table(write_again(tmp_path / "run", [shortened, tmp_path / "run" / "bucket-0" / "new.parquet"]))
    assert dict(zip(found["document_id"].to_pylist(), found["text"].to_pylist(), strict=True))["a"] == "shortened"
    assert len(found) == 6


def test_a_lost_text_is_missed_where_it_is_compared(tmp_path: Path) -> None:
    """Of two near-duplicates, one text is gone though nothing was taken down: an incomplete version, not a decision."""
    words = [f"w{number}" for number in range(60)]
    pages = [Page("a", " ".join(words)), Page("b", " ".join(words[:58]))]
    version = deduplicate(tmp_path / "run", pages, SMALL)
    assert version.removed == {"b": "a"}
    for number, lost in enumerate("ab"):
        left = write_texts([page for page in pages if page.document_id != lost], tmp_path / f"{number}.parquet")
        member_file = write_again(tmp_path / "run", [left])
        with pytest.raises(IndexFileError, match=f"document {lost}: its text is in none of the files"):
            resolve_partition([member_file], 0, tmp_path / "decisions.parquet", SMALL)


@given(st.lists(st.integers(0, 2**62), max_size=50), st.integers(1, 100))
def test_a_component_has_one_partition(components: list[int], num_partitions: int) -> None:
    partitions = partition_of(np.array(components, dtype=np.int64), num_partitions)
    assert len({*zip(components, partitions.tolist(), strict=True)}) == len(set(components))
    assert all(0 <= partition < num_partitions for partition in partitions)


def test_partitions_are_even_for_any_numbering_of_components() -> None:
    for step in (1, 2, 64, 4096):
        sizes = np.bincount(partition_of(np.arange(0, 64_000 * step, step, dtype=np.int64), 64), minlength=64)
        # 1,000 expected in each: a standard deviation of 31
        assert sizes.min() > 1000 - 5 * 31
        assert sizes.max() < 1000 + 5 * 31


@given(st.lists(st.integers(0, 6), max_size=60))
def test_a_reader_opens_the_row_groups_of_its_partition(partitions: list[int]) -> None:
    """Files made by hand, of three buckets, in groups of at most four rows."""
    by_bucket = [sorted(partitions[bucket::3]) for bucket in range(3)]
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{bucket}.parquet" for bucket in range(3)]
        for path, own in zip(files, by_bucket, strict=True):
            table = pa.table({"document_id": [f"{path.stem}-{row}" for row in range(len(own))], "partition": own})
            table = table.cast(pa.schema([("document_id", pa.string()), ("partition", pa.int64())]))
            with pq.ParquetWriter(path, table.schema) as writer:
                for partition in sorted(set(own)):
                    writer.write_table(table.filter(pc.equal(table["partition"], partition)), row_group_size=4)
        for partition in range(-1, 9):
            batches = list(PartitionReader(files, partition).batches(["document_id"]))
            found = [document_id for batch in batches for document_id in batch["document_id"].to_pylist()]
            assert found == [
                f"{bucket}-{row}"
                for bucket, own in enumerate(by_bucket)
                for row, value in enumerate(own)
                if value == partition
            ]


def test_a_row_group_has_one_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "ROWS_PER_GROUP", 50)
    pages = [Page(f"{number:03d}", f"text {number % 40}") for number in range(120)]
    pages += [Page(f"{number:03d}", "copied") for number in range(120, 270)]
    deduplicate(tmp_path / "run", pages, SMALL, num_partitions=3)
    metadata = pq.read_metadata(tmp_path / "run" / "bucket-0" / "members.parquet")
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    column = metadata.schema.names.index("partition")
    bounds = [group.column(column).statistics for group in groups]
    assert [bound.min for bound in bounds] == sorted(bound.max for bound in bounds)
    assert len({bound.min for bound in bounds}) == 3 < len(groups)
    assert sum(group.num_rows for group in groups) == metadata.num_rows == 270
    assert max(group.num_rows for group in groups) == 50
