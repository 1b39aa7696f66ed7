"""A web server on this machine that has one file, and troubles when it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Trouble:
    """What happens to one request. Without a status the body is cut off, or with `cut_after` None nothing is said."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None  # bytes of the body
    method: str = "any"


@dataclass
class WebServer:
    """The server's address, what still goes wrong (in order), and the requests it has seen."""

    address: str
    troubles: list[Trouble]
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and Range

    def seen(self, method: str) -> list[str]:
        """The Range of each request with this method."""
        return [wanted for name, wanted in self.requests if name == method]


@contextmanager
def web_server(content: bytes, *, ranges: bool = True, name: str = "/a.warc") -> Iterator[WebServer]:
    """Serve `content` under every path that begins with `name`."""
    served = WebServer("", [])

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            wanted = self.headers.get("Range", "")
            served.requests.append((self.command, wanted))
            trouble = None
            if served.troubles and served.troubles[0].method in ("any", self.command):
                trouble = served.troubles.pop(0)
            if trouble and trouble.status:
                self.send_response(trouble.status)
                for key, value in trouble.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(trouble.body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(trouble.body)
            elif trouble and trouble.cut_after is None:
                # closed with a reset instead of an end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif not self.path.startswith(name):
                self.send_error(404)
            else:
                self.serve(wanted, trouble.cut_after if trouble else None)

        def serve(self, wanted: str, cut_after: int | None) -> None:
            body = content
            if ranges and wanted:
                start, end = wanted.removeprefix("bytes=").split("-")
                body = content[int(start) : int(end) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{int(start) + len(body) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"v1"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut_after])
                self.close_connection = cut_after is not None

        def log_message(self, format: str, *args: object) -> None:
            pass

        def finish(self) -> None:
            if self.connection.fileno() >= 0:
                super().finish()

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
