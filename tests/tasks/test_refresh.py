"""What comes later is added, what was read is not read again, and the result does not show in which order it came."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks import curation
from tasks.ports import InProcessMap
from tasks.read.limits import ReadLimits
from tasks.refresh import Refresh
from tasks.refresh_stages import SCREENING
from tasks.stages import StageOutput
from tasks.store import Store
from tasks.tombstones import TombstoneRule, Tombstones
from tests.data.prose import corpus_members, page, prose, warc_record
from tests.tasks.test_curation import refresh_in_process, rows, small_recipe

SOURCE_PLACE = ("source", "source_file", "source_offset", "detail")
"""Of records that are alike but for their place, the one that came first has the first id."""


def row(seed: int | str) -> str:
    return (
        json.dumps({"text": prose(seed), "url": f"https://rows.example/{seed}", "date": "2024-01-02T00:00:00Z"}) + "\n"
    )


def member(url: str, body: bytes) -> bytes:
    return gzip.compress(warc_record(url, body), mtime=0)


def write_files(folder: Path) -> list[Path]:
    """Three files that share records, near copies and ids; each alone decides nothing about the others."""
    folder.mkdir()
    members = corpus_members(24)
    twice = member("https://twice.example/", page(prose("twice")))
    other = member("https://twice.example/", page(prose("other than that")))  # the same record id, another page
    contents = {
        "b.warc.gz": b"".join([*members[:10], twice, other]),
        "a.warc.gz": b"".join([*members[10:18], twice, members[3], *members[22:]]),
        "c.jsonl": (row(1) + row(500) + row(500) + row("twice")).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def published_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What a version says, whichever way it was made: but for places, and edits that tell of superseded versions."""

    def sorted_rows(table: str) -> list[dict[str, Any]]:
        found = [
            {name: value for name, value in row.items() if name not in SOURCE_PLACE}
            for row in rows(path, table)
            if row.get("kind") != "superseded"
        ]
        return sorted(found, key=lambda entry: json.dumps(entry, sort_keys=True))

    return {table: sorted_rows(table) for table in ("documents", "ledger", "edits", "originals")}


def shard_reports(store: Path) -> dict[Path, tuple[int, int]]:
    """Every shard there is, with what a second computation of it would change."""
    return {
        report.parent: (report.stat().st_ino, report.stat().st_mtime_ns)
        for report in store.glob("work/*/*/*/report.json")
    }


def ordered_partitions(items: Sequence[int]) -> Iterator[list[tuple[int, ...]]]:
    """All ways in which the items can arrive, one or several at a time."""
    if not items:
        yield []
    for size in range(1, len(items) + 1):
        for first in itertools.combinations(items, size):
            rest = [item for item in items if item not in first]
            for others in ordered_partitions(rest):
                yield [first, *others]


ARRIVALS = list(ordered_partitions(range(3)))


def test_there_are_thirteen_orders_of_arrival() -> None:
    assert len(ARRIVALS) == 13 and len({str(order) for order in ARRIVALS}) == 13


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], dict[str, Any], str]:
    """A watched folder, its files, and what comes of them all at once."""
    root = tmp_path_factory.mktemp("arrivals")
    files = write_files(root / "watched")
    path, manifest, _ = refresh_in_process(root / "store", root / "watched")
    assert manifest["records_in"] == 28
    return root, files, published_rows(path), manifest["digest"]


@pytest.mark.parametrize("order", ARRIVALS, ids=str)
def test_the_version_does_not_show_in_which_order_its_files_came(
    order: list[tuple[int, ...]], outside: tuple[Path, list[Path], dict[str, Any], str], tmp_path: Path
) -> None:
    root, files, expected, digest = outside
    away, name = tmp_path / "away", f"order-{ARRIVALS.index(order)}"  # each of its own, in a store that has the shards
    away.mkdir()
    for file in files:
        file.rename(away / file.name)
    try:
        for version, arriving in enumerate(order, 1):
            for index in arriving:
                (away / files[index].name).rename(files[index])
            path, manifest, _ = refresh_in_process(root / "store", root / "watched", name=name)
            assert manifest["version"] == version
            assert manifest["new_inputs"] == sorted(str(files[index]) for index in arriving)
    finally:
        for file in away.iterdir():
            file.rename(root / "watched" / file.name)
    assert manifest["digest"] == digest
    assert published_rows(path) == expected


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """A folder with one file of 20 records; a store where it has been published."""
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "one.warc.gz").write_bytes(b"".join(corpus_members(20)))
    refresh_in_process(tmp_path / "store", folder)
    return folder


