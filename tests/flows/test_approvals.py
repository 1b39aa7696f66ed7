"""A person is asked on a real Prefect server, and answers over its API as the page does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.approvals import check_approvable
from tests.flows.prefect_server import PrefectServer
from tests.integration.running import wait_until

_ASKING = """
import sys
from pathlib import Path
from prefect import flow
import flows.approvals

if len(sys.argv) > 3:
    flows.approvals.TIMEOUT_S = int(sys.argv[3])

@flow(name="asking", flow_run_name=sys.argv[1])
def asking():
    try:
        note = flows.approvals.ask("Train it?", "It takes **an hour**.")
    except flows.approvals.NotApproved as refusal:
        Path(sys.argv[2]).write_text(f"no: {refusal}")
    else:
        Path(sys.argv[2]).write_text(f"yes: {note}")

asking()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


def paused(server: PrefectServer, name: str, process: subprocess.Popen[bytes]) -> str:
    """Id of the run, once it waits for its answer."""
    wait_until(lambda: server.state(name)[0] == "PAUSED" or process.poll() is not None, 60, "the run does not pause")
    run = server.flow_run(name)
    assert run is not None and run["state"]["type"] == "PAUSED"
    return str(run["id"])


@pytest.mark.verify
@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("approved", {"approve": True, "note": "go"}, "yes: go"),
        ("refused", {"approve": False, "note": "too dear"}, "no: Train it?: refused: too dear"),
        ("untouched", {}, "no: Train it?: refused"),
    ],
)
def test_the_answer_is_what_the_flow_gets(
    server: PrefectServer, tmp_path: Path, name: str, answer: dict[str, object], said: str
) -> None:
    process = server.run(_ASKING, name, str(tmp_path / "said"))
    try:
        run_id = paused(server, name, process)
        keys = server.request("POST", f"/flow_runs/{run_id}/input/filter", {"prefix": "paused-train-it", "limit": 9})
        shown = {entry["key"].rpartition("-")[2]: entry["value"] for entry in keys}
        assert "It takes **an hour**." in shown["description"]
        assert '"Approve"' in shown["schema"]
        answered = server.request("POST", f"/flow_runs/{run_id}/resume", {"run_input": answer})
        assert answered["status"] == "ACCEPT"
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert (tmp_path / "said").read_text() == said
    assert server.state(name)[0] == "COMPLETED"


@pytest.mark.verify
def test_no_answer_is_a_no(server: PrefectServer, tmp_path: Path) -> None:
    process = server.run(_ASKING, "silence", str(tmp_path / "said"), "5")
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert (tmp_path / "said").read_text().startswith("no: Train it?: nobody answered within")


def test_without_a_server_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(ValueError, match="no server shows it: use `tokenmill up`"):
        check_approvable()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    check_approvable()
