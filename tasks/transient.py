"""What can pass on a second try, and the trying again, with back-off.

The storage libraries' own hidden retries are switched off where an address is opened (tasks/address.py): tries are
counted, logged and bounded here alone.
"""

from __future__ import annotations

import email.utils
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import botocore.exceptions
import tenacity

from tasks.address import explained, redacted
from tasks.ports import WorkerLostError

T = TypeVar("T")

logger = logging.getLogger(__name__)

TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
"""RFC 9110 and 6585: too many requests, and the server's own or its upstream's passing troubles."""
_TRANSIENT_S3_CODES = frozenset({"SlowDown", "RequestTimeout"})
"""https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; RequestTimeout comes with the status 400."""
_TRANSIENT_TYPES = (
    WorkerLostError,
    ConnectionResetError,
    ConnectionAbortedError,
    ConnectionRefusedError,  # a server that is being started again
    TimeoutError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,  # the body was cut off
    botocore.exceptions.ConnectionError,
    botocore.exceptions.ConnectionClosedError,
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
)
_PERMANENT_TYPES = (
    aiohttp.ClientSSLError,
    aiohttp.ClientConnectorCertificateError,
    botocore.exceptions.SSLError,
    botocore.exceptions.ProxyConnectionError,
)
"""Connection errors that stay as they are until somebody mends a setting."""
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class UnavailableError(ValueError):
    """A storage or server still failed in a way that can pass, after the last try: which address, and how.

    It keeps its type where its causes are lost, as between a worker and the driver.
    """


@dataclass(frozen=True)
class Backoff:
    """How often and how long to try again."""

    max_tries: int
    first_wait_s: float  # doubled at each try, up to `max_wait_s`; as much again at random, so that shards spread
    max_wait_s: float
    max_waiting_s: float  # in all; a server that asks for more than is left of it is given up at once


BACKOFF = Backoff(max_tries=6, first_wait_s=0.5, max_wait_s=30.0, max_waiting_s=300.0)
"""15 to 31 s of waiting: S3 lets more through within seconds of a SlowDown. Only a Retry-After can make it longer."""
QUICK_BACKOFF = Backoff(max_tries=3, first_wait_s=0.5, max_wait_s=1.0, max_waiting_s=5.0)
"""Where somebody waits to be told that an address is wrong."""


def is_transient(error: BaseException) -> bool:
    """Whether the same work can pass on a second try: a worker was lost, a connection broke or timed out, a server
    said 429, 500, 502, 503 or 504, or S3 to slow down. Causes are looked through; anything else is False.
    """
    return any(_is_transient_itself(cause) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, as a traceback would show them."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _is_transient_itself(error: BaseException) -> bool:
    if isinstance(error, UnavailableError):
        return True
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in TRANSIENT_STATUSES
    if isinstance(error, botocore.exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in TRANSIENT_STATUSES or error.response.get("Error", {}).get("Code") in _TRANSIENT_S3_CODES
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.os_error
        if isinstance(reason, socket.gaierror) and reason.errno in _NO_SUCH_HOST:
            return False
        if reason.errno in (errno.EACCES, errno.EPERM):
            return False
    return isinstance(error, _TRANSIENT_TYPES) and not isinstance(error, _PERMANENT_TYPES)


def retry_after_s(error: BaseException) -> float:
    """How long a server asked to wait, in seconds: its Retry-After, a number or a date; 0 where it did not."""
    for cause in _causes(error):
        value = _headers(cause).get("retry-after", "")
        if value.isdecimal():
            return float(value)
        if value:
            try:
                at = email.utils.parsedate_to_datetime(value)
            except ValueError:  # neither of the two forms of RFC 9110: as good as none
                return 0.0
            return max(0.0, at.timestamp() - time.time())
    return 0.0


def _headers(error: BaseException) -> Mapping[str, str]:
    """The response's header fields by lower-case name, where the error holds a response."""
    if isinstance(error, aiohttp.ClientResponseError) and error.headers is not None:
        return {name.lower(): value for name, value in error.headers.items()}
    if isinstance(error, botocore.exceptions.ClientError):
        fields = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return {str(name).lower(): str(value) for name, value in fields.items()}
    return {}


def retried(call: Callable[[], T], what: str, address: str, *, backoff: Backoff | None = None) -> T:
    """`call()`, tried again where its error can pass; each time a line is logged at WARNING.

    `what` is a verb: "reading", "listing". Raises UnavailableError after the last try, and any other error of `call`
    at once, as it is. `backoff` None is BACKOFF.
    """
    policy = backoff or BACKOFF
    what = f"{what} {redacted(address)}"
    exponential = tenacity.wait_exponential(multiplier=policy.first_wait_s, max=policy.max_wait_s)

    def wait_s(state: tenacity.RetryCallState) -> float:
        jittered = (exponential + tenacity.wait_random(0, exponential(state)))(state)
        return retry_after_s(_failure(state)) + jittered

    def log(state: tenacity.RetryCallState) -> None:
        tries = f"try {state.attempt_number} of {policy.max_tries}"
        logger.warning(
            "%s failed (%s), %s; again in %.1f s", what, explained(_failure(state)), tries, state.upcoming_sleep
        )

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=wait_s,
        stop=tenacity.stop_after_attempt(policy.max_tries) | _StopBeforeWaiting(policy.max_waiting_s),
        before_sleep=log,
    )
    try:
        return retrying(call)
    except tenacity.RetryError as error:
        state = error.last_attempt
        last = state.exception()
        assert last is not None
        asked = f", and it asks to wait {retry_after_s(last):.0f} s" if retry_after_s(last) else ""
        raise UnavailableError(
            f"{what} failed {state.attempt_number} times ({explained(last)}){asked}: run it again later"
        ) from last


def _failure(state: tenacity.RetryCallState) -> BaseException:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def refusal(error: Exception, what: str, address: str) -> ValueError:
    """What is told of an error that no second try would mend; an UnavailableError says it already."""
    if isinstance(error, UnavailableError):
        return error
    return ValueError(f"{what} {redacted(address)} failed ({explained(error)}): check the address and the rights to it")


class _StopBeforeWaiting(tenacity.stop.stop_base):
    """Counts waiting alone: a large file that takes an hour and fails at its end is still tried again."""

    def __init__(self, max_waiting_s: float) -> None:
        self._max_waiting_s = max_waiting_s

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        return retry_state.idle_for + retry_state.upcoming_sleep > self._max_waiting_s