def add(folder: Path, name: str, start: int, end: int) -> Path:
    (folder / name).write_bytes(b"".join(corpus_members(end)[start:]))
    return folder / name


def from_nothing(folder: Path, tmp_path: Path) -> str:
    digest: str = refresh_in_process(tmp_path / "from-nothing", folder)[1]["digest"]
    return digest


def test_of_a_file_that_was_read_nothing_is_done_again(watched: Path, tmp_path: Path) -> None:
    before = shard_reports(tmp_path / "store")
    add(watched, "two.warc.gz", 20, 30)
    _, manifest, outputs = refresh_in_process(tmp_path / "store", watched)
    after = shard_reports(tmp_path / "store")
    assert {shard: after[shard] for shard in before} == before
    assert [outputs[name].manifest["computed"] for name in ("inventory", "read", "extract")] == [
        {"shards": 1, "records": 10}
    ] * 3
    assert manifest["mode"] == "onto small@1"
    assert all((len(outputs[name].shards), outputs[name].reused_shards) == (1, 0) for name in SCREENING)
    assert manifest["digest"] == from_nothing(watched, tmp_path)


def test_a_changed_file_takes_the_old_ones_place(watched: Path, tmp_path: Path) -> None:
    add(watched, "two.warc.gz", 20, 30)
    refresh_in_process(tmp_path / "store", watched)
    before = shard_reports(tmp_path / "store")
    add(watched, "one.warc.gz", 5, 12)
    path, manifest, outputs = refresh_in_process(tmp_path / "store", watched)
    assert manifest["records_in"] == 17 and manifest["new_inputs"] == [str(watched / "one.warc.gz")]
    assert outputs["read"].reused_shards == 1  # the other file's
    after = shard_reports(tmp_path / "store")
    assert {shard: after[shard] for shard in before} == before
    assert manifest["digest"] == from_nothing(watched, tmp_path)
    assert published_rows(path) == published_rows(refresh_in_process(tmp_path / "third", watched)[0])


def test_a_file_that_is_gone_stays_part_of_the_corpus(watched: Path, tmp_path: Path) -> None:
    add(watched, "two.warc.gz", 20, 30)
    expected = from_nothing(watched, tmp_path)
    (watched / "one.warc.gz").unlink()
    recipe = small_recipe()
    _, manifest, _ = refresh_in_process(tmp_path / "store", watched, recipe)
    assert (manifest["digest"], manifest["records_in"]) == (expected, 30)
    assert [Path(entry["path"]).name for entry in manifest["inputs"]] == ["one.warc.gz", "two.warc.gz"]
    # a changed threshold reads nothing again either
    stricter = recipe.model_copy(update={"deduplication": recipe.deduplication.model_copy(update={"seed": 5})})
    assert refresh_in_process(tmp_path / "store", watched, stricter)[1]["records_in"] == 30
    # and `replace` starts over from what is there
    _, replaced, outputs = refresh_in_process(tmp_path / "store", watched, recipe, replace=True)
    assert replaced["records_in"] == 10 and outputs["read"].manifest["computed"]["shards"] == 0


