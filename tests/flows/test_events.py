"""The event of a published version, as Prefect's own client for tests receives it. What it starts is in
test_automations.py, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.events import corpus_published
from tasks.store import Store


def test_the_event_names_the_very_version_and_comes_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    AssertingEventsClient.reset()
    worker = EventsWorker.instance(AssertingEventsClient)
    monkeypatch.setattr(EventsWorker, "instance", lambda *_: worker)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        store = Store.open(tmp_path)
        (store.corpora / "web").mkdir(parents=True)
        result = {"corpus": "web@12", "documents_kept": 5, "estimated_tokens": 900, "new_estimated_tokens": 400}
        for _ in range(2):  # published, and found again without a change
            corpus_published(store, result)
        worker.drain()
    (event,) = [event for client in AssertingEventsClient.all for event in client.events]
    assert event.event == "tokenmill.corpus.published"
    assert event.resource.id == "tokenmill.corpus.web"
    assert event.payload == {
        "corpus": "web@12",
        "name": "web",
        "version": 12,
        "documents": 5,
        "estimated_tokens": 900,
        "new_estimated_tokens": 400,
    }
