"""A corpus that grows: whatever the order its files come in, it is that of one big run; and one writer at a time."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from infra.ray_map import ray_cluster
from tasks.curation import make_version
from tasks.ports import InProcessMap, ShardMap
from tasks.recipes.curation import CurationRecipe, fineweb, resolve_curation_recipe
from tasks.refresh import Refresh
from tasks.remote import TakenError
from tasks.store import Store
from tests.data.prose import corpus_members, prose, warc_record
from tests.integration.running import assert_adds_up, started, succeeded, table, tokenmill
from tests.tasks.page_store import recipe as light_recipe
from tests.tasks.s3_server import s3_server
from tests.tasks.test_deduplicate import tangled_pages, write_rows

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
PAGES = DATA / "web" / "pages.warc.gz"
ARCHIVES = [DATA / "warc" / "dolma" / "sample-0000.warc.gz", DATA / "warc" / "whirlwind" / "whirlwind.warc.gz"]
ORDERS = ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1])
NUM_CRAWLS = 5
PLACE = ("source", "source_file", "source_offset")
"""Columns that say where a record was found: of records with one base id, which of them was numbered first."""


class Watched:
    """A folder that crawls arrive in, and a store that is refreshed from it."""

    def __init__(self, folder: Path, crawls: Sequence[Path]) -> None:
        self.folder, self.crawls = folder / "crawls", crawls
        self.store = Store.open(folder / "store")

    def empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def arrive(self, *numbers: int) -> None:
        """The same files whenever they come: with path, size and date, by which a file is known."""
        for number in numbers:
            os.link(self.crawls[number], self.folder / self.crawls[number].name)

    def refresh(self, name: str, recipe: CurationRecipe, shard_map: ShardMap) -> tuple[Path, dict[str, Any]]:
        return make_version(Refresh.plan(self.store, name, [str(self.folder)], recipe), shard_map)

    def whole(self, refresh: Callable[[str], Path]) -> Path:
        """The version of one run over everything."""
        self.empty()
        self.arrive(*range(len(self.crawls)))
        return refresh("whole")

    def in_order(self, name: str, order: Sequence[int], refresh: Callable[[str], Path]) -> Path:
        """The last of the versions that a refresh after each arrival makes."""
        self.empty()
        for number in order:
            self.arrive(number)
            version = refresh(name)
        return version


def manifest(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / "manifest.json").read_bytes())
    return content


def rows(version: Path, kind: str, *left_out: str) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row.keys() - set(left_out)} for row in table(version, kind)]


def edits(version: Path) -> list[dict[str, Any]]:
    """What was taken out of texts; that a document was published before is the history of one corpus."""
    return [row for row in table(version, "edits") if row["kind"] != "superseded"]


def assert_same(version: Path, whole: Path) -> None:
    """Equal but for the history: who was published before, and which of equal records came first."""
    here, there = manifest(version), manifest(whole)
    for fact in ("digest", "records_in", "documents_kept", "removed", "clusters", "estimated_tokens"):
        assert here[fact] == there[fact], fact
    assert rows(version, "documents", *PLACE) == rows(whole, "documents", *PLACE)
    assert rows(version, "originals", *PLACE) == rows(whole, "originals", *PLACE)
    assert rows(version, "ledger", *PLACE, "detail") == rows(whole, "ledger", *PLACE, "detail")
    assert edits(version) == edits(whole)
    index = sorted(file.name for file in (whole / "index").iterdir())
    assert index == sorted(file.name for file in (version / "index").iterdir())
    for name in index:
        assert (version / "index" / name).read_bytes() == (whole / "index" / name).read_bytes(), name


def history(version: Path) -> Counter[str]:
    """How many documents gave way, and came back, from version to version."""
    moved: Counter[str] = Counter()
    for number in range(1, int(version.name) + 1):
        facts = manifest(version.parent / str(number))
        assert facts["base"] == number - 1
        moved.update({name: facts[name] for name in ("superseded", "revived")})
    return moved


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Chains, copies and repeated addresses over all crawls; each holds one record that every other holds too."""
    folder, pages = tmp_path_factory.mktemp("made-up"), tangled_pages()
    again = {"text": prose("again"), "url": "https://again.example/", "date": "2024-06-01T00:00:00Z"}
    crawls = [[*pages[number::NUM_CRAWLS], again] for number in range(NUM_CRAWLS)]
    return [write_rows(folder / f"{number}.jsonl", crawl) for number, crawl in enumerate(crawls)]


