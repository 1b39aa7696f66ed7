"""OpenAI's completions over HTTP, whole or streamed, from the shared batch of `tasks.completions`.

What a client can cost is bounded: bytes of a body and seconds it may take to come, requests at a time, rows and places
in the queue, tokens of an answer. A client that goes away frees its rows; one that reads slowly holds up nobody. Errors
have OpenAI's form; what is this software's fault is told in its log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from infra.completion_gate import Access, Gate
from infra.completion_protocol import (
    Answer,
    ApiError,
    CompletionRequest,
    FinishReason,
    Usage,
    choice,
    error_response,
    model_body,
    parse_completion,
)
from tasks.completions import STOPPING, CompletionService, QueueFullError, UnavailableError
from tasks.generation import TextGenerator
from tasks.text_batch import Piece, TextRequest

COMPLETIONS, MODELS, HEALTH = "/v1/completions", "/v1/models", "/health"
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, to whom, and how much of it at most."""

    generator: TextGenerator
    service: CompletionService
    names: Sequence[str]  # of the model; the first is what answers call it
    max_tokens: int  # new ones of a choice
    max_body_bytes: int
    body_timeout_s: float = 30.0
    api_key: str | None = None


def completion_app(served: Served) -> FastAPI:
    """The application: three paths, and one form of error."""
    app = FastAPI(title="Tokenmill", docs_url=None, redoc_url=None, openapi_url=None)
    started = int(time.time())

    @app.get(HEALTH)
    async def health() -> JSONResponse:
        service = served.service
        status = HTTPStatus.OK if service.available else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse(
            {
                "status": "ok" if service.available else "broken" if service.broken else "stopping",
                "model": served.names[0],
                "rows": service.num_running,
                "max_rows": service.max_rows,
                "waiting": service.num_waiting,
                "max_queue": service.max_queue,
            },
            status,
        )

    @app.get(MODELS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_body(served.names[0], started)]}

    @app.get(MODELS + "/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _check_model(served, name)
        return model_body(served.names[0], started)

    @app.post(COMPLETIONS)
    async def completions(request: Request) -> Response:
        asked = parse_completion(await _while_available(served.service, _body(request, served)))
        _check_model(served, asked.model)
        try:
            served.service.check_number(len(asked.prompt) * (asked.n or 1))  # before any of them costs anything
            # in a thread: a long prompt takes a while, and all others are answered by this one
            rows = await asyncio.to_thread(asked.text_requests, served.generator, max_tokens=served.max_tokens)
        except ValueError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, str(error), code="invalid_request") from error
        return _CompletionResponse(served, asked, rows)

    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_fault)
    service = served.service
    access = Access(
        api_key=served.api_key,
        max_requests=service.max_rows + service.max_queue,
        guarded=COMPLETIONS,
        open=HEALTH,
    )
    app.add_middleware(Gate, access=access)
    return app


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """No such path, or not this way."""
    assert isinstance(error, HTTPException)
    response = error_response(
        ApiError(HTTPStatus(error.status_code), f"{error.detail}: {request.method} {request.url.path[:100]}")
    )
    response.headers.update(error.headers or {})
    return response


async def _on_fault(request: Request, error: Exception) -> Response:
    """A fault of ours; it is raised again after this answer, and logged."""
    return error_response(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of this server, which its log tells"))


def _check_model(served: Served, name: str) -> None:
    if name not in served.names:
        raise ApiError(
            HTTPStatus.NOT_FOUND,
            f"there is no model {name[:100]!r}; this server has {served.names[0]!r}",
            code="model_not_found",
            param="model",
        )


async def _while_available(service: CompletionService, coming: Awaitable[bytes]) -> bytes:
    """What comes; ApiError where the service ends before: who sends slowly must not hold up the end."""
    work = asyncio.ensure_future(coming)
    try:
        while not work.done():
            await asyncio.wait((work,), timeout=_POLL_S)
            if not work.done() and not service.available:
                raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING)
        return work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _body(request: Request, served: Served) -> bytes:
    """The request's body; ApiError where it is too large, too slow, or not said to be JSON."""
    # what a page of another origin can send without asking this server first is never said to be JSON
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        message = "the body must be JSON and say so: Content-Type: application/json"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
    too_large = ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {served.max_body_bytes} bytes")
    if int(request.headers.get("content-length", "0")) > served.max_body_bytes:  # the protocol takes digits only
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(served.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > served.max_body_bytes:
                    raise too_large
    except ClientDisconnect as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, "the body has not come whole") from error  # which nobody reads
    except TimeoutError as error:
        message = f"the body has not come within {served.body_timeout_s:g} s"
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, message) from error
    return bytes(body)


class _CompletionResponse(Response):
    """Submits the rows when it is sent, and frees them when it ends, however it ends."""

    def __init__(self, served: Served, asked: CompletionRequest, rows: Sequence[TextRequest]) -> None:
        super().__init__()
        self._served, self._asked, self._rows = served, asked, rows
        self._answer = Answer(served.names[0])
        num_choices = asked.n or 1
        self._num_prompt_tokens = sum(len(row.prompt_tokens) for row in rows[::num_choices])
        self._num_new_tokens = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, Piece | UnavailableError]] = asyncio.Queue()

        def deliver(number: int, piece: Piece | UnavailableError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

        try:
            submission = self._served.service.submit(self._rows, deliver)
        except ValueError as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, str(error), code="invalid_request") from error
        except QueueFullError as error:
            raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, str(error), code="rate_limit_exceeded") from error
        except UnavailableError as error:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
        try:
            sending = self._stream(pieces, send) if self._asked.stream else self._whole(pieces, scope, receive, send)
            await _unless_gone(sending, receive)
        finally:
            submission.cancel()

    async def _got(
        self, pieces: asyncio.Queue[tuple[int, Piece | UnavailableError]]
    ) -> AsyncIterator[tuple[int, Piece, FinishReason | None]]:
        """What the rows get, until all have ended. ApiError for one that can not go on."""
        num_open = len(self._rows)
        while num_open:
            number, piece = await pieces.get()
            if isinstance(piece, UnavailableError):
                raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(piece))
            if piece.ended == "error":
                raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, piece.error)
            self._num_new_tokens += piece.num_tokens
            yield number, piece, piece.ended or None
            num_open -= bool(piece.ended)

    @property
    def _usage(self) -> Usage:
        return Usage(self._num_prompt_tokens, self._num_new_tokens)

    async def _whole(
        self,
        pieces: asyncio.Queue[tuple[int, Piece | UnavailableError]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        texts: list[list[str]] = [[] for _ in self._rows]
        reasons: list[FinishReason | None] = [None] * len(self._rows)
        async for number, piece, reason in self._got(pieces):
            texts[number].append(piece.text)
            reasons[number] = reason
        choices = [
            choice(number, "".join(text), reason)
            for number, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        await JSONResponse(self._answer.body(choices, self._usage))(scope, receive, send)

    async def _stream(self, pieces: asyncio.Queue[tuple[int, Piece | UnavailableError]], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        try:
            async for number, piece, reason in self._got(pieces):
                if piece.text or reason:
                    await _event(send, self._answer.body([choice(number, piece.text, reason)], None))
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                await _event(send, self._answer.body([], self._usage))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        except ApiError as error:
            await _event(send, error.body(), more=False)


async def _event(send: Send, body: dict[str, Any], *, more: bool = True) -> None:
    data = f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _unless_gone(sending: Awaitable[None], receive: Receive) -> None:
    """Wait for `sending`, but not once the client is gone. The request's body has been read."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.ensure_future(sending), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        work.cancel()
        watch.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)
