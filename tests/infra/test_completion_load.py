"""The server of a model under clients that are many, slow, gone, or no clients at all; and how it ends."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import openai
import pytest

from tasks.generation import TextGenerator
from tests.infra.running_server import (
    COMPLETIONS,
    ENDLESS,
    MODEL,
    Running,
    connected,
    error_of,
    head,
    peek,
    posted,
    running,
    wait_until,
    with_long_context,
)
from tests.infra.small_model import small_model


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    return with_long_context(TextGenerator.load(*small_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def server(generator: TextGenerator) -> Iterator[Running]:
    with running(generator) as server:
        yield server


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none is needed", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_is_left_behind(server: Running) -> Iterator[None]:
    """Whatever a test has done to it, the server is idle and well afterwards."""
    yield
    wait_until(lambda: server.service.num_running == server.service.num_waiting == 0)
    assert server.service.available


def test_a_body_of_the_limit_and_one_byte_more(http: httpx.Client, server: Running) -> None:
    limit = 1 << 16
    start, end = b'{"model": "other", "prompt": "', b'"}'
    for num_bytes, status in ((limit, 404), (limit + 1, 413)):
        body = start + b"a" * (num_bytes - len(start) - len(end)) + end
        for content in (body, iter([body])):  # with its length in a header, and in chunks
            response = http.post(COMPLETIONS, content=content, headers={"content-type": "application/json"})
            error_of(response, status)


def test_a_body_that_goes_on_for_ever_is_cut_off(server: Running) -> None:
    with closing(connected(server)) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(b"1000\r\n" + b"a" * 4096 + b"\r\n")
                time.sleep(0.001)
                if b" 413 " in (received := peek(connection)):
                    raise ConnectionError(received)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(server: Running, stream: bool) -> None:
    with closing(connected(server)) as connection:
        connection.sendall(posted({**ENDLESS, "stream": stream, "n": 3}))
        wait_until(lambda: server.service.num_running == 3)
        if stream:
            assert b"data: {" in connection.recv(65536) + connection.recv(65536)
    before = time.monotonic()
    wait_until(lambda: server.service.num_running == 0)
    assert time.monotonic() - before < 2


def test_a_client_that_goes_away_while_it_waits_frees_its_place(server: Running) -> None:
    with closing(connected(server)) as first, closing(connected(server)) as second:
        first.sendall(posted({**ENDLESS, "n": 4}))
        wait_until(lambda: server.service.num_running == 4)
        second.sendall(posted({**ENDLESS, "n": 5}))
        wait_until(lambda: server.service.num_waiting == 5)
        second.close()
        wait_until(lambda: server.service.num_waiting == 0)
        assert server.service.num_running == 4


@pytest.mark.verify
def test_a_client_that_does_not_read_holds_up_nobody(server: Running, client: openai.OpenAI) -> None:
    with closing(connected(server)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(posted({**ENDLESS, "stream": True, "n": 2}))
        wait_until(lambda: server.service.num_running == 2)
        for _ in range(3):
            assert client.completions.create(model=MODEL, prompt="The", max_tokens=5, temperature=0).choices
        wait_until(lambda: server.service.num_running == 0)  # all is drawn, although nothing is read
        assert b" 200 OK" in slow.recv(65536)


@pytest.mark.verify
def test_fifty_clients_at_once_each_get_their_own_text_or_are_told_to_come_again(
    server: Running, generator: TextGenerator
) -> None:
    lengths = [1 + number % 12 for number in range(50)]
    alone = {
        length: generator.continuation("The", max_new_tokens=length, seed=length, top_k=None, temperature=1.0)
        for length in set(lengths)
    }

    def ask(length: int) -> tuple[int, str]:
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as own:
            for attempt in range(200):
                try:
                    answer = own.completions.create(model=MODEL, prompt="The", max_tokens=length, seed=length)
                    return attempt, answer.choices[0].text
                except openai.RateLimitError as error:
                    assert error.response.headers["retry-after"] == "1"
                    time.sleep(0.02)
        raise AssertionError("never had a turn")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, lengths))
    assert [text for _, text in answers] == [alone[length] for length in lengths]


def test_more_requests_than_places_are_told_to_come_again(server: Running, http: httpx.Client) -> None:
    with closing(connected(server)) as first:
        first.sendall(posted({**ENDLESS, "n": 20}))
        wait_until(lambda: server.service.num_running == 4)
        response = http.post(COMPLETIONS, json={**ENDLESS})
        error = error_of(response, 429)
        assert error["code"] == "rate_limit_exceeded" and response.headers["retry-after"] == "1"


def test_requests_that_arrive_later_join_the_batch(server: Running, client: openai.OpenAI) -> None:
    with closing(connected(server)) as long:
        long.sendall(posted({**ENDLESS, "stream": True}))
        wait_until(lambda: server.service.num_running == 1)
        assert client.completions.create(model=MODEL, prompt="The", max_tokens=3, temperature=0).choices
        assert server.service.num_running == 1, "the first one is still under way"


def test_a_request_in_pieces_or_several_at_once_is_understood(server: Running) -> None:
    body = posted({"model": MODEL, "prompt": "The", "max_tokens": 2, "temperature": 0})
    with closing(connected(server)) as connection:
        for start in range(0, len(body), 7):
            connection.sendall(body[start : start + 7])
        received = b""
        for more, num_answers in ((b"", 1), (body + body, 3)):  # two at once, on the same connection
            connection.sendall(more)
            while received.count(b'"total_tokens"') < num_answers:  # with which an answer ends: it comes in pieces too
                received += connection.recv(65536)
            assert received.count(b" 200 OK") == num_answers


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS handshake
        b"GET / HTTP/x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\x00\x00",
    ],
)
def test_what_is_no_http_is_answered_with_400_and_closed(server: Running, sent: bytes) -> None:
    with closing(connected(server)) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 400 ")


def test_a_body_that_does_not_come_is_waited_for_only_so_long(generator: TextGenerator) -> None:
    with running(generator, body_timeout_s=0.2) as server, closing(connected(server)) as connection:
        connection.sendall(head("Content-Length: 100") + b'{"model"')
        assert b" 408 " in connection.recv(65536)


def test_a_client_that_goes_away_within_its_body_is_no_error(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with closing(connected(server)) as connection:
        connection.sendall(head("Content-Length: 100") + b'{"model"')
        time.sleep(0.05)
    time.sleep(0.1)
    assert not caplog.records


def test_stopping_ends_streams_and_answers_with_an_error_that_says_so(generator: TextGenerator) -> None:
    with running(generator) as server, closing(connected(server)) as streaming, closing(connected(server)) as whole:
        streaming.sendall(posted({**ENDLESS, "stream": True}))
        whole.sendall(posted(ENDLESS))
        wait_until(lambda: server.service.num_running == 2)
        server.server.stop()
        server.server.stop()
        server.thread.join(10)
        assert not server.thread.is_alive()
        received = {}
        for name, connection in (("streaming", streaming), ("whole", whole)):
            received[name] = b""
            while chunk := connection.recv(65536):
                received[name] += chunk
    assert b" 200 OK" in received["streaming"] and received["streaming"].endswith(b"\r\n0\r\n\r\n")
    *_, last = (line for line in received["streaming"].splitlines() if line.startswith(b"data: "))
    assert json.loads(last.removeprefix(b"data: "))["error"]["message"] == "the server is stopping"
    assert b" 503 " in received["whole"] and b"the server is stopping" in received["whole"]


def test_a_body_that_is_coming_does_not_hold_up_the_end(
    generator: TextGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    with running(generator) as server, closing(connected(server)) as connection:
        connection.sendall(head("Content-Length: 100") + b'{"model"')
        time.sleep(0.3)
        server.server.stop()
        assert b" 503 " in connection.recv(65536)
        server.thread.join(5)
        assert not server.thread.is_alive()
    assert not caplog.records


def test_a_server_that_stops_lets_short_answers_finish_and_takes_no_more(generator: TextGenerator) -> None:
    with running(generator, max_rows=1) as server, closing(connected(server)) as connection:
        connection.sendall(posted({**ENDLESS, "max_tokens": 300}))
        wait_until(lambda: server.service.num_running == 1)
        server.server.stop()
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert b" 200 OK" in received and b'"finish_reason":"length"' in received
        server.thread.join(10)
        with pytest.raises(OSError):
            connected(server)


def test_a_model_that_breaks_is_said_to_be_and_the_server_ends_with_1(
    generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    with running(generator) as server, closing(connected(server)) as connection:

        def broken() -> None:
            raise MemoryError("of this test")

        monkeypatch.setattr(server.service._batch, "step", broken)
        connection.sendall(posted(ENDLESS))
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert b" 503 " in received and b"which its log tells" in received and b"of this test" not in received
        server.thread.join(10)
        assert not server.thread.is_alive() and server.service.broken
