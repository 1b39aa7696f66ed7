"""What the web holds: each bad record costs itself a ledger row with a reason, and the run goes on."""

from __future__ import annotations

import gzip
from pathlib import Path

from tasks.read.records import ReadLimits
from tests.data.prose import page, prose, warc_record
from tests.tasks.test_curation import refresh_in_process, rows, small_recipe


def _member(record: bytes) -> bytes:
    return gzip.compress(record, mtime=0)


def _without_url(record: bytes) -> bytes:
    return b"\r\n".join(line for line in record.split(b"\r\n") if not line.startswith(b"WARC-Target-URI"))


def _response(url: str, head: bytes, body: bytes) -> bytes:
    """A response whose HTTP head is given."""
    whole = warc_record(url, b"")
    warc_head = whole.split(b"\r\n\r\n")[0]
    http = head + b"\r\n\r\n" + body
    length = b"Content-Length: %d" % len(http)
    lines = [length if line.startswith(b"Content-Length") else line for line in warc_head.split(b"\r\n")]
    return b"\r\n".join(lines) + b"\r\n\r\n" + http + b"\r\n\r\n"


def _source(path: Path) -> dict[str, str | None]:
    """Write one WARC with one of each; the reason expected for each URL (None: kept)."""
    html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html"
    good, latin = page(prose("good")), page(prose("latin") + "\nCafé crème, naïve façade, déjà vu in the old town.")
    damaged = bytearray(_member(warc_record("https://damaged.example/", good)))
    damaged[40:60] = b"\0" * 20
    members = [
        _member(warc_record("https://good.example/", good)),
        bytes(damaged),
        _member(_without_url(warc_record("https://nourl.example/", page(prose("nourl"))))),
        _member(
            _response("https://charset.example/", html + b"; charset=no-such-charset", latin.decode().encode("latin-1"))
        ),
        _member(_response("https://empty.example/", html, b"")),
        _member(_response("https://blank.example/", html, b"<html><body> </body></html>")),
        _member(_response("https://big.example/", html, b"<p>" + b"large page " * 200_000)),
        _member(_response("https://bomb.example/", html, b"\0" * 30_000_000)),
        _member(_response("https://missing.example/", b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html", good)),
        _member(_response("https://image.example/", b"HTTP/1.1 200 OK\r\nContent-Type: image/png", b"\x89PNG")),
        _member(_response("https://deep.example/", html, page("Text").replace(b"Text", b"<div>" * 5000))),
        _member(warc_record("https://last.example/", page(prose("last")))),
    ]
    path.write_bytes(b"".join(members)[:-7])  # the last member is cut off
    return {
        "https://good.example/": None,
        "https://charset.example/": None,
        "https://empty.example/": "empty_page",
        "https://blank.example/": "no_content",
        "https://big.example/": "page_too_large",
        "https://missing.example/": "http_status",
        "https://image.example/": "not_html",
        "https://deep.example/": "too_deep",
    }


def test_every_bad_record_has_a_row_with_a_reason_and_the_run_goes_on(tmp_path: Path) -> None:
    expected = _source(tmp_path / "bad.warc.gz")
    recipe = small_recipe(reading=ReadLimits(max_page_bytes=1_000_000, max_record_bytes=10_000_000))
    path, manifest, _ = refresh_in_process(tmp_path / "store", tmp_path / "bad.warc.gz", recipe)
    ledger = rows(path, "ledger")
    assert len(ledger) == manifest["records_in"] == 12
    by_url = {row["url"]: row["reason"] for row in ledger if row["url"]}
    assert {url: by_url[url] for url in expected} == expected
    nameless = sorted((row["reason"], row["outcome"]) for row in ledger if row["url"] not in expected)
    assert nameless == [
        ("damaged", "quarantined"),
        ("damaged", "quarantined"),
        ("decompression_bomb", "quarantined"),
        ("no_url", "removed"),
    ]
    texts = {row["url"]: row["text"] for row in rows(path, "documents")}
    assert set(texts) == {"https://good.example/", "https://charset.example/"}
    # a charset that does not exist is guessed: all of it is text, though an accent may be another
    assert prose("latin").splitlines()[0] in texts["https://charset.example/"]
    assert "\ufffd" not in texts["https://charset.example/"]


def test_a_source_of_which_nothing_is_kept_is_published_with_its_reasons(tmp_path: Path) -> None:
    source = tmp_path / "short.warc.gz"
    source.write_bytes(b"".join(_member(warc_record(f"https://a.example/{i}", page(f"Word {i}."))) for i in range(3)))
    path, manifest, _ = refresh_in_process(tmp_path / "store", source)
    assert manifest["documents_kept"] == 0 and rows(path, "documents") == []
    assert len(rows(path, "ledger")) == 3
