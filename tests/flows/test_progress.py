"""What is said of a stage's progress, when it is sent, and that the work never waits for it or fails with it."""

from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import pytest

import flows.progress
from flows.progress import Meter, Progress, duration


def meter(**changes: object) -> Meter:
    values = {"stage": "extract", "started_s": 100.0, "first_done": 0, "first_records": 0, "total": 120}
    return Meter(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"done": 0, "latest_s": 100.0}, "0 of 120 shards"),
        ({"done": 40, "records": 4000, "latest_s": 140.0}, "40 of 120 shards, 100 pages/s, 1 min 20 s left"),
        ({"done": 120, "records": 12000, "latest_s": 220.0}, "120 of 120 shards, 100 pages/s, done in 2 min 0 s"),
        # 80 shards of an earlier run are no speed of this one
        (
            {"first_done": 80, "first_records": 8000, "done": 100, "records": 9000, "latest_s": 110.0},
            "100 of 120 shards, 100 pages/s, 10 s left",
        ),
        ({"first_done": 120, "done": 120, "latest_s": 100.0}, "120 shards, all from an earlier run"),
        (
            {"stage": "train", "done": 30, "total": 60, "latest_s": 130.0, "note": "loss 3.121, 20,412 tokens/s"},
            "30 of 60 steps, loss 3.121, 20,412 tokens/s, 30 s left",
        ),
        ({"total": 0, "latest_s": 100.0}, "0 shards, all from an earlier run"),
    ],
)
def test_description(state: dict[str, object], text: str) -> None:
    assert meter(**state).description() == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3720, "1 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Server:
    """Notes what would have been sent to Prefect, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created: list[str] = []
        self.sent: list[tuple[float, float, str]] = []
        self.error: Exception | None = None
        monkeypatch.setattr(flows.progress, "create_progress_artifact", self.create)
        monkeypatch.setattr(flows.progress, "update_progress_artifact", self.update)
        monkeypatch.setattr(flows.progress, "get_run_logger", lambda: flows.progress.logging.getLogger("test"))

    def create(self, *, progress: float, key: str, description: str) -> UUID:
        self.created.append(key)
        self._note(progress, description)
        return uuid4()

    def update(self, artifact_id: UUID, *, progress: float, description: str) -> None:
        self._note(progress, description)

    def _note(self, progress: float, description: str) -> None:
        self.sent.append((time.monotonic(), progress, description))
        if self.error is not None:
            raise self.error


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_many_reports_are_few_calls_and_the_last_one_is_always_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.progress, "SEND_INTERVAL_S", 0.2)
    progress = Progress()
    started = time.monotonic()
    with progress.shown_in_flow_run():
        for done in range(1001):
            progress("bits_per_byte", done, 1000)
            time.sleep(0.0005)
    seconds = time.monotonic() - started
    assert server.created == ["progress-bits-per-byte"]  # Prefect's keys have no underscores
    assert len(server.sent) <= 3 + seconds / 0.2
    assert server.sent[-1][1] == 100.0
    gaps = [later[0] - earlier[0] for earlier, later in zip(server.sent[:-2], server.sent[1:-1], strict=True)]
    assert all(gap >= 0.19 for gap in gaps)


def test_a_report_from_another_thread_reaches_the_run_that_is_open(server: Server) -> None:
    progress = Progress()
    with progress.shown_in_flow_run():
        thread = threading.Thread(target=progress, args=("train", 5, 10), kwargs={"note": "loss 3.1"})
        thread.start()
        thread.join()
    assert server.sent[-1][1:] == (50.0, "5 of 10 steps, loss 3.1")


def test_a_server_that_fails_costs_the_work_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.error = ConnectionError("no server")
    progress = Progress()
    with progress.shown_in_flow_run():
        progress("extract", 1, 1)
    assert "could not be shown" in caplog.text


def test_a_server_that_hangs_does_not_hold_a_finished_flow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(flows.progress, "create_progress_artifact", lambda **_: never.wait(30))
    monkeypatch.setattr(flows.progress, "_LAST_SEND_TIMEOUT_S", 0.3)
    progress = Progress()
    started = time.monotonic()
    with progress.shown_in_flow_run():
        progress("extract", 1, 2)
    assert time.monotonic() - started < 5
    never.set()


def test_an_inner_flow_shows_its_own_and_the_outer_one_goes_on(server: Server) -> None:
    progress = Progress()
    with progress.shown_in_flow_run():
        progress("collect", 1, 2)
        with progress.shown_in_flow_run():
            progress("collect", 3, 3)
        progress("collect", 2, 2)
    assert server.created == ["progress-collect"] * 2
    assert server.sent[-1][1] == 100.0


def test_without_a_flow_run_nothing_is_sent(server: Server) -> None:
    Progress()("extract", 1, 2)
    assert server.sent == []
