"""The automations on a real server: made once, kept as the operator leaves them, mended where what they name is gone;
and a failure told to a real webhook.

One server for the whole file, started as `tokenmill up` starts it: the services that evaluate triggers run in it.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.automations import (
    CRASH_SILENT_RUNS,
    NOTIFICATION_BLOCK,
    NOTIFY_VARIABLE,
    PRETRAIN_ON_PUBLISH,
    TELL_ABOUT_FAILURES,
    register_automations,
)
from flows.events import corpus_published

pytestmark = [pytest.mark.verify, pytest.mark.timeout(300)]
PAGE = "http://127.0.0.1:4200"
FLOW = "answers_a_published_corpus"


@flow(name=FLOW, persist_result=False)
def answering(corpus: str = "docs", steps: int = 1) -> None:
    """Stands for pretraining: only what the automation and the deployment give to a run is looked at."""


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_UI_URL", PAGE)  # for the server, which derives it from its own address as a rule
        with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as opened:
            yield opened


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Any:
    """A deployment whose `steps` an operator has set to 7; nothing serves it."""
    return answering.to_deployment(f"d-{uuid4().hex[:6]}", parameters={"corpus": "docs", "steps": 7}).apply()


class Webhook(http.server.BaseHTTPRequestHandler):
    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []
    handler = type("Handler", (Webhook,), {"received": received})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook?token=very-secret", received
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_automations_left(client: SyncPrefectClient) -> Iterator[None]:
    yield
    for automation in client.read_automations():
        client.delete_automation(automation.id)
    for block in client.read_block_documents():
        client.delete_block_document(block.id)


def by_name(client: SyncPrefectClient) -> dict[str, Any]:
    return {automation.name: automation for automation in client.read_automations()}


def wait_for(found: Any, timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def test_made_once_and_then_the_operators(client: SyncPrefectClient, deployment: Any) -> None:
    assert set(register_automations(client, [FLOW], deployment)) == {CRASH_SILENT_RUNS, PRETRAIN_ON_PUBLISH}
    made = by_name(client)
    assert made[CRASH_SILENT_RUNS].enabled and not made[PRETRAIN_ON_PUBLISH].enabled  # nothing trains unasked

    client.resume_automation(made[PRETRAIN_ON_PUBLISH].id)
    client.pause_automation(made[CRASH_SILENT_RUNS].id)
    assert register_automations(client, [FLOW], deployment) == []
    kept = by_name(client)
    assert len(kept) == 2
    assert not kept[CRASH_SILENT_RUNS].enabled and kept[PRETRAIN_ON_PUBLISH].enabled


def test_a_deployment_that_is_gone_is_replaced_and_the_switch_stays(client: SyncPrefectClient, deployment: Any) -> None:
    register_automations(client, [FLOW], deployment)
    client.resume_automation(by_name(client)[PRETRAIN_ON_PUBLISH].id)
    client.delete_deployment(deployment)
    other = answering.to_deployment("other").apply()
    assert register_automations(client, [FLOW], other) == [PRETRAIN_ON_PUBLISH]
    mended = by_name(client)[PRETRAIN_ON_PUBLISH]
    assert mended.enabled and mended.actions[0].deployment_id == other


def test_a_published_corpus_starts_the_deployment_with_the_operators_parameters(
    client: SyncPrefectClient, deployment: Any
) -> None:
    register_automations(client, [FLOW], deployment)
    client.resume_automation(by_name(client)[PRETRAIN_ON_PUBLISH].id)
    time.sleep(3)  # the server's trigger service hears of the change
    result = {"corpus": "web@3", "documents_kept": 5, "estimated_tokens": 900, "new_estimated_tokens": 400}
    with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
        corpus_published(result)
        EventsWorker.instance().wait_until_empty()

    def started() -> list[Any]:
        return [run for run in client.read_flow_runs() if run.deployment_id == deployment]

    (run,) = wait_for(started)
    assert run.parameters == {"corpus": "web@3", "steps": 7}


def test_a_failed_run_is_told_to_the_webhook_as_plain_text(
    client: SyncPrefectClient, deployment: Any, webhook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = webhook
    monkeypatch.setenv(NOTIFY_VARIABLE, address)
    assert TELL_ABOUT_FAILURES in register_automations(client, [FLOW], deployment)
    stored = [block for block in client.read_block_documents(include_secrets=False) if block.name == NOTIFICATION_BLOCK]
    assert len(stored) == 1 and "very-secret" not in stored[0].model_dump_json()
    assert TELL_ABOUT_FAILURES not in register_automations(client, [FLOW], deployment)
    time.sleep(3)

    @flow(name=FLOW, flow_run_name="refresh <b>web</b>", persist_result=False)
    def failing() -> None:
        raise ValueError('no "records" in a.warc: <script>alert(1)</script> {{ flow.name }} @everyone [x](http://x)')

    @flow(name="of somebody else", persist_result=False)
    def foreign() -> None:
        raise ValueError("not ours")

    for each in (foreign, failing):
        assert each(return_state=True).is_failed()
    wait_for(lambda: received)
    time.sleep(3)  # for a second one, which must not come
    (told,) = received
    text = told["text"]
    assert told["subject"] == "Tokenmill: refresh ‹b›web‹/b› Failed"
    assert text.splitlines()[:3] == [f"Flow: {FLOW}", "Run: refresh ‹b›web‹/b›", "State: Failed"]
    assert '"records" in a.warc' in text and "{{ flow.name }}" in text
    assert "<" not in text and "@everyone" not in text and "](" not in text
    (run,) = [run for run in client.read_flow_runs() if run.name == "refresh <b>web</b>"]
    assert text.splitlines()[-1] == f"Page: {PAGE}/runs/flow-run/{run.id}"


def test_the_operators_own_block_is_used(client: SyncPrefectClient, deployment: Any, webhook: Any) -> None:
    assert TELL_ABOUT_FAILURES not in register_automations(client, [FLOW], deployment)  # nobody to tell
    block = CustomWebhookNotificationBlock(name="mine", url=webhook[0], json_data={"text": "{{body}}"})
    document_id = block.save(NOTIFICATION_BLOCK)
    assert register_automations(client, [FLOW], deployment) == [TELL_ABOUT_FAILURES]
    assert by_name(client)[TELL_ABOUT_FAILURES].actions[0].block_document_id == document_id


def test_a_run_whose_heartbeat_stops_is_crashed_and_one_that_ended_is_not(
    client: SyncPrefectClient, deployment: Any
) -> None:
    """The rule itself, in seconds instead of minutes; the whole story is in tests/integration/test_operations.py."""
    register_automations(client, [FLOW], deployment)
    known = by_name(client)[CRASH_SILENT_RUNS]
    quick = known.trigger.model_copy(update={"within": known.trigger.within / 9})  # the server's least is 10 s
    body = known.model_dump(exclude={"id"}) | {"trigger": quick}
    client.delete_automation(known.id)
    client.create_automation(type(known).__mro__[1].model_validate(body))
    time.sleep(3)
    silent, ended = (client.create_flow_run(answering) for _ in range(2))
    from prefect.states import Completed, Running

    for run in (silent, ended):
        client.set_flow_run_state(run.id, Running())
        related = [
            {"prefect.resource.id": f"prefect.flow.{run.flow_id}", "prefect.resource.role": "flow"}
            | {"prefect.resource.name": FLOW}
        ]
        with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
            resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
            emit_event("prefect.flow-run.heartbeat", resource=resource, related=related)
    EventsWorker.instance().wait_until_empty()
    client.set_flow_run_state(ended.id, Completed())
    wait_for(lambda: client.read_flow_run(silent.id).state.is_crashed())
    assert "No heartbeat" in (client.read_flow_run(silent.id).state.message or "")
    time.sleep(5)
    assert client.read_flow_run(ended.id).state.is_completed()