@pytest.mark.verify
@pytest.mark.parametrize(
    "settings",
    [
        {"deduplication.order": "longest"},
        {"deduplication.min_jaccard": "0"},
        {"deduplication.canonical_url": "false", "deduplication.min_paragraph_chars": "80"},
    ],
    ids=["longest", "unverified", "paragraphs"],
)
def test_the_order_of_arrival_does_not_matter(settings: dict[str, str], made_up: list[Path], tmp_path: Path) -> None:
    watched = Watched(tmp_path, made_up)
    light = light_recipe()
    deduplication = resolve_curation_recipe("fineweb", settings).deduplication
    recipe = light.model_copy(update={"deduplication": deduplication})

    def refresh(name: str) -> Path:
        return watched.refresh(name, recipe, InProcessMap())[0]

    whole = watched.whole(refresh)
    by_paragraph = sum(edit["stage"] == "paragraph_dedup" for edit in edits(whole))
    assert (by_paragraph > 10) == (deduplication.min_paragraph_chars > 0)
    moved: Counter[str] = Counter()
    for number, order in enumerate(ORDERS):
        version = watched.in_order(f"order-{number}", order, refresh)
        assert_same(version, whole)
        moved += history(version)
    assert moved["superseded"] > 5 and moved["revived"] > 0, moved  # or the orders have tried nothing


