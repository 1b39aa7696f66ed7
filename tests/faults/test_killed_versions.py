"""A refresh onto a version, killed twenty times at random moments: it ends as the one that nothing disturbed."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.recipes.curation import fineweb
from tasks.store import Store
from tests.integration.running import assert_adds_up, kill, started, succeeded, table, tokenmill, wait_until
from tests.tasks.test_curation import refresh_in_process
from tests.tasks.test_deduplicate import tangled_pages, write_rows

NUM_KILLS, SEED = 20, 20261122
NUM_FILES = 6
SHARD_RECORDS = 8
MAX_WAIT_S, MAX_DELAY_S = 2.0, 0.1
START_TIMEOUT_S = 240


def write_crawls(folder: Path, numbers: range) -> None:
    """Files of pages that copy and resemble each other's; later ones hold pages of earlier dates."""
    pages = tangled_pages()
    for number in numbers:
        write_rows(folder / f"{number}.jsonl", pages[number::NUM_FILES])


def arguments(source: Path) -> list[str]:
    shards = f"shard_records={SHARD_RECORDS}"
    return ["refresh", "--source", str(source), "--name", "web", "--set", shards, "--json"]


def num_finished_shards(store: Path) -> int:
    return sum(1 for _ in store.glob("work/*/*/[!.]*/report.json"))


def contents(version: Path) -> dict[str, bytes]:
    return {str(file.relative_to(version)): file.read_bytes() for file in version.rglob("*") if file.is_file()}


def killed_at(num_shards: int, chance: random.Random, store: Path, source: Path, cwd: Path) -> int:
    """Start the refresh and kill it a moment after `num_shards` shards are there; how many were there in the end.

    Where they are there from the beginning, the kill falls into the planning, or while Ray starts.
    """
    max_delay_s = MAX_WAIT_S if num_finished_shards(store) >= num_shards else MAX_DELAY_S
    with started(*arguments(source), store=store, cwd=cwd) as process:

        def is_there() -> bool:
            assert process.poll() is None, process.stderr and process.stderr.read()
            return Store(store).is_locked("corpus-web") and num_finished_shards(store) >= num_shards

        wait_until(is_there, START_TIMEOUT_S, f"shard {num_shards} was not reached", poll_s=0.005)
        time.sleep(chance.uniform(0, max_delay_s))
        assert process.poll() is None, "the run ended before it was killed"
        kill(process, store, everything=chance.random() < 0.5)
    return num_finished_shards(store)


def made(store: Path, source: Path, cwd: Path) -> dict[str, Any]:
    return succeeded(tokenmill(*arguments(source), store=store, cwd=cwd))


@pytest.mark.verify
@pytest.mark.timeout(1600)
def test_a_refresh_onto_a_version_killed_twenty_times(tmp_path: Path) -> None:
    source, store, undisturbed = tmp_path / "crawls", tmp_path / "store", tmp_path / "undisturbed"
    write_crawls(source, range(NUM_FILES // 2))
    assert made(undisturbed, source, tmp_path)["digest"] == made(store, source, tmp_path)["digest"]
    first, before = contents(store / "corpora" / "web" / "1"), num_finished_shards(store)
    write_crawls(source, range(NUM_FILES // 2, NUM_FILES))
    expected = made(undisturbed, source, tmp_path)
    num_shards = num_finished_shards(undisturbed) - before
    assert num_shards > NUM_KILLS

    chance = random.Random(SEED)
    moments = sorted(chance.uniform(0, 0.9 * num_shards) for _ in range(NUM_KILLS))
    stood = [before]
    for moment in moments:
        reached = killed_at(before + int(moment), chance, store, source, tmp_path)
        assert Store(store).versions("web") == [1], f"published although killed at shard {reached}"
        assert reached >= stood[-1], "finished shards were lost"
        stood.append(reached)
    print("killed at shards", [number - before for number in stood[1:]], "of", num_shards)
    assert len(set(stood)) > NUM_KILLS // 2  # at many different places

    result = made(store, source, tmp_path)
    assert (result["corpus"], result["changed"], result["new_files"]) == ("web@2", True, NUM_FILES - NUM_FILES // 2)
    assert (result["digest"], result["removed"]) == (expected["digest"], expected["removed"])
    assert_adds_up(result, len(tangled_pages()))
    for kind in ("documents", "originals", "ledger", "edits"):
        assert table(Path(result["path"]), kind) == table(Path(expected["path"]), kind), kind
    assert contents(store / "corpora" / "web" / "1") == first  # of which much is linked
    assert not list(store.glob("work/*/*/.tmp-*")) and not list(store.glob("corpora/*/.tmp-*"))

    _, whole, _ = refresh_in_process(tmp_path / "whole", source, fineweb())
    assert whole["digest"] == result["digest"]
