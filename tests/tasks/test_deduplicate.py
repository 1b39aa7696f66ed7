"""Incremental deduplication, through the whole chain: whatever came first, the same version comes out."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.bucket import buckets
from tasks.curation import make_version
from tasks.ports import InProcessMap
from tasks.recipes.curation import CurationRecipe
from tasks.refresh import Refresh
from tasks.store import Store
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


def in_order(root: Path, watched: Path, batches: list[Path]) -> tuple[Path, dict[str, Any]]:
    """The version after a refresh for each batch; `watched` is the same folder for every order."""
    store = Store.open(root)
    watched.mkdir(exist_ok=True)
    for old in watched.iterdir():
        old.unlink()
    for number, batch in enumerate(batches, start=1):
        shutil.copyfile(batch, watched / batch.name)
        path, manifest = refreshed(store, watched)
        assert (manifest["version"], manifest["base"]) == (number, number - 1)
    return path, manifest


def all_at_once(root: Path, watched: Path, batches: list[Path]) -> tuple[Path, dict[str, Any]]:
    shutil.rmtree(watched, ignore_errors=True)
    watched.mkdir()
    for batch in batches:
        shutil.copyfile(batch, watched / batch.name)
    return refreshed(Store.open(root), watched)


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