def write_real_crawls(folder: Path) -> list[Path]:
    """Real pages dealt out to five files, with copies of them planted in others: whole, shortened, and readdressed.

    A planted page is sometimes the earlier one and sometimes the later. Two files hold odd archives besides.
    """
    crawls: list[list[bytes]] = [[] for _ in range(NUM_CRAWLS)]
    with PAGES.open("rb") as file:
        for number, record in enumerate(ArchiveIterator(file, record_types=WarcRecordType.response)):
            url, date, body = record.headers["WARC-Target-URI"], record.headers["WARC-Date"], record.reader.read()
            home = number % NUM_CRAWLS
            crawls[home].append(warc_record(url, body, date))
            away = crawls[(home + 1 + number // NUM_CRAWLS % (NUM_CRAWLS - 1)) % NUM_CRAWLS]
            other_date = ("2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z")[number // 2 % 2]
            if number % 3 == 0:
                away.append(warc_record(f"https://mirror.example/{number}", body, other_date))
            elif number % 3 == 1:
                away.append(warc_record(url, body.replace(b"</p>", b" </p><p>Seen on another day.</p>", 1), other_date))
            elif number % 6 == 2:
                paragraphs = body.split(b"<p")
                del paragraphs[len(paragraphs) // 2 : len(paragraphs) // 2 + 1 + len(paragraphs) // 20]
                away.append(warc_record(f"https://short.example/{number}", b"<p".join(paragraphs), other_date))
    for number, archive in enumerate(ARCHIVES):
        crawls[number].append(gzip.decompress(archive.read_bytes()))
    written = []
    for number, records in enumerate(crawls):
        written.append(folder / f"crawl-{number}.warc.gz")
        written[-1].write_bytes(b"".join(gzip.compress(record, 1, mtime=0) for record in records))
    return written


class TestRealPages:
    """The big run by the command, the small ones by Ray without it: they make the same."""

    pytestmark: ClassVar = [
        pytest.mark.verify,
        pytest.mark.timeout(1600),
        pytest.mark.skipif(not PAGES.is_file(), reason="real pages are looked for in ../shared/data: not there"),
    ]

    def test_the_order_of_arrival_does_not_matter(self, tmp_path: Path) -> None:
        (tmp_path / "parts").mkdir()
        watched = Watched(tmp_path, write_real_crawls(tmp_path / "parts"))
        settings = ["--set", "shard_records=32"]  # several shards a file: none is shared by two, all are found again

        def by_command(name: str) -> Path:
            arguments = ["refresh", "--source", str(watched.folder), "--name", name, *settings, "--json"]
            done = tokenmill(*arguments, store=watched.store.root, cwd=tmp_path, timeout_s=900)
            result = succeeded(done)
            assert_adds_up(result, result["records_in"])
            return Path(result["path"])

        whole = watched.whole(by_command)
        removed = manifest(whole)["removed"]
        assert all(sum(removed[stage].values()) > 10 for stage in ("url_dedup", "exact_dedup", "near_dedup")), removed
        recipe, moved = fineweb().model_copy(update={"shard_records": 32}), Counter[str]()
        with ray_cluster() as shard_map:
            for number, order in enumerate(ORDERS):
                version = watched.in_order(
                    f"order-{number}", order, lambda name: watched.refresh(name, recipe, shard_map)[0]
                )
                assert_same(version, whole)
                moved += history(version)
        print("moved", moved, "removed", removed)
        assert moved["superseded"] > 10, moved


def write_pages(path: Path, num_pages: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(corpus_members(num_pages)))
    return path


@pytest.mark.verify
def test_of_two_refreshes_of_one_name_at_once_one_wins_and_the_other_says_so(tmp_path: Path) -> None:
    source, store = write_pages(tmp_path / "crawls" / "pages.warc.gz", 120).parent, tmp_path / "store"
    arguments = ["refresh", "--source", str(source), "--name", "web", "--set", "shard_records=8", "--json"]
    for version in (1, 2):  # the first of a corpus, and one onto it
        with (
            started(*arguments, store=store, cwd=tmp_path) as one,
            started(*arguments, store=store, cwd=tmp_path) as other,
        ):
            outputs = [(process, *process.communicate(timeout=300)) for process in (one, other)]
        assert sorted(process.returncode for process, _, _ in outputs) == [0, 2], outputs
        for process, output, errors in outputs:
            if process.returncode == 0:
                assert json.loads(output.splitlines()[-1])["corpus"] == f"web@{version}"
            else:
                (line,) = [line for line in errors.splitlines() if line.startswith("tokenmill: ")]
                assert "'corpus-web' is being written by another run" in line and "Traceback" not in errors
        assert Store(store).versions("web") == list(range(1, version + 1))
        write_pages(source / "more.warc.gz", 140)


def test_of_two_machines_with_one_remote_one_wins_and_the_other_leaves_nothing_out(tmp_path: Path) -> None:
    """Each machine has a lock of its own: the number of a version is taken where it is sent to."""
    pages = tangled_pages()
    with s3_server() as remote:
        one, other = (Store.open(tmp_path / name, remote) for name in ("one", "other"))

        def plan(store: Store) -> Refresh:
            return Refresh.plan(store, "web", [str(tmp_path / f"pages-{store.root.name}")], light_recipe())

        for store, part in ((one, pages[:12]), (other, pages[12:30])):
            write_rows(tmp_path / f"pages-{store.root.name}" / "a.jsonl", part)
        make_version(plan(one), InProcessMap())
        plans = {}
        for store, seed in ((one, "one"), (other, "other")):
            row = {"text": prose(seed), "url": f"https://{seed}.example/", "date": "2024-01-01T00:00:00Z"}
            write_rows(tmp_path / f"pages-{store.root.name}" / "b.jsonl", [row])
            plans[seed] = plan(store)
        assert {each.version for each in plans.values()} == {2}
        make_version(plans["one"], InProcessMap())
        with pytest.raises(TakenError, match=r"^web@2 .* run the same again") as refusal:
            make_version(plans["other"], InProcessMap())
        assert "\n" not in str(refusal.value)
        assert one.versions("web") == other.versions("web") == [1, 2]

        _, facts = make_version(plan(other), InProcessMap())
        assert (facts["version"], facts["base"]) == (3, 2)
        whole = tmp_path / "whole"
        for number, file in enumerate(sorted(tmp_path.glob("pages-*/*.jsonl"))):
            whole.mkdir(exist_ok=True)
            shutil.copyfile(file, whole / f"{number}.jsonl")
        alone = Refresh.plan(Store.open(tmp_path / "alone"), "web", [str(whole)], light_recipe())
        assert make_version(alone, InProcessMap())[1]["digest"] == facts["digest"]
