"""The server of a model as clients meet it, well-meaning ones and others: real sockets, a real client of OpenAI's."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest

from tasks.generation import TextGenerator
from tests.infra.running_server import MODEL, Running, running, with_long_context
from tests.infra.small_model import small_model

COMPLETIONS = "/v1/completions"
ENDLESS: dict[str, Any] = {"model": MODEL, "prompt": "The", "temperature": 0, "max_tokens": 1900}


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


def test_a_client_of_openai_gets_the_texts_that_the_model_gives(
    client: openai.OpenAI, generator: TextGenerator
) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_k": None}
    answer = client.completions.create(model=MODEL, prompt=["The", "A walk"], n=2, max_tokens=12, seed=5)
    expected = [generator.continuation(text, seed=seed, **options) for text in ("The", "A walk") for seed in (5, 6)]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}
    assert (answer.object, answer.model) == ("text_completion", MODEL) and answer.id.startswith("cmpl-")
    usage = answer.usage
    assert usage is not None and usage.completion_tokens <= 48
    assert usage.prompt_tokens == sum(len(generator.prompt_tokens(text)) for text in ("The", "A walk"))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_has_the_same_text_in_pieces_and_tells_what_it_took(
    client: openai.OpenAI, generator: TextGenerator
) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="The", max_tokens=12, seed=5, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    text = generator.continuation("The", max_new_tokens=12, seed=5, temperature=1.0, top_k=None)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text and len(chunks) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("stop", "length")
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert last.choices == [] and last.usage is not None and last.usage.prompt_tokens > 1
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_options_reach_the_model(client: openai.OpenAI, generator: TextGenerator) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt="The",
        max_tokens=30,
        temperature=0.7,
        top_p=0.9,
        seed=3,
        extra_body={"top_k": 20, "repetition_penalty": 1.3},
    )
    options = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 3}
    text = generator.continuation("The", max_new_tokens=30, **options)  # type: ignore[arg-type]
    assert answer.choices[0].text == text
    stopped = client.completions.create(
        model=MODEL, prompt="The", max_tokens=30, stop=[text[5:8], "never there"], extra_body=options
    )
    assert stopped.choices[0].text == text[: text.index(text[5:8])]
    assert stopped.choices[0].finish_reason == "stop"
    tokens = list(generator.prompt_tokens("The"))
    by_ids = client.completions.create(model=MODEL, prompt=tokens, max_tokens=30, extra_body=options)
    assert by_ids.choices[0].text == text


def test_the_model_is_listed_and_known_by_its_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "tokenmill"
    answer = client.completions.create(model="models:/small@champion", prompt="The", max_tokens=2)
    assert answer.model == MODEL
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'; this server has 'small@1'"):
        client.completions.create(model="gpt-9", prompt="The")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_health_says_model_and_rows(http: httpx.Client) -> None:
    assert http.get("/health").json() == {
        "status": "ok",
        "model": MODEL,
        "rows": 0,
        "max_rows": 4,
        "waiting": 0,
        "max_queue": 16,
    }


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"prompt": ""}, "prompt: a prompt is empty"),
        ({"prompt": []}, "prompt: a prompt is empty"),
        ({"prompt": ["a", ""]}, "prompt: a prompt is empty"),
        ({"prompt": [[]]}, "prompt: a prompt is empty"),
        ({"prompt": ["a", 1]}, "prompt: it must be"),
        ({"prompt": [True]}, "prompt: it must be"),
        ({"prompt": None}, "prompt: it must be"),
        ({"prompt": {"a": 1}}, "prompt: it must be"),
        ({"prompt": [1, 320]}, "holds token 320 of a vocabulary of"),
        ({"prompt": [1, -1]}, "holds token -1"),
        ({"prompt": [10**30]}, "vocabulary"),
        ({"prompt": "a " * 3000}, "new ones exceed the model's 2000 positions"),
        ({"prompt": ["a"] * 21}, "21 continuations are asked for at once; there are 20 places"),
        ({"prompt": ["a"] * 3, "n": 7}, "21 continuations"),
        ({"n": 1000}, "n: Input should be less than or equal to 128"),
        ({"n": 0}, "n: Input"),
        ({"n": True}, "n: Input should be a valid integer"),
        ({"max_tokens": 2001}, "max_tokens is 2001; this server gives at most 2000"),
        ({"max_tokens": 10**12}, "max_tokens: Input should be less"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"temperature": 2.01}, "temperature: Input should be less"),
        ({"temperature": float("nan")}, "temperature: Input should be a finite number"),
        ({"temperature": float("inf")}, "temperature: Input should be"),
        ({"top_p": 0}, "top_p: Input should be greater than 0"),
        ({"top_k": -2}, "top_k: Input"),
        ({"repetition_penalty": 0}, "repetition_penalty: Input"),
        ({"seed": 2**63}, "seed: Input"),
        ({"seed": 10**4000}, "Invalid JSON|seed: "),
        ({"stop": ["x"] * 10_000}, "there are 10000 stop strings; there may be 16"),
        ({"stop": ["x" * 257]}, "a stop string has 257 characters"),
        ({"stop": ""}, "a stop string has 0 characters"),
        ({"stop": [1]}, "stop: it must be a string or a list of strings"),
        ({"logprobs": 0}, "logprobs is not supported by this server; leave it out"),
        ({"echo": True}, "echo is not supported"),
        ({"suffix": "x"}, "suffix is not supported"),
        ({"best_of": 3}, "best_of other than n"),
        ({"presence_penalty": 1}, "presence_penalty is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
        ({"max_token": 5}, "max_token: there is no such field"),
        ({"x" * 9000: 5}, "xxx"),
        ({"stream_options": {"include_usage": True}}, "stream_options belong to a request with stream"),
        ({"model": 3}, "model: Input should be a valid string"),
    ],
)
def test_what_can_not_be_done_is_refused_and_says_why(
    http: httpx.Client, changed: dict[str, Any], expected: str
) -> None:
    body = {"model": MODEL, "prompt": "The", **changed}
    response = http.post(COMPLETIONS, content=json.dumps(body), headers={"content-type": "application/json"})
    error = error_of(response, 400)
    assert any(each in error["message"] for each in expected.split("|")), error
    assert error["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    nothing = {"logprobs": None, "echo": False, "presence_penalty": 0, "best_of": 1, "suffix": None, "logit_bias": {}}
    more = {"max_tokens": None, "temperature": None, "top_p": None, "top_k": -1, "n": None, "user": "somebody"}
    answer = client.completions.create(model=MODEL, prompt="The", extra_body={**nothing, **more, "stop": None})
    assert answer.usage is not None and 0 < answer.usage.completion_tokens <= 16


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"null", "Input should be an object"),
        (b'{"model": "a"}', "prompt: Field required"),
        (b'{"prompt": "\xff\xfe"}', "Invalid JSON: invalid unicode code point"),
        (b'{"model": "\\ud800"}', "Invalid JSON"),
        (b'{"prompt": "a\\udc00b", "model": "a"}', "Invalid JSON"),
        (b"[" * 50_000, "Invalid JSON: recursion limit exceeded"),
        (b'{"a":' * 9_000, "Invalid JSON"),
        (b'{"model": NaN}', "model: Input should be a valid string"),
        (b"\x00" * 100, "Invalid JSON"),
    ],
)
def test_what_is_no_request_is_refused(http: httpx.Client, body: bytes, expected: str) -> None:
    response = http.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    assert expected in error_of(response, 400)["message"]


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


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_what_says_to_be_json_is_taken(http: httpx.Client, content_type: str) -> None:
    response = http.post(COMPLETIONS, content=b"{}", headers={"content-type": content_type} if content_type else {})
    assert "Content-Type: application/json" in error_of(response, 415)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", COMPLETIONS, 405),
        ("POST", "/health", 405),
        ("PUT", "/v1", 404),
    ],
)
def test_there_are_no_other_paths(http: httpx.Client, method: str, path: str, status: int) -> None:
    error_of(http.request(method, path), status)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "", "localhost.evil:1", "[::2]"])
def test_a_name_of_somebody_else_is_refused(http: httpx.Client, host: str) -> None:
    assert error_of(http.get("/v1/models", headers={"host": host}), 403)["code"] == "invalid_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_the_names_of_this_machine_are_taken(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


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
        assert b" 200 OK" in connection.recv(65536)
        connection.sendall(body + body)  # pipelined, on the same connection
        received = b""
        while received.count(b'"total_tokens"') < 2:
            received += connection.recv(65536)
        assert received.count(b" 200 OK") == 2


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


def test_with_a_key_only_who_sends_it_is_let_in(generator: TextGenerator) -> None:
    key = "of-this-test-0123456789"
    with running(generator, api_key=key) as server, httpx.Client(base_url=server.address) as http:
        for wrong in ("", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Basic {key}", "Bearer", key, "Bearer \xff"):
            headers = {"authorization": wrong.encode("latin-1")} if wrong else {}
            error = error_of(http.get("/v1/models", headers=headers), 401)
            assert error["code"] == "invalid_api_key" and key not in str(error)
        assert http.get("/health").status_code == 200
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key=key, max_retries=0) as client:
            assert [model.id for model in client.models.list()] == [MODEL]
        other = openai.OpenAI(base_url=f"{server.address}/v1", api_key="another", max_retries=0)
        with other as client, pytest.raises(openai.AuthenticationError):
            client.completions.create(model=MODEL, prompt="The")
        # it is asked for by any name, as behind a proxy
        assert http.get("/v1/models", headers={"host": "lm.example", "authorization": f"Bearer {key}"}).is_success


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
