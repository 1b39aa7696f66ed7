"""From what a user names to files, and reading them from where they are."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from tasks.read.inventory import inventory_file
from tasks.read.records import read_range
from tasks.read.source import list_source, resolve_source, sniff_format
from tasks.transient import Backoff, UnavailableError, is_transient
from tests.tasks.read.warc_bytes import LIMITS, members, page
from tests.tasks.read.web_server import Trouble, web_server

RECORDS = [page(number, words=40_000) for number in range(1, 9)]
PLAIN = b"".join(RECORDS)  # several of the reader's blocks


def tree(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_folder_is_searched_to_its_depths_and_sorted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(
        tmp_path,
        "b.warc.gz",
        "a/c.WET.gz",
        "a/b.html",
        "a/z/r.parquet",
        "x.arc",
        "d.json.gz",
        "e.txt",
        "f.txt",
        "README",
    )
    files = resolve_source(str(tmp_path))
    assert [(Path(f.path).relative_to(tmp_path).as_posix(), f.format) for f in files] == [
        ("a/b.html", "html"),
        ("a/c.WET.gz", "warc"),
        ("a/z/r.parquet", "parquet"),
        ("b.warc.gz", "warc"),
        ("d.json.gz", "jsonl"),
        ("x.arc", "arc"),
    ]
    assert all(file.size_bytes == 1 for file in files)
    assert "3 files ignored: (no suffix) (1), .txt (2)" in caplog.text
    assert list_source(str(tmp_path)).ignored == {".txt": 2, "(no suffix)": 1}


def test_glob_and_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "1.warc", "2.warc", "3.html", "4.txt")
    assert len(resolve_source(str(tmp_path / "*.warc"))) == 2
    assert len(resolve_source(str(tmp_path / "*"))) == 3
    monkeypatch.chdir(tmp_path)
    assert resolve_source("1.warc")[0].path == str(tmp_path / "1.warc")


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    tree(tmp_path, "a[1].warc")
    assert resolve_source(str(tmp_path / "a[1].warc"))[0].path == str(tmp_path / "a[1].warc")


def test_version_changes_with_the_file(tmp_path: Path) -> None:
    tree(tmp_path, "a.warc")
    (before,) = resolve_source(str(tmp_path))
    assert before.version == str((tmp_path / "a.warc").stat().st_mtime_ns)


@pytest.mark.parametrize(
    "name", ["absent", "absent/*.warc", "empty", "other", "", "nosuch://bucket/a.warc", "memory://no"]
)
def test_nothing_to_read_is_one_line_that_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    tree(tmp_path, "other/a.txt")
    source = name if "://" in name or not name else str(tmp_path / name)
    with pytest.raises(ValueError, match=r"source") as error:
        resolve_source(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN[:100], "warc"),
        (gzip.compress(PLAIN, mtime=0), "warc"),
        (b"filedesc://a.arc 0.0.0.0 2014", "arc"),
        (b' {"text": "a"}', "jsonl"),
        (gzip.compress(b'{"text": "a"}', mtime=0), "jsonl"),
        (b"\xef\xbb\xbf\n<!doctype html>", "html"),
        (b"PAR1\x15", "parquet"),
        (b"neither", "warc"),
        (b"", "warc"),
    ],
)
def test_sniffing_a_file_of_unknown_suffix(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.bad").write_bytes(content)
    assert sniff_format(str(tmp_path / "a.bad")) == expected
    assert resolve_source(str(tmp_path / "a.bad"))[0].format == expected


def assert_reads_all(source: str, max_records: int = 3) -> None:
    (file,) = resolve_source(source)
    parts = inventory_file(file, max_records=max_records, max_bytes=1 << 30, limits=LIMITS)
    assert len(parts) == 3
    records = [record for part in parts for record in read_range(part, source="s", limits=LIMITS)]
    assert [record.url for record in records] == [f"http://example.org/{n}" for n in range(1, 9)]
    assert all(record.problem is None for record in records)


def test_object_store() -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/crawl/a.warc.gz", members(RECORDS))
    store.pipe("/bucket/crawl/notes.txt", b"x")
    assert [file.path for file in resolve_source("memory://bucket/crawl")] == ["memory:///bucket/crawl/a.warc.gz"]
    assert len(resolve_source("memory://bucket/crawl/*.gz")) == 1
    assert_reads_all("memory://bucket/crawl")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_web_server(ranges: bool, compressed: bool) -> None:
    with web_server(members(RECORDS) if compressed else PLAIN, ranges=ranges) as server:
        source = f"{server.address}/a.warc{'.gz' * compressed}?token=1"
        assert resolve_source(source)[0].version == '"v1"'
        assert_reads_all(source)
        with pytest.raises(ValueError, match="does not exist"):
            resolve_source(f"{server.address}/absent.warc")


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.transient.BACKOFF", Backoff(4, first_wait_s=0.01, max_wait_s=0.05, max_waiting_s=5.0))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.usefixtures("little_patience")
def test_a_server_in_trouble_is_asked_again(status: int, caplog: pytest.LogCaptureFixture) -> None:
    with web_server(PLAIN) as server:
        server.troubles = [Trouble(status)] * 4  # fsspec asks by HEAD, then by GET: two tries of ours
        (file,) = resolve_source(f"{server.address}/a.warc?token=secret")
    assert file.size_bytes == len(PLAIN)
    assert [method for method, _ in server.requests] == ["HEAD", "GET"] * 2 + ["HEAD"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert f"listing {server.address}/a.warc failed (HTTP {status}" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("status", "says"), [(403, "HTTP 403"), (404, "does not exist")])
@pytest.mark.usefixtures("little_patience")
def test_what_cannot_pass_on_a_second_try_fails_at_once(status: int, says: str) -> None:
    with web_server(PLAIN) as server:
        server.troubles = [Trouble(status)] * 9
        with pytest.raises(ValueError, match=says) as error:
            resolve_source(f"{server.address}/a.warc?token=secret")
    assert len(server.requests) == 2  # one HEAD, one GET
    assert not is_transient(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.usefixtures("little_patience")
def test_a_listing_that_stays_impossible_is_one_line_after_the_last_try() -> None:
    with web_server(PLAIN) as server:
        server.troubles = [Trouble(503)] * 99
        with pytest.raises(UnavailableError, match=r"failed 4 times \(HTTP 503.*run it again later") as error:
            resolve_source(f"{server.address}/a.warc?token=secret")
    assert len(server.requests) == 2 * 4
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.warc")
    with pytest.raises(ValueError, match="does not exist"):
        resolve_source(str(tmp_path / "pipe.warc"))


def test_a_query_in_a_local_name_is_shown_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\?\.warc"):
        resolve_source(str(tmp_path / "none?.warc"))
