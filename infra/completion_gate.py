"""Who may ask the server of a model, and how many at a time.

Without an API key: whoever reaches this machine's loopback address by one of its own names, because a page that a
browser shows could otherwise reach it by a name of its own that points here. With one: whoever sends it; only the path
that tells health answers everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from infra.completion_protocol import ApiError, error_response

API_KEY_VARIABLE = "TOKENMILL_API_KEY"
_MIN_KEY_CHARS = 16
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, kw_only=True)
class Access:
    """What decides who is let in."""

    api_key: str | None
    max_requests: int  # for continuations, at a time
    guarded: str  # the path of these
    open: str  # the path that needs no key


def checked_key(key: str | None) -> str | None:
    """The key, or None for none. ValueError for one that can be guessed, or that no header can carry."""
    if not key:
        return None
    if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"{API_KEY_VARIABLE} must be at least {_MIN_KEY_CHARS} printable ASCII characters without spaces"
        )
    return key


def check_address(host: str, *, allow_remote: bool, api_key: str | None) -> None:
    """ValueError for an address that others can reach, unless that is wanted and there is a key to ask them for."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host}: there is no such address on this machine") from error
    if all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found):
        return
    if not allow_remote:
        raise ValueError(f"--host {host}: others can reach this address; say --allow-remote if that is wanted")
    if api_key is None:
        raise ValueError(f"--host {host}: others can reach this address; set {API_KEY_VARIABLE} to a key for them")


class Gate:
    """Lets in who may ask, and no more at a time than there are places."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await error_response(refused)(scope, receive, send)
            return
        is_counted = scope["path"] == self._access.guarded
        self._num_requests += is_counted
        try:
            await self._app(scope, receive, send)
        finally:
            self._num_requests -= is_counted

    def _refused(self, scope: Scope) -> ApiError | None:
        headers, access = dict(scope["headers"]), self._access
        if access.api_key is None:
            if _host_name(headers.get(b"host", b"")) not in _LOOPBACK_NAMES:
                message = "without an API key this server is asked as localhost, 127.0.0.1 or [::1] only"
                return ApiError(HTTPStatus.FORBIDDEN, message, code="invalid_host")
        elif scope["path"] != access.open and not _is_key(headers.get(b"authorization", b""), access.api_key):
            message = "a valid API key is needed: Authorization: Bearer KEY"
            return ApiError(HTTPStatus.UNAUTHORIZED, message, code="invalid_api_key")
        if scope["path"] == access.guarded and self._num_requests >= access.max_requests:
            message = f"{self._num_requests} requests are being answered; try again in a moment"
            return ApiError(HTTPStatus.TOO_MANY_REQUESTS, message, code="rate_limit_exceeded")
        return None


def _is_key(authorization: bytes, key: str) -> bool:
    """Takes as long for a key that is nearly right as for any other of its length."""
    scheme, _, sent = authorization.partition(b" ")
    return hmac.compare_digest(sent.strip(), key.encode()) and scheme.lower() == b"bearer"


def _host_name(host: bytes) -> str:
    """The name of a Host header, without its port."""
    name, colon, port = host.decode("latin-1").rpartition(":")
    return (name if colon and port.isdecimal() else f"{name}{colon}{port}").lower()
