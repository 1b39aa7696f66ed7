"""A small model behind HTTP in a thread of the test's process, at a free port."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import torch

from infra.completion_app import Served
from infra.completion_server import CompletionServer, address_of, bound_socket
from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.completions import CompletionService
from tasks.generation import TextGenerator

MODEL = "small@1"
COMPLETIONS = "/v1/completions"
ENDLESS: dict[str, Any] = {"model": MODEL, "prompt": "The", "temperature": 0, "max_tokens": 1900}
"""Takes a second or more; the likeliest token of a random network is never the end of a document."""
LONG = 2000  # positions of `with_long_context`'s network


def with_long_context(small: TextGenerator) -> TextGenerator:
    """A random network for texts that take a while, with the tokenizer of a small model."""
    torch.manual_seed(0)
    shape = {**small.state.decoder, "max_seq_len": LONG}
    return replace(small, model=Decoder(DecoderConfig.from_dict(shape)).eval())


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    address: str
    service: CompletionService
    server: CompletionServer
    thread: threading.Thread


@contextmanager
def running(
    generator: TextGenerator,
    *,
    max_rows: int = 4,
    max_queue: int = 16,
    max_tokens: int = LONG,
    max_body_bytes: int = 1 << 16,
    body_timeout_s: float = 30.0,
    api_key: str | None = None,
) -> Iterator[Running]:
    """Until the end of the block, or until the test has stopped it."""
    bound = bound_socket("127.0.0.1", 0)
    service = CompletionService(generator, max_rows=max_rows, max_queue=max_queue)
    served = Served(
        generator=generator,
        service=service,
        names=[MODEL, "models:/small@champion"],
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        body_timeout_s=body_timeout_s,
        api_key=api_key,
    )
    ready = threading.Event()
    server = CompletionServer(served, ready.set)
    address = address_of(bound)
    thread = threading.Thread(target=server.serve_at, args=[bound])
    thread.start()
    try:
        assert ready.wait(30)
        yield Running(address, service, server, thread)
    finally:
        server.stop()
        server.stop()
        thread.join(30)
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and "Traceback" not in response.text
    assert len(error["message"]) <= 400
    return error


def connected(server: Running) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(*more: str) -> bytes:
    lines = [f"POST {COMPLETIONS} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def posted(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return head(f"Content-Length: {len(content)}") + content


def peek(connection: socket.socket) -> bytes:
    """What has come by now."""
    connection.setblocking(False)
    try:
        return connection.recv(65536)
    except BlockingIOError:
        return b""
    finally:
        connection.settimeout(30)
