"""The parts of a version: equal rows are equal bytes, and few rows are found without reading all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.tables import EDITS, PartWriter, read_between


def edits(num_rows: int) -> pa.Table:
    rows = [
        {"document_id": f"{index:08x}", "stage": "quality", "start": index, "removed": "x" * (index % 7)}
        for index in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=EDITS)


def part(table: pa.Table, cuts: list[int], folder: Path) -> bytes:
    """The part that the table makes when it is written in pieces that end at `cuts`."""
    path = folder / "part.parquet"
    with PartWriter(path, EDITS) as writer:
        for low, high in zip([0, *cuts], [*cuts, len(table)], strict=True):
            writer.write(table.slice(low, high - low))
    assert writer.num_rows == len(table)
    return path.read_bytes()


@settings(max_examples=25)
@given(st.integers(0, 1500), st.lists(st.integers(0, 1500), max_size=6))
def test_equal_rows_are_equal_bytes_in_whatever_pieces_they_come(num_rows: int, cuts: list[int]) -> None:
    table = edits(num_rows)
    with tempfile.TemporaryDirectory() as folder:
        whole = part(table, [], Path(folder))
        assert part(table, sorted(min(cut, num_rows) for cut in cuts), Path(folder)) == whole
        file = pq.ParquetFile(Path(folder) / "part.parquet")
        assert file.read().equals(table)
        assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)][:-1] == [256] * (
            max(file.num_row_groups - 1, 0)
        )


def test_rows_between_two_ids(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    with PartWriter(path, EDITS) as writer:
        writer.write(edits(2000))
    found = read_between(path, "document_id", f"{700:08x}", f"{1000:08x}", ["document_id", "start"])
    assert found["start"].to_pylist() == list(range(700, 1000)) and found.column_names == ["document_id", "start"]
    assert len(read_between(path, "document_id", "g", "h")) == 0
