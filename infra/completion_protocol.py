"""What goes over the wire of `tokenmill serve`: OpenAI's completions, as its clients write and read them.

Source: the reference of OpenAI's API, `POST /v1/completions` and `GET /v1/models`, and its client's types
(`openai.types.Completion`). `top_k` and `repetition_penalty` are not among its fields; other servers of open models
take them by these names. A field that asks for what is not done here is refused rather than ignored.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from starlette.responses import JSONResponse

from model.sampling import Sampling
from tasks.generation import TextGenerator
from tasks.text_batch import TextRequest

MAX_CHOICES = 128  # of a prompt; as many as OpenAI allows
_MAX_MESSAGE_CHARS = 400  # a message may quote what was sent
_SEEDS = 1 << 63

Prompt = str | tuple[int, ...]
FinishReason = Literal["stop", "length"]


class ApiError(Exception):
    """What a request is answered with that can not be done: a status, and OpenAI's error object."""

    def __init__(self, status: HTTPStatus, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message[:_MAX_MESSAGE_CHARS], code, param

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def error_response(error: ApiError) -> JSONResponse:
    headers = {"retry-after": "1"} if error.status == HTTPStatus.TOO_MANY_REQUESTS else None
    return JSONResponse(error.body(), error.status, headers)


def _prompts(value: object) -> tuple[Prompt, ...]:
    """A string, strings, token ids, or lists of token ids."""
    prompts = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(prompts, list) or not (
        all(isinstance(each, str) for each in prompts) or all(_is_tokens(each) for each in prompts)
    ):
        raise ValueError("it must be a string, a list of strings, a list of token ids, or a list of such lists")
    if not all(prompts):
        raise ValueError("a prompt is empty; a list of token ids begins a document with the end-of-text token")
    return tuple(each if isinstance(each, str) else tuple(each) for each in prompts)


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


def _stop_strings(value: object) -> tuple[str, ...]:
    strings = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
        raise ValueError("it must be a string or a list of strings")
    return tuple(strings)


class StreamOptions(BaseModel):
    """Whether the last chunk of a stream tells the tokens used."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against observers of encrypted streams, which these are not


class CompletionRequest(BaseModel):
    """The body of `POST /v1/completions`. None means the default."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: str
    prompt: Annotated[tuple[Prompt, ...], PlainValidator(_prompts)]
    max_tokens: int | None = Field(None, ge=1, le=1 << 31)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)  # 0 and -1: all tokens
    repetition_penalty: float | None = Field(None, allow_inf_nan=False)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Annotated[tuple[str, ...], PlainValidator(_stop_strings)] = ()
    seed: int | None = Field(None, ge=-_SEEDS, lt=_SEEDS)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # of the client's accounting; nothing is done with it
    # what is not done here, and the values that ask for nothing
    best_of: int | None = None
    echo: bool | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    presence_penalty: float | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_done(self) -> CompletionRequest:
        for name in ("echo", "frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "suffix"):
            value = getattr(self, name)
            if value or (name == "logprobs" and value is not None):
                raise ValueError(f"{name} is not supported by this server; leave it out")
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of other than n is not supported by this server; leave it out")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options belong to a request with stream")
        return self

    def text_requests(self, generator: TextGenerator, *, max_tokens: int) -> list[TextRequest]:
        """A row for each choice of each prompt, in the order of the answer's choices; takes time for long prompts.

        Without a seed each choice has a random one; with one, the choices of a prompt have it and those that follow,
        so that a prompt's choices do not depend on what else is asked for. `max_tokens` is the server's limit.
        ValueError where they can not work.
        """
        wanted = 16 if self.max_tokens is None else self.max_tokens  # OpenAI's default; so is a temperature of 1
        if wanted > max_tokens:
            raise ValueError(f"max_tokens is {wanted}; this server gives at most {max_tokens}")
        prompts = [generator.prompt_tokens(each) if isinstance(each, str) else each for each in self.prompt]
        seeds = self._seeds()
        return [
            TextRequest(
                prompt_tokens=tokens,
                sampling=Sampling(
                    max_new_tokens=wanted,
                    temperature=1.0 if self.temperature is None else self.temperature,
                    top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
                    top_p=self.top_p,
                    repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
                    seed=seed,
                ),
                stop=self.stop,
            )
            for tokens in prompts
            for seed in seeds
        ]

    def _seeds(self) -> Sequence[int]:
        first = secrets.randbelow(_SEEDS) if self.seed is None else self.seed
        return [(first + choice) % _SEEDS for choice in range(self.n or 1)]


def parse_completion(body: bytes) -> CompletionRequest:
    """ApiError 400 that names the field, for a body that asks for nothing that can be done."""
    try:
        return CompletionRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    message = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    raise ApiError(
        HTTPStatus.BAD_REQUEST, f"{param}: {message}" if param else message, param=param, code="invalid_request"
    )


@dataclass(frozen=True)
class Usage:
    """Tokens of a request's prompts, each once, and of all its choices."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def choice(index: int, text: str, finish_reason: FinishReason | None) -> dict[str, Any]:
    """One of an answer's continuations, or a piece of it."""
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


@dataclass(frozen=True)
class Answer:
    """What all bodies of one answer have in common: one body, or the chunks of a stream."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: Sequence[Mapping[str, Any]], usage: Usage | None) -> dict[str, Any]:
        common = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**common, "choices": list(choices), "usage": usage.body() if usage else None}


def model_body(model: str, created: int) -> dict[str, Any]:
    """One entry of `GET /v1/models`."""
    return {"id": model, "object": "model", "created": created, "owned_by": "tokenmill"}
