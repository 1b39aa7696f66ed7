"""The registered model behind `mlflow models serve --env-manager local`: it answers as `tokenmill generate` does."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.mlflow_tracker import tracked_run
from infra.registry import register_model
from tasks.store import Store
from tests.infra.small_model import CORPUS_DIGEST, small_model
from tests.integration.running import environment, tokenmill
from tests.integration.serving import free_port

READY_TIMEOUT_S = 240
STOP_TIMEOUT_S = 20
PROMPTS = ["The old harbour", "a b  c é 日本", "<|end_of_text|> spelled out"]


def registered(folder: Path) -> Store:
    """A store with a champion, `served@1`."""
    store = Store.open(folder)
    (store.root / "mlflow" / "artifacts").mkdir(parents=True)
    checkpoint, tokenizer = small_model(store.root / "trained")
    with tracked_run(store, "pretrain served", tags={}) as tracker:
        tracker.dataset("web@3", CORPUS_DIGEST, store.root, context="training")
        tags = {"corpus": "web@3", "corpus_digest": CORPUS_DIGEST, "tokens": "/elsewhere", "run_dir": "/elsewhere"}
        reference = register_model(
            store,
            tracker,
            name="served",
            checkpoint=checkpoint,
            tokenizer_file=tokenizer,
            tags=tags,
            description="A model.",
            step=2,
        )
    assert reference == "served@1"
    return store


def asked(port: int, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and content of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            method, path, body if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def ready(port: int) -> bool:
    try:
        return asked(port, "GET", "/ping")[0] == 200
    except OSError:
        return False


@contextmanager
def served(store: Store, uri: str, cwd: Path) -> Iterator[int]:
    """The port of MLflow's own server of this model. However the block ends, no process of it is left."""
    port = free_port()
    log = cwd / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            cwd=cwd,
            env=environment(
                MLFLOW_TRACKING_URI=f"sqlite:///{store.root / 'mlflow' / 'mlflow.db'}",
                PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                OMP_NUM_THREADS="1",
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.25)
        yield port
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """All that the command has started: its server is a process of its own, in the same group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline and alive(process.pid):
            process.poll()
            time.sleep(0.1)
    process.wait(timeout=STOP_TIMEOUT_S)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.verify
def test_it_answers_as_the_command_does(tmp_path: Path) -> None:
    store = registered(tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with served(store, "models:/served@champion", tmp_path / "empty") as port:
        for seed, temperature in ((3, 0.8), (0, 0.0)):
            params = {"max_new_tokens": 10, "temperature": temperature, "top_k": 20, "seed": seed}
            status, content = asked(port, "POST", "/invocations", {"inputs": PROMPTS, "params": params})
            assert status == 200, content
            continuations = json.loads(content)["predictions"]
            said = tokenmill(
                *("generate", "--model", "served@champion", "--json", "--max-tokens", "10", "--top-k", "20"),
                *("--temperature", str(temperature), "--seed", str(seed)),
                *(word for prompt in PROMPTS for word in ("--prompt", prompt)),
                store=store.root,
                cwd=tmp_path / "empty",
            )
            assert said.returncode == 0, said.stderr
            answers = json.loads(said.stdout.splitlines()[-1])["answers"]
            assert [answer["continuation"] for answer in answers] == continuations
            assert any(continuations)

        too_long = {"inputs": ["word " * 200], "params": {"max_new_tokens": 10}}
        for wrong in (too_long, {"inputs": ["a"], "params": {"temperature": -1.0}}, {"inputs": {"a": 1}}, {"other": 1}):
            status, content = asked(port, "POST", "/invocations", wrong)
            assert 400 <= status < 600, content
        assert asked(port, "GET", "/ping")[0] == 200  # and it is still there
    assert not ready(port)
