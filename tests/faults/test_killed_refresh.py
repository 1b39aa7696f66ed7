"""A refresh killed in every one of its stages: nothing of it lives on, nothing is half-published, little is redone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tasks.recipes.curation import fineweb
from tests.data.prose import corpus_members
from tests.integration.running import assert_adds_up, kill, started, succeeded, tokenmill
from tests.tasks.test_curation import refresh_in_process

STAGES = (
    "inventory",
    "read",
    "extract",
    "language",
    "quality",
    "toxicity",
    "gather_runs",
    "gather",
    "index",
    "edges",
    "components",
    "members",
    "resolve",
    "settle",
    "publish",
)
START_TIMEOUT_S = 120


def write_source(folder: Path, num_pages: int, num_files: int = 10) -> Path:
    """Several files, so that the inventory too has several shards."""
    folder.mkdir()
    members = corpus_members(num_pages)
    for index in range(num_files):
        (folder / f"part-{index}.warc.gz").write_bytes(b"".join(members[index::num_files]))
    return folder


def refresh_arguments(source: Path, shard_records: int) -> list[str]:
    shards = f"shard_records={shard_records}"
    return ["refresh", "--source", str(source), "--name", "web", "--set", shards, "--json"]


def caught_in(store: Path, stage: str) -> str:
    """Where the run stands in `stage`: "" not there yet, "started", "between shards" or "done"."""
    folder = store / "work" / stage
    runs = [path for path in folder.glob("[!.]*") if path.name != "shards"]  # beside them lie their locks
    if not runs:
        return ""
    if any((run / "manifest.json").exists() for run in runs):
        return "done"
    return "between shards" if any(folder.glob("*/[!.]*/report.json")) else "started"


def finished_shards(store: Path) -> dict[Path, tuple[int, int]]:
    """Every complete shard with the inode and the time of its report, which a second computation would change."""
    return {
        report.parent: (report.stat().st_ino, report.stat().st_mtime_ns)
        for report in store.glob("work/*/*/[!.]*/report.json")
    }


def killed_in(stage: str, arguments: list[str], store: Path, cwd: Path, *, everything: bool) -> str:
    """Start the refresh and kill it in `stage`; where exactly that was."""
    # one shard, or none: nothing to be caught between
    wanted = {"started", "between shards", "done"} if stage in ("edges", "components") else {"between shards", "done"}
    with started(*arguments, store=store, cwd=cwd) as process:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (place := caught_in(store, stage)) not in wanted:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, f"{stage} was not reached"
            time.sleep(0.001)
        kill(process, store, everything=everything)
    return place


def assert_kept(before: dict[Path, tuple[int, int]], store: Path) -> None:
    after = finished_shards(store)
    assert {shard: after.get(shard) for shard in before} == before, "a finished shard was computed again"


def reference(arguments: list[str], tmp_path: Path) -> dict[str, Any]:
    return succeeded(tokenmill(*arguments, store=tmp_path / "undisturbed", cwd=tmp_path))


@pytest.mark.verify
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("everything", [False, True], ids=["the_command", "everything_at_once"])
def test_killed_in_every_stage_one_after_the_other(everything: bool, tmp_path: Path) -> None:
    source, store = write_source(tmp_path / "source", 300), tmp_path / "store"
    arguments = refresh_arguments(source, 16)
    expected = reference(arguments, tmp_path)
    before: dict[Path, tuple[int, int]] = {}
    places = {}
    for stage in STAGES:
        places[stage] = killed_in(stage, arguments, store, tmp_path, everything=everything)
        assert not list(store.glob("corpora/*/*/manifest.json")), f"published although killed in {stage}"
        assert_kept(before, store)
        before = finished_shards(store)
    print("killed", places)
    caught = [stage for stage, place in places.items() if place == "between shards"]
    assert len(caught) >= len(STAGES) // 2, places
    result = succeeded(tokenmill(*arguments, store=store, cwd=tmp_path))
    assert_kept(before, store)
    assert (result["digest"], result["removed"]) == (expected["digest"], expected["removed"])
    assert_adds_up(result, 300)
    assert not list(store.glob("work/*/*/.tmp-*")) and not list(store.glob("corpora/*/.tmp-*"))


def test_killed_while_extracting(tmp_path: Path) -> None:
    source, store = write_source(tmp_path / "source", 60, num_files=1), tmp_path / "store"
    arguments = refresh_arguments(source, 4)
    killed_in("extract", arguments, store, tmp_path, everything=False)
    assert not list(store.glob("corpora/*/*/manifest.json"))
    before = finished_shards(store)
    assert any(shard.parts[-3] == "extract" for shard in before)
    result = succeeded(tokenmill(*arguments, store=store, cwd=tmp_path))
    assert_kept(before, store)
    assert_adds_up(result, 60)
    _, undisturbed, _ = refresh_in_process(tmp_path / "undisturbed", source, fineweb())
    assert result["digest"] == undisturbed["digest"]
