"""Common Crawl as a source, from a web server with its layout that has troubles."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import curation
from tasks.common_crawl import CommonCrawl
from tasks.curation import make_version
from tasks.ports import InProcessMap
from tasks.read.shard import RECORDS_FILE
from tasks.refresh import Refresh
from tasks.source_names import CrawlAddresses, is_common_crawl
from tasks.sources import collect_sources
from tasks.store import Store
from tasks.transient import Backoff, UnavailableError
from tests.data.prose import corpus_members
from tests.tasks.crawl_server import CRAWL, OLDER_CRAWL, CrawlServer, Request, Trouble, crawl_files, crawl_server
from tests.tasks.page_store import recipe
from tests.tasks.read.warc_bytes import DATA, ranges_of

PAGES = DATA / "web" / "pages.warc.gz"
LISTING = f"/crawl-data/{CRAWL}/warc.paths.gz"
MADE = tuple(b"".join(corpus_members(8)[start : start + 2]) for start in range(0, 8, 2))


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.transient.BACKOFF", Backoff(6, first_wait_s=0.01, max_wait_s=0.05, max_waiting_s=5.0))


def names(server: CrawlServer, source: str) -> list[str]:
    """The last parts of the files' addresses, without suffixes."""
    _, files = CommonCrawl(server.addresses).files(source)
    return [file.path.rpartition("/")[2].partition(".")[0] for file in files]


def test_more_files_of_a_crawl_are_the_same_and_others() -> None:
    with crawl_server(crawl_files([b"x"] * 40)) as server:
        chosen = {number: names(server, f"commoncrawl:{CRAWL}:{number}") for number in (1, 5, 12, 40)}
        texts = names(server, f"commoncrawl:{CRAWL}:wet:12")
    assert chosen[1] == chosen[5][:1] and chosen[5] == chosen[12][:5] and chosen[12] == chosen[40][:12]
    assert texts == chosen[12], "the texts are of the same pages"
    assert len(set(chosen[40])) == 40
    assert chosen[12] != sorted(chosen[40])[:12], "drawn from the whole crawl, not its first segment"


def test_the_choice_does_not_depend_on_the_order_of_the_listing() -> None:
    files = crawl_files([b"x"] * 20)
    with crawl_server(files) as server:
        before = names(server, f"commoncrawl:{CRAWL}:7")
        lines = gzip.decompress(files[LISTING]).decode().split()
        random.Random(1).shuffle(lines)
        files[LISTING] = gzip.compress("\n".join(lines).encode(), mtime=0)
        assert names(server, f"commoncrawl:{CRAWL}:7") == before


def test_a_long_listing_costs_one_request_and_one_more_for_each_file_taken() -> None:
    files = crawl_files([])
    lines = [f"crawl-data/{CRAWL}/segments/1.7/warc/CC-MAIN-1-2-{number:05d}.warc.gz" for number in range(90_000)]
    files[LISTING] = gzip.compress("\n".join(lines).encode(), mtime=0)
    files |= {f"/{line}": b"x" for line in lines}
    progress: list[tuple[int, int]] = []
    with crawl_server(files) as server:
        crawl = CommonCrawl(server.addresses, lambda stage, done, total, **_: progress.append((done, total)))
        assert len(crawl.files(f"commoncrawl:{CRAWL}:30")[1]) == 30
        assert len(server.requests) == 1 + 30 and len(server.seen("HEAD", ".warc.gz")) == 30
        crawl.files(f"commoncrawl:{CRAWL}:2")
        assert server.seen("GET") == [LISTING]
    assert progress[:30] == [(done, 30) for done in range(1, 31)]


def test_the_latest_crawl_is_looked_up_once_and_stands_in_the_inputs(tmp_path: Path) -> None:
    files = crawl_files([b"x"] * 3, crawls=(OLDER_CRAWL, "CC-MAIN-2009-2010", CRAWL, "CC-MAIN-2012"))
    with crawl_server(files) as server:
        store = Store.open(tmp_path, crawls=server.addresses)
        sources = ["commoncrawl:latest:2", "commoncrawl:latest:wet", f"commoncrawl:{CRAWL}"]
        collected = collect_sources(store, sources, write=False)
        assert len(server.seen("GET", "collinfo.json")) == 1
    assert len(collected.files) == 3, "the third source's file is one of the first's"
    for named in collected.files:
        assert named.source == CRAWL and f"/crawl-data/{CRAWL}/" in named.file.path
        assert named.file.size_bytes in (1, 4) and named.file.version and named.file.format == "warc"


