"""Real pages through the command, and every odd archive there is through the stages."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastwarc.warc import ArchiveIterator

from tasks.recipes.curation import fineweb
from tests.data.prose import page, prose, warc_record
from tests.integration.running import assert_adds_up, succeeded, table, tokenmill
from tests.tasks.test_curation import refresh_in_process, rows

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
PAGES, GOLD = DATA / "web" / "pages.warc.gz", DATA / "web" / "pages.gold.jsonl.gz"
ARCHIVES = sorted(path for path in (DATA / "warc").glob("*/*") if path.is_file())
WITHOUT_RECORDS = {"example-digest.warc"}  # requests only: nothing that could be a page
NUM_PAGES, MIN_KEPT, MIN_WORD_F1 = 500, 250, 0.85

verified = [pytest.mark.verify, pytest.mark.timeout(1200)]
needs_data = pytest.mark.skipif(not PAGES.is_file(), reason="real pages are looked for in ../shared/data: not there")


def word_f1(found: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over the multisets of lower-cased words."""
    have, want = (Counter(re.findall(r"\w+", text.lower())) for text in (found, wanted))
    common = (have & want).total()
    return 2 * common / (have.total() + want.total()) if common else 0.0


def split_at_members(source: Path, folder: Path, num_files: int) -> Path:
    """The same gzip members, dealt out to several files."""
    folder.mkdir()
    content = source.read_bytes()
    with source.open("rb") as file:
        starts = [record.stream_pos for record in ArchiveIterator(file)]
    assert starts[0] == 0 and all(content[start : start + 2] == b"\x1f\x8b" for start in starts)
    members = [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]
    assert len(members) >= num_files
    for index in range(num_files):
        (folder / f"part-{index}.warc.gz").write_bytes(b"".join(members[index::num_files]))
    return folder


def refresh(source: Path, store: Path, cwd: Path, *options: str) -> dict[str, Any]:
    done = tokenmill(
        "refresh",
        "--source",
        str(source),
        "--name",
        "web",
        *options,
        "--json",
        store=store,
        cwd=cwd,
        timeout_s=600,
    )
    return {**succeeded(done), "printed": done.stdout}


def test_word_f1_is_exact() -> None:
    assert word_f1("A b, b c", "a B d") == pytest.approx(2 * 2 / (4 + 3))
    assert word_f1("one", "two") == 0.0 and word_f1("Same words", "same WORDS") == 1.0


def test_splitting_loses_no_record(tmp_path: Path) -> None:
    members = [gzip.compress(warc_record(f"https://a.example/{index}", page(prose(index)))) for index in range(6)]
    whole = tmp_path / "whole.warc.gz"
    whole.write_bytes(b"".join(members))
    parts = split_at_members(whole, tmp_path / "parts", 4)
    assert [len(file.read_bytes()) for file in sorted(parts.iterdir())] == [
        sum(len(member) for member in members[index::4]) for index in range(4)
    ]
    one, several = (refresh_in_process(tmp_path / name, source)[1] for name, source in (("a", whole), ("b", parts)))
    assert one["digest"] == several["digest"] and one["records_in"] == 6


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("web")
    return folder, refresh(PAGES, folder / "store", folder)


class TestRealPages:
    pytestmark: ClassVar = [*verified, needs_data]

    def test_every_page_is_accounted_for(self, web: tuple[Path, dict[str, Any]]) -> None:
        _, result = web
        assert_adds_up(result, NUM_PAGES)
        assert result["documents_kept"] >= MIN_KEPT

    def test_the_text_is_the_one_that_people_marked(self, web: tuple[Path, dict[str, Any]]) -> None:
        _, result = web
        with gzip.open(GOLD, "rt", encoding="utf-8") as file:
            wanted = {entry["url"]: entry["main_content"] for entry in map(json.loads, file)}
        scores = [word_f1(row["text"], wanted[row["url"]]) for row in table(Path(result["path"]), "documents")]
        assert sum(scores) / len(scores) >= MIN_WORD_F1

    def test_a_second_run_changes_nothing(self, web: tuple[Path, dict[str, Any]]) -> None:
        folder, result = web
        before = {path: path.stat().st_mtime_ns for path in (folder / "store" / "work").rglob("*")}
        again = refresh(PAGES, folder / "store", folder)
        assert (again["digest"], again["changed"]) == (result["digest"], False)
        assert "no change" in again["printed"]
        assert {path: path.stat().st_mtime_ns for path in (folder / "store" / "work").rglob("*")} == before

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_the_digest_does_not_depend_on_the_workers(
        self, web: tuple[Path, dict[str, Any]], num_workers: int, tmp_path: Path
    ) -> None:
        again = refresh(PAGES, tmp_path / "store", tmp_path, "--workers", str(num_workers))
        assert again["digest"] == web[1]["digest"] and again["changed"]

    def test_the_digest_does_not_depend_on_the_files(self, web: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
        parts = split_at_members(PAGES, tmp_path / PAGES.name.split(".")[0], 4)
        again = refresh(parts, tmp_path / "store", tmp_path)
        assert (again["digest"], again["removed"]) == (web[1]["digest"], web[1]["removed"])


@pytest.mark.verify
@needs_data
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_odd_archive_is_accounted_for(archive: Path, tmp_path: Path) -> None:
    if archive.name in WITHOUT_RECORDS:
        with pytest.raises(ValueError, match="no records"):
            refresh_in_process(tmp_path / "store", archive, fineweb())
        return
    path, manifest, outputs = refresh_in_process(tmp_path / "store", archive, fineweb())
    ledger, documents = rows(path, "ledger"), rows(path, "documents")
    counted = outputs["inventory"].report.records_in
    assert counted == outputs["read"].report.records_in == manifest["records_in"] == len(ledger) > 0
    assert len({row["record_id"] for row in ledger}) == counted
    kept = {row["record_id"] for row in ledger if row["outcome"] == "kept"}
    assert {row["document_id"] for row in documents} == kept
    assert all(row["text"].strip() and row["text"].encode() for row in documents)


def test_a_source_without_any_record_is_refused_in_one_line(tmp_path: Path) -> None:
    """The small twin: a file of rows that has none."""
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ValueError, match="no records"):
        refresh_in_process(tmp_path / "store", empty)
    assert not list((tmp_path / "store").glob("corpora/*/*"))
