"""What is worth a second try, told by the real errors of the libraries."""

from __future__ import annotations

import itertools
import pickle
import socket
import time
from collections.abc import Callable

import aiohttp
import botocore.exceptions
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tasks.address import explained, redacted
from tasks.ports import ShardError, WorkerLostError
from tasks.transient import BACKOFF, Backoff, UnavailableError, is_transient, refusal, retried, retry_after_s

FEW = Backoff(max_tries=3, first_wait_s=0.01, max_wait_s=0.02, max_waiting_s=1.0)


def http_error(status: int, **headers: str) -> aiohttp.ClientResponseError:
    url = URL("https://user:secret@example.org/a.warc?token=secret")
    fields = CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))
    info = aiohttp.RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.ClientResponseError(info, (), status=status, message="Trouble", headers=fields)


def s3_error(code: str, status: int, **headers: str) -> botocore.exceptions.ClientError:
    response = {
        "Error": {"Code": code, "Message": "trouble"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return botocore.exceptions.ClientError(response, "GetObject")


def connection_error(reason: OSError) -> aiohttp.ClientConnectorError:
    key = ConnectionKey("example.org", 443, True, True, None, None, None, "example.org")
    return aiohttp.ClientConnectorError(key, reason)


@pytest.mark.parametrize(
    "error",
    [
        *(http_error(status) for status in (429, 500, 502, 503, 504)),
        *(s3_error("x", status) for status in (429, 500, 502, 503, 504)),
        s3_error("SlowDown", 503),
        s3_error("SlowDown", 400),
        s3_error("RequestTimeout", 400),
        ConnectionResetError(),
        ConnectionRefusedError(),
        TimeoutError(),
        connection_error(ConnectionRefusedError(111, "refused")),
        connection_error(socket.gaierror(socket.EAI_AGAIN, "try again")),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ServerTimeoutError(),
        aiohttp.ClientPayloadError("cut off"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
        botocore.exceptions.ConnectTimeoutError(endpoint_url="http://127.0.0.1:1"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"),
        botocore.exceptions.ConnectionClosedError(endpoint_url="http://127.0.0.1:1"),
        botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        WorkerLostError("extract", 3, "killed"),
        UnavailableError("reading https://example.org/a failed 6 times"),
    ],
    ids=repr,
)
def test_what_can_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        *(http_error(status) for status in (400, 401, 403, 404, 410, 416, 501)),
        s3_error("AccessDenied", 403),
        s3_error("NoSuchKey", 404),
        s3_error("PreconditionFailed", 412),
        ShardError("extract", 3, "ValueError: x"),
        ValueError("HTTP 503 SlowDown timeout"),
        FileNotFoundError("a"),
        PermissionError("a"),
        OSError(28, "No space left on device"),
        MemoryError(),
        KeyboardInterrupt(),
        connection_error(socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        aiohttp.InvalidURL("x"),
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.SSLError(endpoint_url="https://127.0.0.1:1", error="certificate"),
    ],
    ids=repr,
)
def test_what_stays(error: BaseException) -> None:
    assert not is_transient(error)


def raised(first: Exception, then: Exception, how: str) -> Exception:
    try:
        try:
            raise first
        except Exception:
            if how == "from":
                raise then from first
            if how == "from None":
                raise then from None
            raise then  # noqa: B904 - a cause without `from` is what is tested
    except Exception as error:
        return error


@pytest.mark.parametrize(("how", "expected"), [("from", True), ("while", True), ("from None", False)])
def test_causes_are_looked_through_as_a_traceback_shows_them(how: str, expected: bool) -> None:
    assert is_transient(raised(http_error(503), ShardError("read", 0, "x"), how)) is expected
    assert is_transient(raised(raised(TimeoutError(), OSError(5, "x"), "from"), ValueError("x"), how)) is expected


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_transient(first)


def test_the_verdict_survives_the_way_from_a_worker() -> None:
    error = raised(http_error(503), UnavailableError("x failed 6 times"), "from")
    travelled = pickle.loads(pickle.dumps(error))
    assert travelled.__cause__ is None, "this is why the type itself must say it"
    assert is_transient(travelled) and str(travelled) == "x failed 6 times"
    assert is_transient(pickle.loads(pickle.dumps(WorkerLostError("read", 0, "killed"))))


@pytest.mark.parametrize(
    ("error", "expected_s"),
    [
        (http_error(429), 0),
        (http_error(429, Retry_After="7"), 7),
        (s3_error("SlowDown", 503, **{"retry-after": "3"}), 3),
        (raised(http_error(429, Retry_After="7"), FileNotFoundError("a"), "from"), 7),
        (http_error(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), 0),
        (http_error(429, Retry_After="soon"), 0),
        (http_error(429, Retry_After="-5"), 0),
        (ValueError("x"), 0),
    ],
    ids=repr,
)
def test_retry_after(error: Exception, expected_s: float) -> None:
    assert retry_after_s(error) == expected_s


def failing(*errors: Exception) -> tuple[Callable[[], str], list[float]]:
    """A call that raises one error after the other and then returns; and when it was called."""
    waiting, calls = list(errors), []

    def call() -> str:
        calls.append(time.monotonic())
        if waiting:
            raise waiting.pop(0)
        return "done"

    return call, calls


def test_waits_grow_and_each_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    call, calls = failing(*[TimeoutError()] * 3)
    policy = Backoff(max_tries=4, first_wait_s=0.1, max_wait_s=10.0, max_waiting_s=10.0)
    assert retried(call, "reading", "https://u:secret@example.org/a?token=secret", backoff=policy) == "done"
    waits = [after - before for before, after in itertools.pairwise(calls)]
    for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert least <= wait < 2 * least + 0.3
    assert [record.message[:51] for record in caplog.records] == [
        "reading https://example.org/a failed (TimeoutError)"
    ] * 3
    assert "secret" not in caplog.text


def test_an_error_that_stays_is_raised_as_it_is_at_once() -> None:
    call, calls = failing(TimeoutError(), KeyError("x"), TimeoutError())
    with pytest.raises(KeyError):
        retried(call, "reading", "s3://b/a", backoff=FEW)
    assert len(calls) == 2


def test_the_last_try() -> None:
    call, calls = failing(*[s3_error("SlowDown", 503)] * 9)
    with pytest.raises(UnavailableError, match=r"^reading s3://b/a failed 3 times \(SlowDown: trouble\): run it again"):
        retried(call, "reading", "s3://b/a", backoff=FEW)
    assert len(calls) == 3


def test_patience_is_bounded_by_what_is_waited_in_all() -> None:
    call, calls = failing(*[http_error(429, Retry_After="1")] * 9)
    policy = Backoff(max_tries=9, first_wait_s=0.01, max_wait_s=0.02, max_waiting_s=1.5)
    with pytest.raises(UnavailableError, match=r"failed 2 times .* asks to wait 1 s"):
        retried(call, "reading", "s3://b/a", backoff=policy)
    assert len(calls) == 2
    assert BACKOFF.max_waiting_s >= 60, "a minute is what servers commonly ask for"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pw@example.org/a/b.warc?X-Amz-Signature=1#f", "https://example.org/a/b.warc"),
        ("https://example.org", "https://example.org"),
        ("s3://bucket/a?.warc", "s3://bucket/a?.warc"),
        ("s3://key:pw@bucket/a", "s3://bucket/a"),
        ("http://[::1/a?b", "http://[::1/a"),
        ("/a/folder/b?c#d.warc", "/a/folder/b?c#d.warc"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (http_error(403), "HTTP 403 Trouble"),
        (raised(http_error(403), FileNotFoundError("https://x/?token=secret"), "from"), "HTTP 403 Trouble"),
        (FileNotFoundError("https://x/?token=secret"), "it does not exist"),
        (raised(s3_error("AccessDenied", 403), PermissionError("x"), "from"), "AccessDenied: trouble"),
        (ValueError('a "k:secret@b"\n and https://h/p?token=secret'), 'ValueError: a "b" and https://h/p'),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=repr,
)
def test_errors_are_told_on_one_line_without_secrets(error: Exception, words: str) -> None:
    assert explained(error) == words


def test_a_refusal_names_the_address_and_keeps_an_unavailable_one() -> None:
    refused = refusal(http_error(403), "reading", "https://h/a?token=secret")
    assert str(refused) == "reading https://h/a failed (HTTP 403 Trouble): check the address and the rights to it"
    unavailable = UnavailableError("x")
    assert refusal(unavailable, "reading", "https://h/a") is unavailable
