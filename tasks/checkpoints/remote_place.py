"""A folder of checkpoints on an object store, through fsspec."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tasks.address import check_store_address, connect, redacted
from tasks.read.raw_file import open_handle
from tasks.remote_objects import children, content, put, remove
from tasks.transient import refusal, retried

T = TypeVar("T")


class RemotePlace:
    """A folder behind a URL. What can pass on a second try is tried again; ValueError, without credentials, else."""

    def __init__(self, address: str, filesystem: Any, path: str) -> None:
        self.address, self._filesystem, self._path = address, filesystem, path

    @classmethod
    def at(cls, address: str) -> RemotePlace:
        """Raises ValueError for an address of no kind that can be written to, or one that holds credentials."""
        scheme, _, rest = address.partition("://")
        if not rest.strip("/") or scheme in ("http", "https"):
            raise ValueError(
                f"checkpoints can't be kept at {redacted(address)!r}: give a folder, or an object store such as "
                "s3://bucket/prefix"
            )
        check_store_address(address, "the place for checkpoints")
        address = address.rstrip("/")
        try:
            filesystem, path = connect(address)
        except OSError as error:  # some kinds look for their server at once
            raise refusal(error, "connecting to", redacted(address)) from error
        return cls(address, filesystem, path.rstrip("/"))

    def child(self, name: str) -> RemotePlace:
        return RemotePlace(f"{self.address}/{name}", self._filesystem, f"{self._path}/{name}")

    def names(self) -> list[str]:
        return self._call("listing", "", lambda: children(self._filesystem, self._path))

    def sizes_bytes(self) -> dict[str, int]:
        def listed() -> dict[str, int]:
            if not children(self._filesystem, self._path):
                return {}
            entries = self._filesystem.ls(self._path, detail=True)
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}

        return self._call("listing", "", listed)

    def read(self, name: str) -> bytes | None:
        return self._call("reading", name, lambda: content(self._filesystem, f"{self._path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        self._call("writing", name, lambda: self._filesystem.pipe_file(f"{self._path}/{name}", content))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            file = Path(scratch, name)
            yield file
            targets = [f"{self._path}/{name}"]
            self._call("writing", name, functools.partial(put, self._filesystem, sources=[str(file)], targets=targets))

    def fetched(self, name: str, scratch: Path) -> Path:
        copy = scratch / name
        with open_handle(f"{self.address}/{name}") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 5 << 20)
        return copy

    def remove_file(self, name: str) -> None:
        self._call("removing", name, functools.partial(remove, self._filesystem, path=f"{self._path}/{name}"))

    def remove(self) -> None:
        for path in self._call("listing", "", lambda: self._filesystem.find(self._path)):
            self._call("removing", "", functools.partial(remove, self._filesystem, path=path))

    def _call(self, what: str, name: str, call: Callable[[], T]) -> T:
        """`call()`, tried again where that may help."""
        address = f"{self.address}/{name}".rstrip("/")
        try:
            return retried(call, what, address)
        except Exception as error:  # each storage has its own
            raise refusal(error, what, address) from error
