from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.config import Deduplication
from tasks.dedup.index import IndexFileError
from tasks.dedup.members import ROWS_PER_GROUP, PartitionReader, members_schema, partition_of, write_members
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
    members = members_of(tmp_path / "run")
    assert {name: row["text"] for name, row in members.items()} == {
        "a": "one text",
        "b": "one text",
        "d": "two copies",
        "e": "two copies",
        "f": None,
        "g": None,
    }
    assert members["a"]["partition"] == members["b"]["partition"] == members["g"]["partition"]
    assert members["d"]["partition"] == members["e"]["partition"]


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
        members = write_again(tmp_path / "run", [left])
        with pytest.raises(IndexFileError, match=f"document {lost}: its text is in none of the files"):
            resolve_partition([members], 0, tmp_path / "decisions.parquet", SMALL)


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


def write_numbered(partitions: Sequence[int], path: Path) -> Path:
    """A member file by hand: one row per partition given."""
    schema = members_schema(SMALL)
    values: Mapping[str, Any] = {
        "partition": sorted(partitions),
        "document_id": [f"{path.stem}-{row}" for row in range(len(partitions))],
        "date": [""] * len(partitions),
        "num_chars": [0] * len(partitions),
        "taken_down": [""] * len(partitions),
        "signature": [b"\0" * 48] * len(partitions),
        "text_sha256": [b"\0" * 32] * len(partitions),
    }
    columns = [pa.array(values.get(field.name, [None] * len(partitions)), field.type) for field in schema]
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=4)
    return path


def read_ids(files: Sequence[Path], partition: int) -> list[str]:
    batches = PartitionReader(files, partition).batches(["document_id"])
    return [name for batch in batches for name in batch["document_id"].to_pylist()]


def test_a_reader_sees_its_partition_of_all_files_and_opens_little_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = np.random.default_rng(5).integers(0, 7, size=(3, 40))
    files = [write_numbered(part.tolist(), tmp_path / f"{number}.parquet") for number, part in enumerate(partitions)]
    files.append(write_numbered([], tmp_path / "empty.parquet"))
    for partition in range(9):
        expected = [
            f"{number}-{row}"
            for number, part in enumerate(partitions)
            for row, value in enumerate(sorted(part.tolist()))
            if value == partition
        ]
        assert read_ids(files, partition) == expected

    num_read = 0
    iter_batches = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, batch_size: int, row_groups: list[int], columns: list[str]) -> Any:
        nonlocal num_read
        num_read += len(row_groups)
        return iter_batches(self, batch_size, row_groups, columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for partition in range(7):
        read_ids(files, partition)
    assert num_read <= 3 * (10 + 6)  # ten groups a file, of which six borders between partitions are read twice


def test_row_groups_are_small(tmp_path: Path) -> None:
    deduplicate(tmp_path / "run", [Page(f"{number:03d}", "same text") for number in range(150)], SMALL)
    metadata = pq.read_metadata(tmp_path / "run" / "bucket-0" / "members.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [64, 64, 22]
    assert ROWS_PER_GROUP == 64
