"""A real Prefect server for tests of what flows say to it, and programs that run against it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration.running import environment, wait_until

SERVER_TIMEOUT_S = 120.0


class PrefectServer:
    """`prefect server start` on a free port of 127.0.0.1, with all it writes in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.variables = environment(
            PREFECT_HOME=str(folder / "prefect"),
            PREFECT_API_URL=f"http://127.0.0.1:{self.port}/api",
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
            PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="ERROR",
            DO_NOT_TRACK="true",
            TOKENMILL_STORE=str(folder / "store"),
        )
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with (folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(command, env=self.variables, stdout=output, stderr=output)
        wait_until(self._answers, SERVER_TIMEOUT_S, "the server does not answer")

    def _answers(self) -> bool:
        try:
            return bool(self.request("GET", "/health"))
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer of Prefect's API; HTTPError for a refusal."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read() or b"null")

    def flow_run(self, name: str) -> dict[str, Any] | None:
        """The flow run of this name, where it has begun."""
        runs: list[dict[str, Any]] = self.request(
            "POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}}
        )
        return runs[0] if runs else None

    def state(self, name: str) -> tuple[str, str, str]:
        """Type, name and message of the state of the flow run of this name; empty before it has begun."""
        run = self.flow_run(name)
        state = run["state"] if run else {"type": "", "name": "", "message": ""}
        return state["type"], state["name"], state["message"] or ""

    def run(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """A Python program against this server."""
        command = [sys.executable, "-P", "-c", program, *arguments]
        return subprocess.Popen(command, env=self.variables | variables, cwd=self.folder)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
