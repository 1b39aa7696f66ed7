"""`tokenmill serve` as a process: what it says, who may ask, and how it ends."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from flows.arguments import parser
from flows.serve_command import serve
from tasks.store import Store
from tests.flows.long_model import long_model

KEY = "of-this-test-0123456789"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return long_model(tmp_path_factory.mktemp("model"))


def refused(tmp_path: Path, *words: str) -> None:
    serve(parser().parse_args(["serve", "--model", "never-looked-for", *words]), Store.open(tmp_path))


def test_an_address_that_others_can_reach_must_be_meant_and_needs_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKENMILL_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0: others can reach this address; say --allow-remote"):
        refused(tmp_path, "--host", "0.0.0.0")
    with pytest.raises(ValueError, match="set TOKENMILL_API_KEY to a key"):
        refused(tmp_path, "--host", "0.0.0.0", "--allow-remote")
    monkeypatch.setenv("TOKENMILL_API_KEY", "short")
    with pytest.raises(ValueError, match="TOKENMILL_API_KEY must be at least 16") as error:
        refused(tmp_path)
    assert "short" not in str(error.value)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENMILL_API_KEY", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port}, can not be served: Address already in use"):
            refused(tmp_path, "--port", str(port))


@pytest.mark.parametrize(
    "wrong", [("--port", "65536"), ("--port", "-1"), ("--max-rows", "0"), ("--max-queue", "-1"), ("--max-tokens", "0")]
)
def test_numbers_that_can_not_be_are_refused(
    tmp_path: Path, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        refused(tmp_path, "=".join(wrong))
    assert f"argument {wrong[0]}: '{wrong[1]}' is" in capsys.readouterr().err


@contextmanager
def served(
    tmp_path: Path, checkpoint: Path, *words: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The line that the process says, and the process, which the test may end."""
    command = [sys.executable, "-P", "-m", "flows.cli", "serve", "--store", str(tmp_path / "store"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(checkpoint), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**{name: value for name, value in os.environ.items() if name != "TOKENMILL_API_KEY"}, **environment},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline(), process
    finally:
        process.kill()
        process.wait()


@pytest.mark.verify
def test_one_line_with_a_call_that_works_and_a_clean_end_within_a_stream(tmp_path: Path, checkpoint: Path) -> None:
    with served(tmp_path, checkpoint) as (line, process):
        name, _, rest = line.partition(" at ")
        address, _, call = rest.partition("/v1  (Ctrl-C ends): ")
        assert name == checkpoint.name and str(tmp_path) not in line
        answer = subprocess.run([*shlex.split(call), "--silent"], capture_output=True, text=True, timeout=60)
        assert '"object":"text_completion"' in answer.stdout, answer
        with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(model=name, prompt="The", max_tokens=15_000, temperature=0, stream=True)
            next(iter(stream))
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            with pytest.raises(openai.APIError, match="the server is stopping"):
                for _ in stream:
                    pass
        assert process.wait(30) == 0 and time.monotonic() - begin < 15
        assert process.stderr is not None and process.stderr.read() == ""


@pytest.mark.verify
def test_a_second_signal_ends_it_at_once_and_a_key_is_asked_for_and_never_told(
    tmp_path: Path, checkpoint: Path
) -> None:
    with served(tmp_path, checkpoint, TOKENMILL_API_KEY=KEY) as (line, process):
        address = line.partition(" at ")[2].partition("/v1 ")[0]
        assert "Bearer $TOKENMILL_API_KEY" in line and KEY not in line
        assert httpx.get(f"{address}/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
        body = {"model": checkpoint.name, "prompt": "The", "max_tokens": 15_000, "temperature": 0, "stream": True}
        with httpx.stream(
            "POST", f"{address}/v1/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
        ) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            assert "the server is stopping" in list(lines)[-2] and time.monotonic() - begin < 4
        assert process.wait(30) == 0
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.read() + process.stderr.read()
        assert said == "", said
