"""Incremental deduplication, through the whole chain: whatever came first, the same version comes out."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.bucket import buckets
from tasks.curation import make_version, merge, screen
from tasks.dedup.config import Deduplication
from tasks.dedup.index import INDEX_FILE, KEYS_FILE, TOUCHED_FILE
from tasks.dedup.signature import MinHash
from tasks.ports import InProcessMap
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.tombstones import TombstoneRule, Tombstones
from tests.data.prose import prose
from tests.tasks.test_curation import rows, small_recipe

NUM_BATCHES = 5
Row = dict[str, str]


def refreshed(
    store: Store, source: Path, recipe: CurationRecipe | None = None, **options: Any
) -> tuple[Path, dict[str, Any]]:
    refresh = Refresh.plan(store, "web", [str(source)], recipe or small_recipe(), **options)
    return make_version(refresh, InProcessMap())


def write_rows(path: Path, pages: list[Row]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in pages))
    return path


def sentences(seed: str, num_sentences: int = 24) -> list[str]:
    return prose(seed, num_sentences).replace("\n", " ").split(". ")


def written(parts: list[str]) -> str:
    """Sentences as a text of lines."""
    return "\n".join(". ".join(parts[start : start + 4]) + "." for start in range(0, len(parts), 4))


def tangled_pages() -> list[Row]:
    """Chains of near-duplicates, copies, repeated addresses and pages that are alone, with dates in no order."""
    chance = random.Random(4)
    pages: list[Row] = []

    def add(text: str, url: str) -> None:
        date = f"2024-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}T00:00:00Z"
        pages.append({"text": text, "url": url, "date": date})

    for chain in range(8):
        parts = sentences(f"chain {chain}")
        for link in range(5):  # each differs from the one before in 3 of 24 sentences: .78; from that before, .6
            add(written(parts), f"https://chain{chain}.example/{link}")
            replaced = sentences(f"chain {chain} link {link}", 3)
            parts = parts[: 3 * link] + replaced + parts[3 * link + 3 :]
    for index in range(12):
        text = prose(f"alone {index}")
        add(text, f"https://alone.example/{index}")
        if index % 3 == 0:
            add(text, f"https://copy.example/{index}")
            add(text, f"https://copy.example/{index}?again=1")
        if index % 4 == 0:
            add(prose(f"moved {index}"), f"http://ALONE.example/{index}?utm_source=x#top")
    chance.shuffle(pages)
    return pages


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, pages = tmp_path_factory.mktemp("batches"), tangled_pages()
    return [write_rows(folder / f"{index}.jsonl", pages[index::NUM_BATCHES]) for index in range(NUM_BATCHES)]


def in_order(
    root: Path, watched: Path, batches: list[Path], recipe: CurationRecipe | None = None
) -> tuple[Path, dict[str, Any]]:
    """The version after a refresh for each batch; `watched` is the same folder for every order."""
    store = Store.open(root)
    watched.mkdir(exist_ok=True)
    for old in watched.iterdir():
        old.unlink()
    for number, batch in enumerate(batches, start=1):
        shutil.copyfile(batch, watched / batch.name)
        path, manifest = refreshed(store, watched, recipe)
        assert (manifest["version"], manifest["base"]) == (number, number - 1)
    return path, manifest


def all_at_once(
    root: Path, watched: Path, batches: list[Path], recipe: CurationRecipe | None = None
) -> tuple[Path, dict[str, Any]]:
    shutil.rmtree(watched, ignore_errors=True)
    watched.mkdir()
    for batch in batches:
        shutil.copyfile(batch, watched / batch.name)
    return refreshed(Store.open(root), watched, recipe)


def ledger_of(path: Path) -> list[dict[str, Any]]:
    """The ledger but for what tells of history: the last version that published a superseded document."""
    return [{key: value for key, value in row.items() if key != "detail"} for row in rows(path, "ledger")]


def test_five_refreshes_in_three_orders_equal_one_big_run(batches: list[Path], tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    whole, expected = all_at_once(tmp_path / "whole", watched, batches)
    assert {*expected["removed"]} == {"url_dedup", "exact_dedup", "near_dedup"}
    moved: Counter[str] = Counter()
    for index, order in enumerate(([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1])):
        path, manifest = in_order(tmp_path / str(index), watched, [batches[number] for number in order])
        for name in ("digest", "records_in", "documents_kept", "removed", "clusters", "text_bytes"):
            assert manifest[name] == expected[name], name
        assert ledger_of(path) == ledger_of(whole)
        for bucket in buckets(4):
            for kind in ("documents", "originals", "index", "keys"):
                part = bucket.part(kind)
                assert (path / part).read_bytes() == (whole / part).read_bytes(), part
        for version in range(1, NUM_BATCHES + 1):
            facts = json.loads((path.parent / str(version) / "manifest.json").read_bytes())
            moved.update({name: facts[name] for name in ("superseded", "revived")})
    assert moved["superseded"] > 10 and moved["revived"] > 1, moved  # or the orders have tried nothing


@pytest.mark.parametrize(
    "config",
    [
        Deduplication(order="longest", min_jaccard=0.6),
        Deduplication(min_jaccard=0, canonical_url=False, minhash=MinHash(num_bands=20, rows_per_band=5)),
    ],
    ids=["longest_first", "bands_alone"],
)
def test_with_other_settings_too(config: Deduplication, batches: list[Path], tmp_path: Path) -> None:
    watched, recipe = tmp_path / "watched", small_recipe(deduplication=config, num_buckets=2)
    whole, expected = all_at_once(tmp_path / "whole", watched, batches, recipe)
    path, manifest = in_order(tmp_path / "parts", watched, list(reversed(batches)), recipe)
    assert manifest["digest"] == expected["digest"] and ledger_of(path) == ledger_of(whole)


def test_what_was_taken_down_stays_so_when_everything_is_made_again_in_other_buckets(tmp_path: Path) -> None:
    store, watched = Store.open(tmp_path / "store"), tmp_path / "watched"
    date = "2024-05-01T00:00:00Z"
    pages = [{"text": prose(index), "url": f"https://a{index}.example/", "date": date} for index in range(6)]
    write_rows(watched / "1.jsonl", pages)
    first, _ = refreshed(store, watched)
    gone = {row["url"]: row["record_id"] for row in rows(first, "ledger")}["https://a3.example/"]
    rule = TombstoneRule(kind="url", value="https://a3.example/")
    make_version(Refresh.takedown(store, "web", Tombstones(rules=(rule,)), {gone: "cluster"}), InProcessMap())

    write_rows(watched / "2.jsonl", [{"text": prose(3), "url": "https://mirror.example/", "date": date}])
    onto, manifest = refreshed(store, watched)
    assert manifest["base"] == 2
    again, manifest = refreshed(store, watched, small_recipe(num_buckets=2))
    assert manifest["base"] == 0 and manifest["removed"]["takedown"] == {"taken_down": 1, "taken_down_copy": 1}
    assert ledger_of(again) == ledger_of(onto)
    (watched / "1.jsonl").unlink()  # with the page itself gone, its copy is still recognised
    replaced, manifest = refreshed(store, watched, small_recipe(num_buckets=8), replace=True)
    assert (manifest["records_in"], manifest["documents_kept"]) == (1, 0)
    assert [(row["reason"], row["survivor_id"]) for row in rows(replaced, "ledger")] == [("taken_down_copy", gone)]


def test_a_run_that_ended_before_the_manifest_of_the_components_takes_them_over(tmp_path: Path) -> None:
    store, source = Store.open(tmp_path / "store"), write_rows(tmp_path / "1.jsonl", tangled_pages()[:30])
    refresh = Refresh.plan(store, "web", [str(source)], small_recipe())
    screened = screen(refresh, InProcessMap())
    expected = merge(refresh, screened, InProcessMap())
    folder = refresh.stages["components"].directory(store.work)
    found = (folder / "components").stat().st_ino
    decisions = [file.read_bytes() for file in expected.dedup.decisions]
    for stage in ("components", "members", "resolve"):
        (refresh.stages[stage].directory(store.work) / "manifest.json").unlink()
    (folder / ".tmp-components-killed").mkdir()
    again = merge(refresh, screened, InProcessMap())
    assert [file.read_bytes() for file in again.dedup.decisions] == decisions
    assert (folder / "components").stat().st_ino == found and not (folder / ".tmp-components-killed").exists()


def test_an_index_that_is_as_it_was_is_linked_with_nothing_touched(tmp_path: Path) -> None:
    store, watched = Store.open(tmp_path / "store"), tmp_path / "watched"
    write_rows(watched / "1.jsonl", tangled_pages()[:20])
    before, _ = refreshed(store, watched)
    write_rows(watched / "2.jsonl", [{"text": prose("new"), "url": "https://new.example/", "date": ""}])
    refresh = Refresh.plan(store, "web", [str(watched)], small_recipe())
    merged = merge(refresh, screen(refresh, InProcessMap()), InProcessMap())
    touched = [len(np.load(shard / TOUCHED_FILE)) for shard in merged.dedup.index.shards]
    assert sorted(touched) == [0, 0, 0, 1]
    for bucket, shard, num_touched in zip(buckets(4), merged.dedup.index.shards, touched, strict=True):
        for kind, name in {"index": INDEX_FILE, "keys": KEYS_FILE}.items():
            assert (shard / name).samefile(before / bucket.part(kind)) == (num_touched == 0)
    assert merged.dedup.resolved.report.records_in == 0  # it resembles nothing: nothing is decided anew
