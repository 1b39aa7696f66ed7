"""The server of a model as a real client of OpenAI's meets it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tasks.generation import TextGenerator
from tests.infra.running_server import (
    COMPLETIONS,
    MODEL,
    Running,
    error_of,
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
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        # counted before anything else is looked at, and so before any prompt is tokenized
        ({"prompt": ["a"] * 100, "n": 128, "max_tokens": 10**7}, "12800 continuations are asked for at once"),
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
