"""What becomes of a document when a version is built onto its own: superseded, back again, taken down, as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.bucket import buckets
from tasks.curation import make_version
from tasks.dedup.resolve import DECISIONS
from tasks.ports import InProcessMap
from tasks.refresh import Refresh
from tasks.settle import LedgerError, settled_ledger, with_details
from tasks.store import Store
from tasks.tables import EDITS, LEDGER, ORIGINALS
from tasks.tombstones import TombstoneRule, Tombstones
from tests.data.prose import prose
from tests.tasks.test_curation import rows
from tests.tasks.test_deduplicate import refreshed, sentences, write_rows, written


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def page(name: str, text: str, day: int) -> dict[str, str]:
    return {"text": text, "url": f"https://{name}.example/", "date": f"2024-05-{day:02d}T00:00:00Z"}


def ids_of(path: Path) -> dict[str, str]:
    """Record id by the name of the page."""
    return {row["url"].split("/")[2].split(".")[0]: row["record_id"] for row in rows(path, "ledger")}


def state(path: Path, name: str) -> dict[str, Any]:
    """The ledger row of a page."""
    return next(row for row in rows(path, "ledger") if row["url"] == f"https://{name}.example/")


def texts(path: Path, kind: str) -> dict[str, str]:
    return {row["url"].split("/")[2].split(".")[0]: row["text"] for row in rows(path, kind)}


def chain() -> tuple[str, str, str]:
    """Three texts of which the second resembles both others, which do not resemble each other enough."""
    parts = sentences("chain")
    second = sentences("second", 3) + parts[3:]
    third = second[:-3] + sentences("third", 3)
    return written(parts), written(second), written(third)


def test_a_published_document_gives_way_to_an_earlier_one_and_what_it_stood_for_comes_back(
    store: Store, tmp_path: Path
) -> None:
    first, second, third = chain()
    watched = tmp_path / "watched"
    write_rows(watched / "1.jsonl", [page("second", second, 2), page("third", third, 3), page("other", prose(1), 4)])
    before, manifest = refreshed(store, watched)
    assert texts(before, "documents").keys() == {"second", "other"} and texts(before, "originals") == {"third": third}
    assert manifest["removed"] == {"near_dedup": {"near_duplicate": 1}}

    write_rows(watched / "2.jsonl", [page("first", first, 1)])
    after, manifest = refreshed(store, watched)
    ids = ids_of(after)
    assert (manifest["base"], manifest["superseded"], manifest["revived"], manifest["taken_down"]) == (1, 1, 1, 0)
    assert texts(after, "documents") == {"first": first, "third": third, "other": prose(1)}
    assert texts(after, "originals") == {"second": second}
    gone = state(after, "second")
    assert (gone["outcome"], gone["stage"], gone["reason"]) == ("removed", "near_dedup", "near_duplicate")
    assert gone["survivor_id"] == ids["first"] and gone["value"] >= gone["threshold"] == 0.7
    assert gone["detail"] == "published up to version 1, superseded"
    back = state(after, "third")
    assert (back["outcome"], back["stage"]) == ("kept", "publish")
    assert {back[name] for name in ("reason", "value", "threshold", "survivor_id", "detail")} == {None}
    assert [row for row in rows(after, "edits") if row["kind"] == "superseded"] == [
        {
            "document_id": ids["second"],
            "stage": "near_dedup",
            "rule": "deduplicate",
            "kind": "superseded",
            "reason": "superseded",
            "start": 0,
            "removed": "",
            "replacement": ids["first"],
        }
    ]
    sizes = {row["document_id"]: row["cluster_size"] for row in rows(after, "documents")}
    assert sizes == {ids["first"]: 2, ids["third"]: 1, ids["other"]: 1}

    write_rows(watched / "3.jsonl", [page("copy", first, 9)])
    later, manifest = refreshed(store, watched)  # what was superseded stays so, and says so
    assert state(later, "second") == gone and (manifest["superseded"], manifest["revived"]) == (0, 0)
    assert {row["document_id"]: row["cluster_size"] for row in rows(later, "documents")} == sizes | {ids["first"]: 3}


def taken_down(store: Store, *rules: TombstoneRule, newly: dict[str, str]) -> tuple[Path, dict[str, Any]]:
    return make_version(Refresh.takedown(store, "web", Tombstones(rules=rules), newly), InProcessMap())


def test_a_cluster_that_is_taken_down_leaves_no_text_and_never_returns(store: Store, tmp_path: Path) -> None:
    first, second, third = chain()
    watched = tmp_path / "watched"
    cookie = f"{first}\nThis site uses cookies and has a privacy policy."
    write_rows(watched / "1.jsonl", [page("first", cookie, 1), page("second", second, 2), page("other", prose(1), 4)])
    before, _ = refreshed(store, watched)
    ids = ids_of(before)
    assert ids["first"] in {row["document_id"] for row in rows(before, "edits")}
    rule = TombstoneRule(kind="url", value="https://first.example/", date="2026-01-01T00:00:00Z")
    path, manifest = taken_down(store, rule, newly={ids["first"]: "cluster", ids["second"]: "cluster"})
    assert (manifest["taken_down"], manifest["removed"]) == (2, {"takedown": {"taken_down": 2}})
    assert texts(path, "documents").keys() == {"other"} and texts(path, "originals") == {}
    assert rows(path, "edits") == []
    for name, detail in {"first": "published up to version 1, taken down", "second": None}.items():
        row = state(path, name)
        assert (row["outcome"], row["stage"], row["reason"]) == ("removed", "takedown", "taken_down")
        assert (row["survivor_id"], row["detail"]) == (None, detail)

    again = [page("first", prose(2), 5), page("mirror", second, 6), page("third", third, 7), page("fresh", prose(3), 8)]
    write_rows(watched / "2.jsonl", again)
    path, manifest = refreshed(store, watched)
    assert manifest["taken_down"] == 0 and manifest["base"] == 2
    # the same address; the same text elsewhere; what resembles a text that is nowhere any more
    assert texts(path, "documents").keys() == {"other", "fresh"} and texts(path, "originals") == {}
    assert state(path, "mirror")["survivor_id"] == ids["second"]
    assert state(path, "mirror")["reason"] == state(path, "third")["reason"] == "taken_down_copy"

    write_rows(watched / "3.jsonl", [page("late", third, 9)])
    path, _ = refreshed(store, watched)  # decided together with a document whose text was not kept
    assert state(path, "late")["reason"] == "taken_down_copy"


def test_a_document_alone_can_be_taken_down_and_what_it_stood_for_comes_back(store: Store, tmp_path: Path) -> None:
    first, second, _ = chain()
    watched = tmp_path / "watched"
    write_rows(watched / "1.jsonl", [page("first", first, 1), page("second", second, 2)])
    before, _ = refreshed(store, watched)
    ids = ids_of(before)
    rule = TombstoneRule(kind="url", value="https://first.example/", scope="document")
    path, manifest = taken_down(store, rule, newly={ids["first"]: "document"})
    assert texts(path, "documents") == {"second": second} and texts(path, "originals") == {}
    assert (manifest["taken_down"], manifest["revived"]) == (1, 1)


def test_edits_of_a_screened_out_record_go_with_its_domain(store: Store, tmp_path: Path) -> None:
    """A rule took something out of it, and a later one dropped it: that piece is text of the domain, too."""
    repeated = prose("line", 1)
    text = f"{prose('gone')}\n{repeated}\n{repeated}\nThis site uses cookies and has a privacy policy."
    watched = tmp_path / "watched"
    write_rows(watched / "1.jsonl", [page("gone", text, 1), page("other", prose(1), 2)])
    before, _ = refreshed(store, watched)
    assert state(before, "gone")["stage"] == "quality" and rows(before, "edits")
    path, _ = taken_down(store, TombstoneRule(kind="domain", value="gone.example"), newly={})
    assert rows(path, "edits") == [] and state(path, "gone") == state(before, "gone")


def test_buckets_that_nothing_new_concerns_are_the_same_files(store: Store, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    write_rows(watched / "1.jsonl", [page(f"old{index}", prose(index), 1) for index in range(40)])
    before, first = refreshed(store, watched)
    assert (first["parts_linked"], first["parts_written"]) == (0, 6 * 4)
    write_rows(watched / "2.jsonl", [page("new", prose("new"), 2)])
    after, second = refreshed(store, watched)
    new = ids_of(after)["new"]
    touched = [bucket for bucket in buckets(4) if bucket.bounds()[0] <= new < bucket.bounds()[1]]
    written_kinds = {"documents", "ledger", "index", "keys"}  # no originals and no edits came
    paths = {path for bucket in touched for path in bucket.paths()}
    changed = {path for path in paths if not (after / path).samefile(before / path)}
    assert changed == {touched[0].part(kind) for kind in written_kinds}
    for bucket in set(buckets(4)) - set(touched):
        assert all((after / path).samefile(before / path) for path in bucket.paths())
    assert (second["parts_linked"], second["parts_written"]) == (6 * 4 - 4, 4)
    before_parts = {part["path"]: part for part in first["parts"]}
    assert all(part == before_parts[part["path"]] for part in second["parts"] if part["path"] not in changed)


def ledger_rows(*entries: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(LEDGER.names) | entry for entry in entries], schema=LEDGER)


KEPT = {"stage": "publish", "outcome": "kept"}


def decided(**entry: Any) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(DECISIONS.names) | entry], schema=DECISIONS)


def test_a_record_with_two_ledger_rows_is_a_fault() -> None:
    before, new = (ledger_rows({"record_id": "a-0", **KEPT}) for _ in range(2))
    with pytest.raises(LedgerError, match="more than one ledger row"):
        settled_ledger(before, new, DECISIONS.empty_table())


def test_a_decision_on_nothing_is_a_fault_unless_it_was_taken_down_long_ago() -> None:
    ledger = ledger_rows({"record_id": "a-0", **KEPT})
    none = LEDGER.empty_table()
    gone = decided(document_id="b-0", kept=False, stage="takedown", reason="taken_down")
    assert settled_ledger(none, ledger, gone).equals(ledger)
    with pytest.raises(LedgerError, match="1 documents were decided on that are in no ledger row"):
        settled_ledger(none, ledger, decided(document_id="b-0", kept=True, survivor_id="b-0", cluster_size=1))


def test_details_name_the_last_version_that_published_the_document() -> None:
    early = "published up to version 2, superseded"
    before = ledger_rows(
        {"record_id": "a-0", **KEPT},
        {"record_id": "b-0", "stage": "near_dedup", "outcome": "removed", "detail": early},
        {"record_id": "c-0", "stage": "near_dedup", "outcome": "removed", "detail": early},
        {"record_id": "d-0", "stage": "quality", "outcome": "removed", "detail": "a word"},
        {"record_id": "e-0", **KEPT},
    )
    removed = {"stage": "exact_dedup", "outcome": "removed"}
    now = ledger_rows(
        {"record_id": "a-0", **removed},
        {"record_id": "b-0", **removed},
        {"record_id": "c-0", **KEPT},
        {"record_id": "d-0", "stage": "quality", "outcome": "removed", "detail": "a word"},
        {"record_id": "e-0", "stage": "takedown", "outcome": "removed"},
        {"record_id": "f-0", **removed},
    )
    assert with_details(now, before, 5)["detail"].to_pylist() == [
        "published up to version 5, superseded",
        early,
        None,
        "a word",
        "published up to version 5, taken down",
        None,
    ]


def test_the_tables_are_sorted_and_of_their_schemas(store: Store, tmp_path: Path) -> None:
    copies = [(f"{name}{day}", text, day) for day in (1, 2, 3) for name, text in zip("abc", chain(), strict=True)]
    pages = [page(*each) for each in copies]
    path, _ = refreshed(store, write_rows(tmp_path / "pages.jsonl", pages))
    for kind, schema in {"ledger": LEDGER, "originals": ORIGINALS, "edits": EDITS}.items():
        for part in (path / kind).iterdir():
            table = pq.read_table(part)
            assert table.schema.equals(schema)
            keys = table[table.column_names[0]].to_pylist()
            assert keys == sorted(keys)
    assert len(rows(path, "originals")) + len(rows(path, "documents")) == 9
