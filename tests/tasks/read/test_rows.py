"""JSONL and Parquet rows, and HTML files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.document import Drop, Record
from tasks.read.limits import ReadLimits
from tasks.read.parquet import parquet_records
from tasks.read.payload import Reading, keep_every_url
from tests.tasks.read.warc_bytes import LIMITS, ranges_of, read_all, reasons

ROWS = [{"text": f"Row {n}.", "url": f"http://example.org/{n}", "date": "2024-05-01", "id": "x"} for n in range(10)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def test_every_field_of_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    records = read_all(tmp_path / "a.jsonl")
    digest = hashlib.sha256(b"Row 1.").hexdigest()
    identity = "\0".join(["", digest, "http://example.org/1", "2024-05-01T00:00:00Z", "row"])
    assert records[1] == Record(
        base_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        payload_digest=digest,
        source="test",
        source_file=str(tmp_path / "a.jsonl"),
        source_offset=LINES.index(b"\n") + 1,
        url="http://example.org/1",
        date="2024-05-01T00:00:00Z",
        kind="text",
        content=b"Row 1.",
        charset="utf-8",
    )


def test_jsonl_layouts_and_ranges_agree(tmp_path: Path) -> None:
    crossing = gzip.compress(LINES[:100]) + gzip.compress(LINES[100:])  # a line crosses the members, as bgzip's do
    for name, data in {"a.jsonl": LINES, "b.jsonl.gz": gzip.compress(LINES), "c.json.gz": crossing}.items():
        (tmp_path / name).write_bytes(data)
        assert [r.content for r in read_all(tmp_path / name, max_records=3)] == [
            f"Row {n}.".encode() for n in range(10)
        ]
    assert [part.num_records for part in ranges_of(tmp_path / "a.jsonl", max_records=3)] == [3, 3, 3, 1]
    assert [part.num_records for part in ranges_of(tmp_path / "b.jsonl.gz", max_records=3)] == [10]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"content": "c"}', ""),
        (b'{"text": null, "content": "c"}', ""),
        (b'{"text": "c", "url": 3, "date": 5}', ""),
        (b'{"text": "c"}', ""),
        (b'{"text": ""}', "empty_page"),
        (b'{"txt": "c"}', "unreadable"),
        (b'{"text": 3}', "unreadable"),
        (b'{"text": "\\ud800"}', "unreadable"),
        (b'{"text": "c"', "unreadable"),
        (b'["text"]', "unreadable"),
        (b'{"text": "\xff"}', "unreadable"),
        (b"[" * 100_000, "unreadable"),
    ],
)
def test_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\r\n' + line + b'\n\n  \n{"text": "after"}')
    records = read_all(tmp_path / "a.jsonl")
    assert reasons(records) == ["", reason, ""]
    assert records[1].content == (b"" if reason else b"c")


def test_damaged_jsonl_gz_keeps_the_rows_before_and_the_members_after(tmp_path: Path) -> None:
    first, second, third = (bytearray(gzip.compress(LINES)) for _ in range(3))
    second[-6] ^= 1
    (tmp_path / "a.jsonl.gz").write_bytes(bytes(first + second + third))
    found = reasons(read_all(tmp_path / "a.jsonl.gz"))
    assert found.count("damaged") == 1
    assert found[:10] == found[-10:] == [""] * 10


def write_parquet(path: Path, table: pa.Table, rows_per_group: int = 4) -> Path:
    pq.write_table(table, path, row_group_size=rows_per_group, compression="snappy")
    return path


def test_parquet_rows_are_jsonl_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    path = write_parquet(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS))
    for max_records in (1, 3, 100):
        rows = read_all(path, max_records=max_records)
        assert [r.base_id for r in rows] == [r.base_id for r in read_all(tmp_path / "a.jsonl")]
        assert [r.source_offset for r in rows] == list(range(10))
    assert [part.num_records for part in ranges_of(path, max_records=3)] == [3, 3, 3, 1]


def test_parquet_column_types(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    table = pa.table(
        {
            "content": pa.array(["a", None, "", "d"]).dictionary_encode(),
            "timestamp": pa.array([moment, None, moment, moment], pa.timestamp("ns", tz="UTC")),
            "other": pa.array([[1], [], [2, 3], None]),
        }
    )
    records = read_all(write_parquet(tmp_path / "a.parquet", table))
    assert reasons(records) == ["", "unreadable", "empty_page", ""]
    assert [record.date for record in records] == [
        "2024-05-01T12:00:00Z",
        "",
        "2024-05-01T12:00:00Z",
        "2024-05-01T12:00:00Z",
    ]
    invalid = pa.table({"text": pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"ok"]).buffers())})
    assert reasons(read_all(write_parquet(tmp_path / "b.parquet", invalid))) == ["unreadable", ""]
    textless = pa.table({"body": ["x", "y", "z"]})
    assert reasons(read_all(write_parquet(tmp_path / "c.parquet", textless))) == ["unreadable"] * 3
    assert ranges_of(write_parquet(tmp_path / "d.parquet", textless.slice(0, 0))) == ()


def test_parquet_without_a_footer_is_one_damaged_record(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    (record,) = read_all(path)
    assert record.problem is not None and record.problem.reason == "damaged"
    assert record.payload_digest == hashlib.sha256(data[:-20]).hexdigest()


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS))
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(data))
    for max_records in (1, 100):
        assert reasons(read_all(path, max_records=max_records)) == [""] * 4 + ["damaged"] * 4 + [""] * 2


def test_a_failing_storage_is_an_error_and_not_damage(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionError("the network is gone")

    data = write_parquet(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS)).read_bytes()
    with pytest.raises(ConnectionError, match="network"):
        list(parquet_records(Failing(data), 0, None, Reading("test", "a.parquet", LIMITS, keep_every_url)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_parquet_counts_agree_with_a_bit_flipped(tmp_path: Path, at: int, bit: int) -> None:
    data = bytearray(write_parquet(tmp_path / "a.parquet", pa.Table.from_pylist(ROWS)).read_bytes())
    data[at % len(data)] ^= 1 << bit
    (tmp_path / "b.parquet").write_bytes(bytes(data))
    in_parts = read_all(tmp_path / "b.parquet", max_records=3)
    assert [r.base_id for r in in_parts] == [r.base_id for r in read_all(tmp_path / "b.parquet")]


def test_html_files(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>x")
    (record,) = read_all(tmp_path / "a.html")
    assert (record.kind, record.content, record.url, record.date) == ("html", b"<p>x", "", "")
    identity = "\0".join(["", record.payload_digest, "", "", "file"])
    assert record.base_id == hashlib.sha256(identity.encode()).hexdigest()[:32]
    (tmp_path / "b.htm").write_bytes(b"")
    assert reasons(read_all(tmp_path / "b.htm")) == ["empty_page"]
    (tmp_path / "c.xhtml").write_bytes(b"x" * 3_000_000)
    (large,) = read_all(tmp_path / "c.xhtml", limits=ReadLimits(max_page_bytes=1000))
    assert large.problem == Drop("page_too_large", 3_000_000.0, 1000.0)
    assert large.payload_digest == hashlib.sha256(b"x" * 3_000_000).hexdigest()
