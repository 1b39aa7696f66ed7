"""An estimate says what would be done, does none of it, and is not far off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.estimate import (
    BYTES_PER_RECORD,
    SECONDS_PER_RECORD,
    estimate_refresh,
    num_records_at,
)
from tasks.read.limits import ReadLimits
from tasks.refresh import Refresh
from tasks.refresh_stages import SCREENING
from tasks.source_names import EMBEDDED
from tasks.stages import stage_directory
from tasks.store import Store
from tests.data.prose import corpus_members
from tests.tasks.test_curation import refresh_in_process, small_recipe


def everything(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """A folder whose one file has been published, and to which a second has come."""
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "one.warc.gz").write_bytes(b"".join(corpus_members(20)))
    refresh_in_process(tmp_path / "store", folder)
    (folder / "two.warc.gz").write_bytes(b"".join(corpus_members(30)[20:]))
    return folder


def estimated(tmp_path: Path, source: str | Path, **options: Any) -> dict[str, Any]:
    store = Store.open(tmp_path / "store")
    before = everything(store.root)
    estimate = estimate_refresh(store, "small", [str(source)], options.pop("recipe", small_recipe()), **options)
    assert everything(store.root) == before, "an estimate wrote something"
    return estimate


def test_what_is_new_is_told_and_what_is_kept(watched: Path, tmp_path: Path) -> None:
    estimate = estimated(tmp_path, watched)
    sizes = {file.name: file.stat().st_size for file in watched.iterdir()}
    assert (estimate["corpus"], estimate["changed"], estimate["based_on"]) == ("small@2", True, "small@1")
    assert [estimate[f"{kind}_files"] for kind in ("known", "new", "waiting", "ignored")] == [1, 1, 0, 0]
    assert (estimate["known_bytes"], estimate["new_bytes"]) == (sizes["one.warc.gz"], sizes["two.warc.gz"])
    assert estimate["reused_stages"] == list(SCREENING)
    assert estimate["estimated_new_records"] == pytest.approx(10, abs=2)
    assert estimate["estimated_seconds"] == pytest.approx(sum(estimate["stage_seconds"].values()), abs=1)
    _, manifest, outputs = refresh_in_process(tmp_path / "store", watched)
    assert manifest["version"] == 2 and manifest["mode"] == estimate["mode"] == "onto small@1"
    assert all(outputs[name].manifest["computed"]["shards"] == 1 for name in SCREENING)


def test_onto_a_version_no_work_on_the_known_files_is_needed(watched: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store" / "work")
    onto = estimated(tmp_path, watched)
    assert onto["reused_stages"] == list(SCREENING)
    again = estimated(tmp_path, watched, recipe=small_recipe(toxicity_rules=()))
    assert again["reused_stages"] == [] and again["mode"] == "everything again: the toxicity rules changed"
    assert again["stage_seconds"]["extract"] >= 2 * onto["stage_seconds"]["extract"] > 0


def test_made_again_what_was_screened_in_any_earlier_run_is_kept(watched: Path, tmp_path: Path) -> None:
    refresh_in_process(tmp_path / "store", watched)
    again = estimated(tmp_path, watched, recipe=small_recipe(toxicity_rules=()))
    assert again["reused_stages"] == list(SCREENING[:5]) and again["new_files"] == 0
    first = Store.open(tmp_path / "store").corpus_manifest("small@1")["fingerprints"]["quality"]
    shutil.rmtree(stage_directory(tmp_path / "store" / "work", "quality", first))
    assert estimated(tmp_path, watched, recipe=small_recipe(toxicity_rules=()))["reused_stages"] == list(SCREENING[:4])


def test_a_stage_sees_new_records_or_all_or_those_of_changed_buckets() -> None:
    figures = [num_records_at(stage, 10, 10_000, 256) for stage in ("extract", "index", "edges", "settle", "publish")]
    assert figures[:3] == [10, 10, 10_010]
    assert 0 < figures[3] == figures[4] < 10 / 256 * 10_010
    assert num_records_at("settle", 10_000, 10_000, 256) == pytest.approx(20_000)
    assert num_records_at("settle", 0, 10_000, 256) == 0
    assert num_records_at("settle", 10, 0, 1) == 10


def test_no_change_costs_nothing(watched: Path, tmp_path: Path) -> None:
    estimate = estimated(tmp_path, watched / "one.warc.gz")
    assert (estimate["corpus"], estimate["changed"], estimate["estimated_seconds"]) == ("small@1", False, 0)
    assert estimate["reused_stages"] == list(
        Refresh.plan(Store.open(tmp_path / "store"), "small", [str(watched)], small_recipe()).stages
    )


def test_a_changed_setting_costs_its_stage_and_what_follows(watched: Path, tmp_path: Path) -> None:
    recipe = small_recipe(toxicity_rules=())
    estimate = estimated(tmp_path, watched / "one.warc.gz", recipe=recipe)
    assert estimate["changed"] and estimate["reused_stages"] == list(SCREENING[:5])
    assert estimate["stage_seconds"]["extract"] == 0
    _, _, outputs = refresh_in_process(tmp_path / "store", watched / "one.warc.gz", recipe)
    assert [name for name, output in outputs.items() if output.reused] == list(SCREENING[:5])


def test_without_a_version_before_constants_are_taken(tmp_path: Path) -> None:
    (tmp_path / "pages.warc.gz").write_bytes(b"".join(corpus_members(20)))
    (tmp_path / "notes.md").touch()
    one, two = (estimated(tmp_path, tmp_path, workers=workers) for workers in (1, 2))
    records = round((tmp_path / "pages.warc.gz").stat().st_size / BYTES_PER_RECORD)
    assert (one["estimated_new_records"], one["ignored_files"]) == (records, 1)
    assert one["stage_seconds"]["extract"] == pytest.approx(records * SECONDS_PER_RECORD["extract"], abs=0.06)
    assert two["estimated_seconds"] == pytest.approx(one["estimated_seconds"] / 2, abs=0.06)
    assert one["based_on"] == "measured constants"
    pages = estimated(tmp_path, f"{EMBEDDED}:40")
    assert pages["pages_to_write"] == pages["estimated_new_records"] == 40 and pages["changed"]


def test_it_refuses_what_the_refresh_would_refuse(watched: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        estimated(tmp_path, watched / "nothing.jsonl")
    (watched / "one.warc.gz").unlink()
    with pytest.raises(ValueError, match="give it back"):
        estimated(tmp_path, watched, recipe=small_recipe(reading=ReadLimits(max_page_bytes=1_000_000)))
