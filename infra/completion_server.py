"""The process that serves a model: its socket, its signals, and its end.

A signal to stop lets rows under way go on for some seconds and refuses new ones; then all answers end with an error
that says so, whole or in their stream, and the process ends. A second signal ends them at once.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from infra.completion_app import Served, completion_app

GRACE_S = 5.0
_STALLED_S = 30  # a client that takes no byte for so long is given up
_MORE_CONNECTIONS = 128  # than requests that are answered: clients that keep theirs open, and refusals


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at this address; port 0 takes a free one. ValueError where there is none to be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # handed on to each connection: what a client does not take would otherwise keep it open for ever
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_S * 1000)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ValueError(f"{host}, port {port}, can not be served: {error.strerror}; choose another --port") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Its URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class CompletionServer(uvicorn.Server):
    """Ends on SIGINT, SIGTERM and SIGHUP where it runs in the main thread, on `stop`, and where the model breaks."""

    def __init__(self, served: Served, announce: Callable[[], None]) -> None:
        """`announce` is called when requests are answered."""
        service = served.service
        super().__init__(
            uvicorn.Config(
                completion_app(served),
                http="h11",  # refuses headers of more than 64 KiB
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,  # warnings and errors go to standard error; nothing of requests is logged
                log_level="warning",
                access_log=False,
                server_header=False,
                limit_concurrency=service.max_rows + service.max_queue + _MORE_CONNECTIONS,
                timeout_graceful_shutdown=int(GRACE_S) + 5,
            )
        )
        self._service, self._announce = service, announce

    def serve_at(self, bound: socket.socket) -> int:
        """Serve until the end: exit code 0, or 1 where the model can not go on. Closes socket and service."""
        is_main = threading.current_thread() is threading.main_thread()
        is_hangup_ours = is_main and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as after nohup
        earlier = signal.signal(signal.SIGHUP, self.handle_exit) if is_hangup_ours else None
        try:
            self.run(sockets=[bound])
        finally:
            if is_hangup_ours:
                signal.signal(signal.SIGHUP, earlier)
            self._service.close()
            bound.close()
        return int(self._service.broken)

    def stop(self) -> None:
        """What a signal does."""
        if self.should_exit:
            self._service.drain(0)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        ends = await super().on_tick(counter) or self._service.broken
        if ends:
            self._service.drain(GRACE_S)
        return ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.stop()