def test_a_file_that_is_gone_and_would_have_to_be_read_again_is_refused_before_any_work(
    watched: Path, tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "store")
    add(watched, "two.warc.gz", 20, 30)
    (watched / "one.warc.gz").rename(tmp_path / "one.warc.gz")
    other_limits = small_recipe(reading=ReadLimits(max_page_bytes=1_000_000))
    other_rules = small_recipe(toxicity_rules=())
    before = shard_reports(store.root)
    with pytest.raises(ValueError, match=r"one\.warc\.gz, an input of small@1, is gone.*--replace") as refused:
        Refresh.plan(store, "small", [str(watched)], other_limits)
    assert "\n" not in str(refused.value) and "the limits of reading changed" in str(refused.value)
    assert len(Refresh.plan(store, "small", [str(watched)], other_rules).inputs) == 2  # from its shards
    for stage in ("inventory", "read"):
        lost = store.work / stage / "shards"
        lost.rename(tmp_path / stage)
        with pytest.raises(ValueError, match="give it back"):
            Refresh.plan(store, "small", [str(watched)], other_rules)
        assert len(Refresh.plan(store, "small", [str(watched)], small_recipe()).inputs) == 2  # onto small@1
        (tmp_path / stage).rename(lost)
    assert shard_reports(store.root) == before and store.versions("small") == [1]
    assert len(Refresh.plan(store, "small", [str(watched)], other_limits, replace=True).inputs) == 1
    (tmp_path / "one.warc.gz").rename(watched / "one.warc.gz")
    assert len(Refresh.plan(store, "small", [str(watched)], other_limits).inputs) == 2