def test_a_list_may_name_a_crawl_and_says_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"# crawls\ncommoncrawl:{CRAWL}\n")
    with crawl_server(crawl_files([b"x"])) as server:
        store = Store.open(tmp_path / "store", crawls=server.addresses)
        assert len(collect_sources(store, [str(tmp_path / "list.txt")]).files) == 1
        (tmp_path / "list.txt").write_text("commoncrawl:2025\n")
        with pytest.raises(ValueError, match=r"list\.txt, line 1: 'commoncrawl:2025' is no source"):
            collect_sources(store, [str(tmp_path / "list.txt")])


def test_a_folder_with_the_layout_is_a_mirror(tmp_path: Path) -> None:
    for path, content in crawl_files(MADE).items():
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path[1:]).write_bytes(content)
    crawl = CommonCrawl(CrawlAddresses(data=str(tmp_path), index=str(tmp_path / "index")))
    assert crawl.latest == CRAWL
    assert all(Path(file.path).is_file() for file in crawl.files(f"commoncrawl:{CRAWL}:wet:4")[1])


def broken(path: str, content: bytes | None) -> dict[str, bytes]:
    files = crawl_files([b"x"] * 3)
    files.pop(path)
    return files if content is None else {**files, path: content}


COLLINFO = "/index/collinfo.json"
WHOLE = gzip.compress(f"crawl-data/{CRAWL}/segments/1.7/warc/a.warc.gz\n".encode() * 50, mtime=0)


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        (
            LISTING,
            None,
            r"the listing of CC-MAIN-2025-38, http.*warc\.paths\.gz, does not exist: is there such a crawl",
        ),
        (LISTING, WHOLE[:-12], r"the listing of CC-MAIN-2025-38, .* is damaged \(.*end-of-stream"),
        (LISTING, WHOLE[:20] + b"\0" + WHOLE[20:], r"is damaged \("),
        (LISTING, b"<html>Welcome</html>", r"is damaged \(line 1 is no path of a WARC file: '<html>Welcome</html>'"),
        (LISTING, gzip.compress(b"crawl-data/CC-MAIN-2024-10/a.warc.gz\n", mtime=0), r"line 1 is no path"),
        (LISTING, gzip.compress(f"crawl-data/{CRAWL}/../../a.warc.gz\n".encode(), mtime=0), r"line 1 is no path"),
        (LISTING, gzip.compress("crawl-data/ü".encode(), mtime=0), r"is damaged \("),
        (LISTING, gzip.compress(b"\n", mtime=0), r"is damaged \(it is empty\)"),
        (COLLINFO, None, r"the list of crawls, .* does not exist: check the setting TOKENMILL_COMMONCRAWL_INDEX"),
        (COLLINFO, b"<html>", r"the list of crawls, .*, is damaged \(no JSON list"),
        (COLLINFO, b'{"id": 1}', r"is damaged \(no JSON list"),
        (COLLINFO, b'[{"name": "x"}]', r"is damaged \(no JSON list"),
        (COLLINFO, b'[{"id": "CC-MAIN-2012"}]', r"is damaged \(no crawl CC-MAIN-YYYY-WW in it\)"),
    ],
)
def test_a_listing_that_is_missing_or_damaged_is_one_clear_line(path: str, content: bytes | None, says: str) -> None:
    with crawl_server(broken(path, content)) as server, pytest.raises(ValueError, match=says) as error:
        CommonCrawl(server.addresses).files("commoncrawl:latest")
    assert "\n" not in str(error.value) and not isinstance(error.value, UnavailableError)


def test_files_that_are_not_there_are_told_before_any_work() -> None:
    files = crawl_files([b"x"] * 3)
    with crawl_server(files) as server:
        assert len(names(server, f"commoncrawl:{CRAWL}:3")) == 3
        with pytest.raises(ValueError, match="asks for 4 files, and CC-MAIN-2025-38 has 3 WARC files"):
            names(server, f"commoncrawl:{CRAWL}:4")
        del files[next(path for path in files if path.endswith(".warc.gz"))]
        with pytest.raises(ValueError, match=r"\.warc\.gz' does not exist"):
            names(server, f"commoncrawl:{CRAWL}:3")


@pytest.mark.parametrize("path", [LISTING, COLLINFO])
def test_a_server_that_stays_in_trouble_is_unavailable(path: str) -> None:
    with crawl_server(crawl_files([b"x"])) as server:
        server.trouble = lambda request: "503" if request.path == path else ""
        with pytest.raises(UnavailableError, match=r"failed 6 times \(HTTP 503.*run it again later"):
            CommonCrawl(server.addresses).files("commoncrawl:latest")
        assert len(server.requests) <= 6 + 1


