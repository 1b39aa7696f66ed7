"""What a request asks of the model, and that nothing that can be sent is anything but a request or an error."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.completion_protocol import ApiError, CompletionRequest, Usage, parse_completion
from model.sampling import Sampling
from tasks.generation import TextGenerator
from tests.infra.small_model import small_model

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(CompletionRequest.model_fields))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    return TextGenerator.load(*small_model(tmp_path_factory.mktemp("model")))


def parsed(**fields: object) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "The", **fields}).encode())


@given(st.dictionaries(FIELDS | st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_whatever_json_is_sent_it_is_a_request_or_an_error_of_the_client(fields: dict[str, object], bare: bool) -> None:
    body = fields if bare else {"model": "m", "prompt": "The", **fields}
    try:
        asked = parse_completion(json.dumps(body).encode())
    except ApiError as error:
        assert error.status == HTTPStatus.BAD_REQUEST and error.message
        json.dumps(error.body(), allow_nan=False)
    else:
        assert asked.prompt and all(asked.prompt) and (asked.n or 1) >= 1


@given(st.binary(max_size=60))
def test_whatever_bytes_are_sent(body: bytes) -> None:
    with pytest.raises(ApiError):
        parse_completion(body)


def test_without_options_it_draws_as_openai_does(generator: TextGenerator) -> None:
    (row,) = parsed(seed=5).text_requests(generator, max_tokens=64)
    assert row.sampling == Sampling(max_new_tokens=16, temperature=1.0, top_k=None, seed=5)
    assert row.prompt_tokens == generator.prompt_tokens("The") and row.stop == ()


def test_each_choice_of_a_prompt_has_a_seed_of_its_own_and_each_prompt_the_same_ones(generator: TextGenerator) -> None:
    rows = parsed(prompt=[[1, 4], [1, 5]], n=2, seed=2**63 - 1).text_requests(generator, max_tokens=64)
    assert [row.sampling.seed for row in rows] == [2**63 - 1, 0] * 2
    assert [row.prompt_tokens for row in rows[2:]] == [(1, 5), (1, 5)]
    assert parsed(seed=-1).text_requests(generator, max_tokens=64)[0].sampling.seed == 2**63 - 1
    unseeded = [parsed().text_requests(generator, max_tokens=64)[0].sampling.seed for _ in range(4)]
    assert len(set(unseeded)) == 4


def test_the_limit_on_new_tokens_and_one_more(generator: TextGenerator) -> None:
    assert parsed(max_tokens=20).text_requests(generator, max_tokens=20)
    with pytest.raises(ValueError, match="max_tokens is 21; this server gives at most 20"):
        parsed(max_tokens=21).text_requests(generator, max_tokens=20)


@pytest.mark.parametrize(("top_k", "expected"), [(None, None), (0, None), (-1, None), (1, 1), (7, 7)])
def test_all_tokens_have_several_names(generator: TextGenerator, top_k: int | None, expected: int | None) -> None:
    (row,) = parsed(top_k=top_k).text_requests(generator, max_tokens=64)
    assert row.sampling.top_k == expected


def test_errors_name_their_kind_and_quote_no_more_than_a_line() -> None:
    error = ApiError(HTTPStatus.TOO_MANY_REQUESTS, "x" * 1000, code="rate_limit_exceeded", param="n").body()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", "n")
    assert len(error["message"]) == 400
    assert ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "x").body()["error"]["type"] == "server_error"
    assert Usage(3, 4).body()["total_tokens"] == 7
