"""Common Crawl on this machine: the same layout behind a local web server, whose troubles the test decides."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from tasks.source_names import CrawlAddresses

Trouble = Literal["", "503", "cut", "no ranges"]
CRAWL = "CC-MAIN-2025-38"
OLDER_CRAWL = "CC-MAIN-2025-33"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    wanted_range: str


@dataclass
class CrawlServer:
    """The files by path, what goes wrong with which request, and the requests so far."""

    files: dict[str, bytes]
    trouble: Callable[[Request], Trouble] = lambda request: ""
    address: str = ""
    requests: list[Request] = field(default_factory=list)
    met: list[Trouble] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def addresses(self) -> CrawlAddresses:
        return CrawlAddresses(data=self.address, index=f"{self.address}/index/")

    def seen(self, method: str, ending: str = "") -> list[str]:
        """The paths of the requests so far."""
        return [one.path for one in self.requests if one.method == method and one.path.endswith(ending)]


def crawl_files(
    warcs: Sequence[bytes], crawl: str = CRAWL, crawls: Sequence[str] = (CRAWL, OLDER_CRAWL)
) -> dict[str, bytes]:
    """A crawl of these WARC files, each with a WET file of one word, by path; and the list of crawls."""
    files = {"/index/collinfo.json": json.dumps([{"id": name, "name": f"{name} Index"} for name in crawls]).encode()}
    listings: Mapping[str, list[str]] = {"warc": [], "wet": []}
    for number, content in enumerate(warcs):
        segment = f"crawl-data/{crawl}/segments/17570{number % 2}.7"
        stem = f"CC-MAIN-20250905112101-20250905142101-{number:05d}"
        for kind, name, body in (("warc", f"{stem}.warc.gz", content), ("wet", f"{stem}.warc.wet.gz", b"text")):
            listings[kind].append(f"{segment}/{kind}/{name}")
            files[f"/{segment}/{kind}/{name}"] = body
    for kind, paths in listings.items():
        files[f"/crawl-data/{crawl}/{kind}.paths.gz"] = gzip.compress(
            "".join(f"{path}\n" for path in paths).encode(), mtime=0
        )
    return files


@contextmanager
def crawl_server(files: dict[str, bytes]) -> Iterator[CrawlServer]:
    """Serve `files`; ranges are served, and a request's trouble is asked for once for each request."""
    served = CrawlServer(files)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            request = Request(self.command, self.path, self.headers.get("Range", ""))
            with served.lock:
                served.requests.append(request)
                trouble = served.trouble(request)
                served.met += [trouble] if trouble else []
            content = served.files.get(self.path)
            if trouble == "503":
                self.say(503, b"Please reduce your request rate.", {})
            elif content is None:
                self.say(404, b"no such key", {})
            elif request.wanted_range and trouble != "no ranges":
                start, end = (int(number) for number in request.wanted_range.removeprefix("bytes=").split("-"))
                part = content[start : end + 1]
                place = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"}
                self.say(206, part, place, cut=trouble == "cut")
            else:
                self.say(200, content, {}, cut=trouble == "cut")

        def say(self, status: int, body: bytes, fields: Mapping[str, str], cut: bool = False) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), "ETag": f'"{self.path}"', "Accept-Ranges": "bytes", **fields}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.close_connection = cut
            if self.command == "GET":
                try:
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                except ConnectionError:  # who asked for a part and got the whole has gone away
                    self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