def test_a_file_outside_of_the_named_sources_is_read_again_where_it_lies(watched: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    add(elsewhere, "two.warc.gz", 20, 30)
    shutil.rmtree(tmp_path / "store" / "work")
    path, manifest, _ = refresh_in_process(tmp_path / "store", elsewhere)
    assert manifest["records_in"] == 30
    assert {entry["source"] for entry in rows(path, "documents")} == {"watched", "elsewhere"}
    assert [(entry["source"], entry["batch"]) for entry in manifest["inputs"]] == [("watched", 1), ("elsewhere", 2)]


def test_nothing_new_is_no_change(watched: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    refresh = Refresh.plan(store, "small", [str(watched), str(watched / "*.gz")], small_recipe())
    assert refresh.is_published and refresh.published() == (
        store.corpora / "small" / "1",
        json.loads((store.corpora / "small" / "1" / "manifest.json").read_bytes()),
    )
    add(watched, "two.warc.gz", 20, 30)
    assert not Refresh.plan(store, "small", [str(watched)], small_recipe()).is_published
    refresh_in_process(store.root, watched)
    shutil.rmtree(store.work)
    (watched / "one.warc.gz").unlink()
    assert Refresh.plan(store, "small", [str(watched)], small_recipe()).is_published  # and needs neither any more


def test_a_watched_folder_may_be_empty_once_it_has_been_read(watched: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    (watched / "one.warc.gz").unlink()
    assert Refresh.plan(store, "small", [str(watched), str(watched / "*.gz")], small_recipe()).is_published
    for name, replace in (("small", True), ("other", False)):  # from nothing there is nothing to make
        with pytest.raises(ValueError, match="holds no files"):
            Refresh.plan(store, name, [str(watched)], small_recipe(), replace=replace)
    with pytest.raises(ValueError, match="does not exist"):
        Refresh.plan(store, "small", [str(watched / "nowhere")], small_recipe())


def test_a_file_without_records_can_go(watched: Path, tmp_path: Path) -> None:
    (watched / "empty.jsonl").touch()
    refresh_in_process(tmp_path / "store", watched)
    (watched / "empty.jsonl").unlink()
    add(watched, "two.warc.gz", 20, 30)
    assert refresh_in_process(tmp_path / "store", watched)[1]["records_in"] == 30


def test_the_profile_leaves_new_files_for_later(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    for index in range(18):
        (watched / f"{index:02d}.jsonl").write_text(row(index))
    seen = []
    for profile in ("smoke", "small", "full", "full"):
        refresh = Refresh.plan(Store.open(tmp_path / "store"), "small", [str(watched)], small_recipe(), profile=profile)
        seen.append((len(refresh.inputs), len(refresh.new_inputs), refresh.waiting_files, refresh.is_published))
        if not refresh.is_published:
            _, manifest, _ = refresh_in_process(tmp_path / "store", watched, profile=profile)
            assert manifest["waiting_files"] == refresh.waiting_files
    assert seen == [(1, 1, 17, False), (17, 16, 1, False), (18, 1, 0, False), (18, 0, 0, True)]


class InterruptedMap(InProcessMap):
    """Stops like a cancelled run when it is asked for the shard number `after` of `stage`."""

    def __init__(self, stage: str, after: int) -> None:
        self._stage, self._after = stage, after

    def map(self, function: Callable[..., Any], items: Sequence[Any], **options: Any) -> list[Any]:
        if options["name"] != self._stage or len(items) <= self._after:
            return super().map(function, items, **options)
        super().map(function, items[: self._after], **options)
        raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["inventory", "read", "extract"])
def test_a_second_refresh_that_was_killed_goes_on_where_it_was(stage: str, watched: Path, tmp_path: Path) -> None:
    add(watched, "three.warc.gz", 30, 60)
    add(watched, "two.warc.gz", 20, 30)
    store = Store.open(tmp_path / "store")
    refresh, shard_map = Refresh.plan(store, "small", [str(watched)], small_recipe()), InterruptedMap(stage, 1)
    with pytest.raises(KeyboardInterrupt):
        counted = curation.inventory(refresh, shard_map)
        curation.extract(refresh, curation.read(refresh, counted, shard_map), shard_map)
    before = shard_reports(store.root)
    (watched / "one.warc.gz").unlink()  # meanwhile
    _, manifest, outputs = refresh_in_process(store.root, watched)
    after = shard_reports(store.root)
    assert {shard: after[shard] for shard in before} == before
    assert outputs[stage].reused_shards >= 1
    (watched / "one.warc.gz").write_bytes(b"".join(corpus_members(20)))
    assert manifest["digest"] == from_nothing(watched, tmp_path)


def test_a_record_that_comes_again_is_numbered_behind_those_there_are(tmp_path: Path) -> None:
    """The file that comes second sorts first, and its record would have been the first of the two at once."""
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "b.jsonl").write_text(row(1) + row(2))
    first = refresh_in_process(tmp_path / "store", watched)[2]
    (watched / "a.jsonl").write_text(row(3) + row(1))
    onto = refresh_in_process(tmp_path / "store", watched)
    again = refresh_in_process(tmp_path / "store", watched, small_recipe(toxicity_rules=()))
    expected = [("a.jsonl", False, "0"), ("a.jsonl", True, "1"), ("b.jsonl", False, "0"), ("b.jsonl", True, "0")]
    for path, manifest, _ in (onto, again):
        numbered = [
            (Path(entry["source_file"]).name, entry["source_offset"] > 0, entry["record_id"].split("-")[1])
            for entry in rows(path, "ledger")
        ]
        assert sorted(numbered) == expected
        assert manifest["digest"] == from_nothing(watched, tmp_path)
    # made again, every record has the number that it had: nothing is read or extracted anew
    assert again[1]["mode"] == "everything again: the toxicity rules changed"
    for stage in ("read", "extract"):
        assert again[2][stage].shards == (*first[stage].shards, *onto[2][stage].shards)
        assert again[2][stage].reused_shards == 2


def test_two_corpora_share_the_shards_of_a_file(watched: Path, tmp_path: Path) -> None:
    add(watched, "two.warc.gz", 20, 30)
    outputs: dict[str, StageOutput] = refresh_in_process(tmp_path / "store", watched, name="other")[2]
    assert {name: output.reused_shards for name, output in outputs.items() if name in SCREENING} == dict.fromkeys(
        SCREENING, len(outputs["read"].shards) - 1
    ) | {"inventory": 1}


def test_what_was_taken_down_does_not_come_back_built_onto_or_made_again(watched: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    victim = rows(store.corpus("small@1"), "documents")[0]
    rule = TombstoneRule(kind="document", value=victim["document_id"])
    takedown = Refresh.takedown(store, "small", Tombstones(rules=(rule,)), {victim["document_id"]: "cluster"})
    assert takedown.version == 2
    curation.make_version(takedown, InProcessMap())
    copy = member("https://mirror.example/copy", page(victim["text"]))
    (watched / "two.warc.gz").write_bytes(copy)
    digests = set()
    for recipe, replace in (
        (small_recipe(), False),
        (small_recipe(toxicity_rules=()), False),
        (small_recipe(num_buckets=8), True),
    ):
        path, manifest, _ = refresh_in_process(store.root, watched, recipe, replace=replace)
        assert manifest["removed"]["takedown"] == {"taken_down": 1, "taken_down_copy": 1}
        assert victim["text"] not in {document["text"] for document in rows(path, "documents")}
        digests.add(manifest["digest"])
    assert len(digests) == 1
