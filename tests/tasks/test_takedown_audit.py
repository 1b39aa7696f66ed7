"""The record of a takedown: what is begun is known until it is ended, and what is written stays."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.store import Store
from tasks.takedown_audit import intents, new_audit_id, now_utc, operator, write_audit, write_intent


def test_what_is_begun_is_known_until_it_is_ended(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert intents(store) == {}
    write_intent(store, "20260102T000000Z-b", {"who": "second"})
    write_intent(store, "20260101T000000Z-a", {"who": "first"})
    write_intent(store, "20260101T000000Z-a", {"who": "first", "found": {}})
    assert list(intents(store)) == ["20260101T000000Z-a", "20260102T000000Z-b"]
    assert intents(store)["20260101T000000Z-a"] == {"who": "first", "found": {}}
    file = write_audit(store, "20260101T000000Z-a", {"done": True})
    assert json.loads(file.read_bytes()) == {"done": True} and list(intents(store)) == ["20260102T000000Z-b"]


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    """Killed after the record and before the end of the intent: it is ended, and the record stays."""
    store = Store.open(tmp_path)
    write_intent(store, "a", {})
    file = write_audit(store, "a", {"done": 1})
    write_intent(store, "a", {})
    assert intents(store) == {}
    assert write_audit(store, "a", {"done": 2}) == file and json.loads(file.read_bytes()) == {"done": 1}
    assert list(store.audit.iterdir()) == [file]


def test_ids_are_apart_and_sort_by_time() -> None:
    ids = {new_audit_id() for _ in range(100)}
    assert len(ids) == 100 and all(one[:16].replace("T", "").strip("Z").isdecimal() for one in ids)
    assert operator() and now_utc().endswith("Z")
