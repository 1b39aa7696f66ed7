"""Paragraphs that an earlier document has, through the whole chain: texts, ledger, edits, originals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.bucket import buckets
from tasks.dedup.config import Deduplication
from tasks.store import Store
from tasks.tombstones import TombstoneRule
from tests.data.prose import prose
from tests.tasks.test_curation import rows, small_recipe
from tests.tasks.test_deduplicate import ledger_of, refreshed, write_rows
from tests.tasks.test_settle import ids_of, page, state, taken_down, texts

RECIPE = small_recipe(deduplication=Deduplication(min_paragraph_chars=60))


def paragraphs(seed: str, number: int = 6) -> list[str]:
    return prose(seed, 4 * number).split("\n")


def text_of(*lines: str) -> str:
    return "\n".join(lines)


@pytest.fixture
def pages() -> list[dict[str, str]]:
    """A first page; one with two of its paragraphs; one that is nothing but paragraphs of both; a copy of the first."""
    first, second = paragraphs("first"), paragraphs("second")
    return [
        page("first", text_of(*first), 1),
        page("second", text_of(second[0], first[1], *second[1:4], first[4]), 2),
        page("nothing", text_of(*second[1:4], *first[:3]), 3),
        page("copy", text_of(*first), 4),
    ]


def test_repeated_paragraphs_go_and_every_table_says_so(pages: list[dict[str, str]], tmp_path: Path) -> None:
    path, manifest = refreshed(Store.open(tmp_path / "store"), write_rows(tmp_path / "1.jsonl", pages), RECIPE)
    whole, ids = {row["url"].split("/")[2].split(".")[0]: row["text"] for row in pages}, ids_of(path)
    documents = texts(path, "documents")
    second = paragraphs("second")
    assert documents == {"first": whole["first"], "second": text_of(*second[:4])}
    assert texts(path, "originals") == {name: whole[name] for name in ("second", "nothing", "copy")}
    gone = state(path, "nothing")
    assert (gone["stage"], gone["reason"], gone["survivor_id"]) == (
        "paragraph_dedup",
        "all_paragraphs_repeated",
        ids["second"],
    )
    assert manifest["removed"] == {
        "exact_dedup": {"exact_duplicate": 1},
        "paragraph_dedup": {"all_paragraphs_repeated": 1},
    }
    edits = [row for row in rows(path, "edits") if row["stage"] == "paragraph_dedup"]
    assert {row["document_id"] for row in edits} == {ids["second"]} and len(edits) == 2
    rebuilt = whole["second"]
    for edit in sorted(edits, key=lambda row: -row["start"]):
        end = edit["start"] + len(edit["removed"])
        assert rebuilt[edit["start"] : end] == edit["removed"]
        rebuilt = rebuilt[: edit["start"]] + rebuilt[end:]
    assert rebuilt == documents["second"]


def test_the_order_of_arrival_does_not_matter_and_unchanged_files_are_linked(
    pages: list[dict[str, str]], tmp_path: Path
) -> None:
    alone = [page(f"alone{index}", prose(f"alone {index}"), 5) for index in range(8)]
    files = [write_rows(tmp_path / "batches" / f"{index}.jsonl", [each]) for index, each in enumerate(pages)]
    files.append(write_rows(tmp_path / "batches" / "9.jsonl", alone))
    watched = tmp_path / "watched"
    results: list[tuple[Path, dict[str, Any]]] = []
    for number, order in enumerate(([4, 0, 1, 2, 3], [3, 2, 1, 0, 4])):
        shutil.rmtree(watched, ignore_errors=True)
        watched.mkdir()
        for index in order:
            shutil.copyfile(files[index], watched / files[index].name)
            latest = refreshed(Store.open(tmp_path / str(number)), watched, RECIPE)
        results.append(latest)
    whole = refreshed(Store.open(tmp_path / "whole"), watched, RECIPE)
    for path, manifest in results:
        assert manifest["digest"] == whole[1]["digest"] and manifest["removed"] == whole[1]["removed"]
        assert ledger_of(path) == ledger_of(whole[0])
        for bucket in buckets(4):
            for kind in ("documents", "originals"):
                assert (path / bucket.part(kind)).read_bytes() == (whole[0] / bucket.part(kind)).read_bytes()
    first_order = results[0][1]  # its last batch is a copy, which changes few files
    assert first_order["parts_linked"] > 0 and first_order["parts_linked"] + first_order["parts_written"] == 24
    early = [row["detail"] for row in rows(results[1][0], "ledger") if row["stage"] == "paragraph_dedup"]
    assert early == ["published up to version 3, superseded"]  # until all of its paragraphs had come


def test_paragraphs_come_back_when_the_document_that_had_them_is_taken_down(
    pages: list[dict[str, str]], tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "store")
    before, _ = refreshed(store, write_rows(tmp_path / "1.jsonl", pages), RECIPE)
    ids = ids_of(before)
    rule = TombstoneRule(kind="url", value="https://second.example/")
    path, manifest = taken_down(store, rule, newly={ids["second"]: "cluster"})
    second = paragraphs("second")
    assert texts(path, "documents")["nothing"] == text_of(*second[1:4])  # those of the first page are still repeated
    assert (manifest["revived"], manifest["taken_down"]) == (1, 1)
    assert "second" not in texts(path, "originals")
    assert not any(row["document_id"] == ids["second"] for row in rows(path, "edits"))