def real_parts() -> list[bytes]:
    """Real pages in a file of several of the reader's requests and a small one; else made ones."""
    if not PAGES.is_file():
        return [b"".join(corpus_members(270)[:250]), b"".join(corpus_members(270)[250:])]
    data = PAGES.read_bytes()
    long, short = ranges_of(PAGES, max_records=250)[0], ranges_of(PAGES, max_records=20)[-1]
    return [data[part.start : part.end] for part in (long, short)]


def records(store: Store, source: str) -> tuple[list[dict[str, Any]], int]:
    """What a refresh of `source` reads, without the names of the files; and how many records were counted."""
    refresh = Refresh.plan(store, "web", [source], recipe(shard_records=50))
    counted = curation.inventory(refresh, InProcessMap())
    shards = curation.read(refresh, counted, InProcessMap()).shards
    rows = [row for shard in shards for row in pq.read_table(shard / RECORDS_FILE).to_pylist()]
    for row in rows:
        row["source_file"] = row["source_file"].rpartition("/")[2]
    return sorted(rows, key=lambda row: (row["source_file"], row["source_offset"])), counted.report.records_in


def troubled(every_503: int, every_cut: int) -> Callable[[Request], Trouble]:
    """Each so many requests go wrong; twice, at an opening and in the middle, the whole file comes for a part of it."""
    counts = {"all": 0, "parts": 0}
    refused: set[str] = set()

    def trouble(request: Request) -> Trouble:
        counts["all"] += 1
        if counts["all"] % every_503 == 0:
            return "503"
        if request.method == "HEAD" or not request.wanted_range:
            return ""
        counts["parts"] += 1
        if counts["parts"] % every_cut == 0:
            return "cut"
        start, _, end = request.wanted_range.removeprefix("bytes=").partition("-")
        place = "first" if start == "0" else "last byte" if start == end else "middle"
        if place != "first" and place not in refused:
            refused.add(place)
            return "no ranges"
        return ""

    return trouble


def test_a_server_in_trouble_gives_the_same_records_as_the_files(tmp_path: Path) -> None:
    parts = real_parts()
    files = crawl_files(parts)
    folder = tmp_path / CRAWL
    folder.mkdir()
    for path, content in files.items():
        if path.endswith(".warc.gz"):
            (folder / path.rpartition("/")[2]).write_bytes(content)
    expected, num_records = records(Store.open(tmp_path / "local"), str(folder))
    with crawl_server(files) as server:
        server.trouble = troubled(every_503=5, every_cut=6)
        store = Store.open(tmp_path / "remote", crawls=server.addresses)
        found, num_found = records(store, f"commoncrawl:{CRAWL}:{len(parts)}")
        assert set(server.met) == {"503", "cut", "no ranges"}
        assert not PAGES.is_file() or server.met.count("no ranges") == 2
    assert num_found == num_records == len(found) == 270
    assert found == expected


def test_a_larger_number_reads_the_new_files_alone(tmp_path: Path) -> None:
    with crawl_server(crawl_files(MADE)) as server:
        store = Store.open(tmp_path, crawls=server.addresses)
        versions = []
        for number in (1, 3):
            server.requests.clear()
            plan = Refresh.plan(store, "web", [f"commoncrawl:latest:{number}"], recipe())
            versions.append(make_version(plan, InProcessMap())[1])
            read = {path for path in server.seen("GET") if path.endswith(".warc.gz")}
            assert len(read) == (1 if number == 1 else 2), "files of the version before are not fetched again"
    first, second = versions
    assert second["base"] == 1 and second["records_in"] == 6
    assert second["inputs"][0] == first["inputs"][0] and {entry["source"] for entry in second["inputs"]} == {CRAWL}
    assert second["sources"] == ["commoncrawl:latest:3"]


def test_files_are_looked_at_several_at_a_time() -> None:
    with crawl_server(crawl_files([b"x"] * 8)) as server:
        together = threading.Barrier(4, timeout=10)

        def wait_for_others(request: Request) -> Trouble:
            if request.method == "HEAD":
                server_lock.release()
                together.wait()
                server_lock.acquire()
            return ""

        server_lock = server.lock
        server.trouble = wait_for_others
        assert len(names(server, f"commoncrawl:{CRAWL}:8")) == 8


def test_names_of_crawls_are_told_from_paths() -> None:
    assert is_common_crawl("commoncrawl:latest") and is_common_crawl("commoncrawl")
    assert not is_common_crawl("./commoncrawl:latest") and not is_common_crawl("commoncrawl-2")
