"""A run of the command line beside `tokenmill up`: cancelled on Prefect's page, and interrupted by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.prose import prose
from tests.integration.running import environment
from tests.integration.serving import Served, request, served

STOPPED_TIMEOUT_S = 40


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("up")) as found:
        yield found


def running(up: Served, name: str) -> dict[str, Any] | None:
    """The flow run `name`, once its extraction is under way."""
    found = request(up.prefect, "POST", "/api/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
    return found[0] if found and "progress-extract" in up.artifacts(found[0]["id"]) else None


@pytest.mark.verify
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["page", "signal"])
def test_it_ends_as_cancelled_in_both_histories(up: Served, tmp_path: Path, how: str) -> None:
    source = tmp_path / "many.jsonl"
    source.write_text("".join(json.dumps({"text": prose(index, 200)}) + "\n" for index in range(6000)))
    arguments = ["refresh", "--name", how, "--source", str(source), "--store", str(up.store)]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "tokenmill"), *arguments],
        env=environment(TOKENMILL_STORE=str(up.store)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run = up.wait(lambda: running(up, f"refresh {how}"), "the command's run does not begin")
        if how == "page":
            request(up.prefect, "POST", f"/api/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        else:
            os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=STOPPED_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130 and "interrupted; run the same command again" in errors
    up.ended(run["id"], "CANCELLED")
    assert up.tracked(run["id"])["info"]["status"] == "KILLED"
