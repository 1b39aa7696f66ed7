"""Reading a remote file whose server has troubles, on real servers."""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Iterator

import fsspec
import pytest

from tasks.address import connect
from tasks.read.raw_file import BLOCK_BYTES, open_handle, open_raw
from tasks.transient import Backoff, UnavailableError, is_transient
from tests.tasks.read.web_server import Trouble, WebServer, web_server

CONTENT = random.Random(0).randbytes(13 * BLOCK_BYTES + 7)  # several of fsspec's requests


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.transient.BACKOFF", Backoff(4, first_wait_s=0.01, max_wait_s=0.05, max_waiting_s=5.0))


def read_all(address: str) -> bytes:
    with open_raw(address) as raw:
        return b"".join(raw.read_at(offset, BLOCK_BYTES) for offset in range(0, len(CONTENT), BLOCK_BYTES))


def test_a_read_that_meets_503_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with web_server(CONTENT) as server:
        server.troubles = [Trouble(503, method="GET")] * 3
        assert read_all(f"{server.address}/a.warc?token=secret") == CONTENT
    assert len(caplog.records) == 3
    assert f"reading {server.address}/a.warc failed (HTTP 503" in caplog.text and "try 3 of 4" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(as_date: bool) -> None:
    with web_server(CONTENT[:10]) as server, open_handle(f"{server.address}/a.warc") as handle:
        wait_s = email.utils.formatdate(time.time() + 3, usegmt=True) if as_date else "2"  # a date has whole seconds
        server.troubles = [Trouble(429, {"Retry-After": wait_s}, method="GET")]
        handle.seek(0)
        started = time.monotonic()
        # fsspec holds the last bytes, which were read to learn whether parts can be had
        assert handle.read(5) == CONTENT[:5] and not server.troubles
        assert 1.9 < time.monotonic() - started < 4


def test_a_server_that_asks_for_more_patience_than_there_is_is_given_up_at_once() -> None:
    with web_server(CONTENT) as server, open_handle(f"{server.address}/a.warc") as handle:
        server.troubles = [Trouble(429, {"Retry-After": "3600"}, method="GET")]
        started = time.monotonic()
        with pytest.raises(UnavailableError, match=r"failed 1 times \(HTTP 429.*asks to wait 3600 s"):
            handle.read(5)
        assert time.monotonic() - started < 1


def starts(server: WebServer) -> list[int]:
    return [int(wanted.removeprefix("bytes=").partition("-")[0]) for wanted in server.seen("GET") if wanted]


@pytest.mark.parametrize("trouble", [Trouble(cut_after=100_000, method="GET"), Trouble(method="GET")])
def test_a_cut_connection_is_taken_up_where_it_was(trouble: Trouble) -> None:
    with web_server(CONTENT) as server:
        with open_raw(f"{server.address}/a.warc") as raw:
            first = raw.read_at(0, 9 * BLOCK_BYTES)
            before = len(server.requests)
            server.troubles = [trouble]
            rest = raw.read_at(9 * BLOCK_BYTES, len(CONTENT))
        assert first + rest == CONTENT
        again = starts(server)[before - len(server.requests) :]
        assert again[0] == again[1], "the part that was cut is asked for again"
        assert min(again) > BLOCK_BYTES, "nothing that had come is asked for again"
        assert not server.troubles


def test_a_server_without_ranges_sends_all_again() -> None:
    with web_server(CONTENT, ranges=False) as server:
        # the first request is for the last byte alone; what comes shows that parts can't be had
        server.troubles = [Trouble(cut_after=1, method="GET"), Trouble(cut_after=300_000, method="GET")]
        assert read_all(f"{server.address}/a.warc") == CONTENT
        assert len(server.seen("GET")) == 3 and not server.troubles


def test_after_the_last_try_it_is_one_line() -> None:
    with web_server(CONTENT) as server, open_handle(f"{server.address}/a.warc?token=secret") as handle:
        server.troubles = [Trouble(503, method="GET")] * 99
        server.requests.clear()
        with pytest.raises(UnavailableError, match=r"^reading http://127\.0\.0\.1:\d+/a\.warc failed 4 times") as error:
            handle.read(5)
        assert len(server.requests) == 4
        assert is_transient(error.value)
        assert "\n" not in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_cannot_pass_on_a_second_try_fails_at_once(status: int) -> None:
    with web_server(CONTENT) as server, open_handle(f"{server.address}/a.warc?token=secret") as handle:
        server.troubles = [Trouble(status, method="GET")] * 9
        server.requests.clear()
        with pytest.raises(ValueError, match=f"HTTP {status}") as error:
            handle.read(5)
        assert len(server.requests) == 1
        assert not is_transient(error.value)
        assert "secret" not in str(error.value)


def test_an_absent_file_is_asked_for_once() -> None:
    with web_server(CONTENT) as server:
        with pytest.raises(ValueError, match="HTTP 404"), open_handle(f"{server.address}/absent.warc?token=secret"):
            pass
        assert [method for method, _ in server.requests] == ["HEAD", "GET"]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """The same server as an S3 endpoint that has the object s3://bucket/a.warc."""
    with web_server(CONTENT, name="/bucket/a.warc") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield server
        fsspec.get_filesystem_class("s3").clear_instance_cache()


SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def test_s3_is_eased_off_when_it_says_slow_down(s3: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    s3.troubles = [Trouble(503, body=SLOW_DOWN, method="HEAD"), *[Trouble(503, body=SLOW_DOWN, method="GET")] * 3]
    assert read_all("s3://bucket/a.warc") == CONTENT
    assert len(caplog.records) == 4, "one line for each: the libraries try nothing again behind our back"
    assert "reading s3://bucket/a.warc failed (SlowDown: Please reduce your request rate.)" in caplog.text


def test_s3_that_cuts_a_body_is_asked_for_that_part_again(s3: WebServer) -> None:
    s3.troubles = [Trouble(cut_after=1000, method="GET")]
    assert read_all("s3://bucket/a.warc") == CONTENT
    assert starts(s3)[0] == starts(s3)[1]


def test_s3_that_refuses_is_believed(s3: WebServer) -> None:
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with open_handle("s3://bucket/a.warc") as handle:
        s3.troubles = [Trouble(403, body=denied, method="GET")] * 9
        s3.requests.clear()
        with pytest.raises(ValueError, match="AccessDenied: Access Denied") as error:
            handle.read(5)
    assert len(s3.requests) == 1
    assert not is_transient(error.value)


def test_a_long_download_is_not_ended_by_the_clock() -> None:
    filesystem, _ = connect("http://127.0.0.1:1/a.warc")
    assert filesystem.client_kwargs["timeout"].total is None


def test_reading_to_the_end_asks_for_parts() -> None:
    with web_server(CONTENT) as server:
        with open_handle(f"{server.address}/a.warc") as handle:
            assert handle.read() == CONTENT
        assert all(re.fullmatch(r"bytes=\d+-\d+", wanted) for wanted in server.seen("GET"))
