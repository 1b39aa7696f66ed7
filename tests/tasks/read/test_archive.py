"""WARC and ARC records: what goes on, and the reason of what does not."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from tasks.document import Drop, Record
from tests.tasks.read.warc_bytes import http, read_all, reasons, warc

PAGE = b"<html><p>A page"


def only(path: Path, data: bytes, file_name: str = "a.warc") -> Record:
    (path / file_name).write_bytes(data)
    (record,) = read_all(path / file_name)
    return record


def test_every_field_of_a_page(tmp_path: Path) -> None:
    record = only(tmp_path, warc(http(PAGE, media_type="text/html; charset=Windows-1252"), number=7))
    digest = hashlib.sha256(PAGE).hexdigest()
    identity = "\0".join(
        ["urn:uuid:0007", digest, "http://example.org/7", "2024-05-01T12:00:00Z", "html", "windows-1252", ""]
    )
    assert record == Record(
        base_id=hashlib.sha256(identity.encode()).hexdigest()[:32],
        payload_digest=digest,
        source="test",
        source_file=str(tmp_path / "a.warc"),
        source_offset=0,
        url="http://example.org/7",
        date="2024-05-01T12:00:00Z",
        kind="html",
        content=PAGE,
        charset="windows-1252",
    )


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (http(PAGE, status="404 Not Found"), Drop("http_status", 404.0, 200.0)),
        (http(PAGE, status="301 Moved"), Drop("http_status", 301.0, 200.0)),
        (http(PAGE, media_type="image/png"), Drop("not_html", detail="image/png")),
        (http(PAGE, media_type="application/xhtml+xml"), None),
        (http(PAGE, media_type="TEXT/HTML"), None),
        (http(PAGE, media_type=None), None),
        (
            http(b"%PDF-1.7", media_type=None),
            Drop("not_html", detail="no Content-Type, and does not begin like a page"),
        ),
        (http(b""), Drop("empty_page", 0.0, 1.0)),
        (http(b"\x1f\x8bxx", "Content-Encoding: gzip"), "unreadable"),
        (PAGE, Drop("unreadable", detail="the response has no HTTP status line")),
    ],
)
def test_responses(tmp_path: Path, block: bytes, problem: Drop | str | None) -> None:
    record = only(tmp_path, warc(block))
    if isinstance(problem, str):
        assert record.problem is not None and record.problem.reason == problem
    else:
        assert record.problem == problem
    assert record.content == (PAGE if record.problem is None else b"")


def test_status_decides_before_the_body_does(tmp_path: Path) -> None:
    record = only(tmp_path, warc(http(b"\x1f\x8bxx", "Content-Encoding: gzip", status="500 No")))
    assert record.problem == Drop("http_status", 500.0, 200.0)


def test_a_record_without_url(tmp_path: Path) -> None:
    assert only(tmp_path, warc(http(PAGE), url=None)).problem == Drop("no_url")
    assert only(tmp_path, warc(b"text", kind="conversion", url=None)).problem == Drop("no_url")


def test_urls_in_angle_brackets_and_with_spaces(tmp_path: Path) -> None:
    assert only(tmp_path, warc(http(PAGE), url="<http://example.org/a b>")).url == "http://example.org/a b"


@pytest.mark.parametrize(
    ("kind", "media_type", "expected"),
    [
        ("conversion", "text/plain", ("text", "")),
        ("conversion", "", ("text", "")),
        ("conversion", "image/png", ("text", "not_html")),
        ("resource", "text/plain; charset=utf-8", ("text", "")),
        ("resource", "text/html; charset=latin-1", ("html", "")),
        ("resource", "application/pdf", ("text", "not_html")),
        ("response", "text/dns", ("text", "not_html")),
    ],
)
def test_stored_records(tmp_path: Path, kind: str, media_type: str, expected: tuple[str, str]) -> None:
    record = only(tmp_path, warc(b"some text", kind=kind, media_type=media_type))
    assert (record.kind, *reasons([record])) == expected


def test_texts_are_utf8_or_unreadable(tmp_path: Path) -> None:
    latin = "größer".encode("latin-1")
    declared = only(tmp_path, warc(latin, kind="resource", media_type="text/plain; charset=iso-8859-1"))
    assert declared.content == "größer".encode()
    assert declared.payload_digest == hashlib.sha256(latin).hexdigest()
    assert reasons([only(tmp_path, warc(latin, kind="resource"))]) == ["unreadable"]
    assert reasons([only(tmp_path, warc(latin, kind="resource", media_type="text/plain; charset=x-no"))]) == [
        "unreadable"
    ]
    assert reasons([only(tmp_path, warc(latin, kind="resource", media_type="text/plain; charset=rot13"))]) == [
        "unreadable"
    ]


@pytest.mark.parametrize("kind", ["warcinfo", "request", "metadata", "revisit"])
def test_what_is_no_record(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.warc").write_bytes(warc(b"x", kind=kind) + warc(http(PAGE)))
    assert len(read_all(tmp_path / "a.warc")) == 1


def test_identity_is_all_that_decides_what_becomes_of_a_record(tmp_path: Path) -> None:
    changed = {
        "nothing": warc(http(PAGE)),
        "record id": warc(http(PAGE), record_id=None),
        "url": warc(http(PAGE), url="http://example.org/other"),
        "date": warc(http(PAGE)).replace(b"WARC-Date: 2024", b"WARC-Date: 2025"),
        "payload": warc(http(PAGE + b" ")),
        "charset": warc(http(PAGE, media_type="text/html; charset=latin-1")),
        "status": warc(http(PAGE, status="404 Not Found")),
        "other status": warc(http(PAGE, status="410 Gone")),
        "reason": warc(http(PAGE, media_type="image/png")),
    }
    ids = {what: only(tmp_path, data).base_id for what, data in changed.items()}
    assert len(set(ids.values())) == len(ids)
    compressed = warc(http(gzip.compress(PAGE), "Content-Encoding: gzip"))
    assert only(tmp_path, compressed).base_id == ids["nothing"]
    other_detail = only(tmp_path, warc(http(PAGE, media_type="image/gif")))  # told in the ledger, and decides nothing
    assert other_detail.base_id == ids["reason"]


def arc(url: str, date: str, media_type: str, block: bytes) -> bytes:
    return f"{url} 127.0.0.1 {date} {media_type} {len(block)}\n".encode() + block + b"\n"


ARC_HEAD = arc("filedesc://a.arc", "20140216050221", "text/plain", b"1 0 Test\nURL IP-address Archive-date ...\n")


@pytest.mark.parametrize("layout", ["plain", "members", "one"])
def test_arc(tmp_path: Path, layout: str) -> None:
    parts = [
        ARC_HEAD,
        arc("http://example.org/a b", "20140216050221", "text/html", http(PAGE)),
        arc("dns:example.org", "null", "text/dns", b"1.2.3.4"),
        arc("http://example.org/c", "null", "text/html", http(PAGE).replace(b"\r\n", b"\n")),
    ]
    joined = b"".join(parts)
    data = {"plain": joined, "one": gzip.compress(joined), "members": b"".join(map(gzip.compress, parts))}[layout]
    (tmp_path / f"a.arc{'' if layout == 'plain' else '.gz'}").write_bytes(data)
    records = read_all(next(tmp_path.iterdir()), max_records=1)
    assert [(r.url, r.date, *reasons([r])) for r in records] == [
        ("http://example.org/a b", "2014-02-16T05:02:21Z", ""),
        ("dns:example.org", "", "not_html"),
        ("http://example.org/c", "", ""),
    ]


def test_arc_with_a_wrong_length_loses_one_record(tmp_path: Path) -> None:
    good = [arc(f"http://example.org/{n}", "20140216050221", "text/html", http(PAGE)) for n in range(3)]
    length = str(len(http(PAGE))).encode()
    good[1] = good[1].replace(b" " + length + b"\n", b" 99999\n", 1)
    (tmp_path / "a.arc").write_bytes(ARC_HEAD + b"".join(good))
    assert reasons(read_all(tmp_path / "a.arc")) == ["", "damaged", ""]
