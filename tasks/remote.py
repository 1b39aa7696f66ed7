"""Published folders on an object store that several machines share.

Object stores have no rename, so a folder there becomes complete by its last object. Below the remote address:

<folder>/<path>.<hash><suffix>   every file, under its name and the leading part of its own SHA-256: two publishers of
                                 the same folder never write to the same object, unless it is the same content
<folder>/files-<hash>.json       path, size and SHA-256 of them all; the hash is that of the manifest they belong to
<folder>/manifest.json           the folder's own, unchanged; put last, and only where there is none

That last put is conditional (If-None-Match) on S3, so of two publishers one wins. Other storages of fsspec look first
and put then: for them, publish from one machine.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import botocore.exceptions
import fsspec
from pydantic import Field, ValidationError, field_validator

from tasks.address import connect, explained, redacted
from tasks.atomic import TEMPORARY_PREFIX, move_directory, write_file
from tasks.manifest import MANIFEST
from tasks.read.raw_file import open_handle
from tasks.rule import Configuration
from tasks.transient import QUICK_BACKOFF, UnavailableError, refusal, retried

T = TypeVar("T")

_HASH_DIGITS = 16  # of a name; the whole hash is in the list of files
_BATCH_FILES = 4  # sent at a time, and again where one of them fails; s3fs holds each in memory, up to 100 MB
_COPY_BYTES = 5 << 20

logger = logging.getLogger(__name__)


class TakenError(ValueError):
    """Another machine has published a folder of this name with other content."""


class _File(Configuration):
    """A file of a published folder."""

    path: str = Field(min_length=1)
    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_in_the_folder(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path!r} leads out of the folder")
        return path

    @property
    def key(self) -> str:
        """Its name below the remote folder."""
        path = PurePosixPath(self.path)
        return str(path.with_name(f"{path.stem}.{self.sha256[:_HASH_DIGITS]}{path.suffix}"))


class _Files(Configuration):
    files: tuple[_File, ...]


@dataclass(frozen=True)
class Remote:
    """A remote location, and what can be done with the published folders in it. Folders are named relative to it.

    Every method raises UnavailableError where the storage still fails after several tries, and ValueError, in one line
    without credentials, where it refuses.
    """

    address: str

    @classmethod
    def at(cls, address: str) -> Remote:
        """The location `address`, such as s3://bucket/prefix; not looked at yet. ValueError where it can't be one."""
        scheme, separator, rest = address.partition("://")
        if not separator or not rest.strip("/") or scheme in ("file", "local", "http", "https"):
            raise ValueError(
                f"{redacted(address)!r} is no object store for published corpora: give one such as s3://bucket/prefix"
            )
        if "@" in rest.partition("/")[0]:
            raise ValueError(
                f"the remote store {redacted(address)} was given with credentials in its address: leave them to the"
                " environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
            )
        try:
            fsspec.get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise ValueError(f"remote store {redacted(address)!r}: {error}") from error
        return cls(address.rstrip("/"))

    @functools.cached_property
    def _connection(self) -> tuple[Any, str]:
        return connect(self.address)

    def _path(self, *parts: str) -> str:
        return "/".join((self._connection[1], *(part for part in parts if part)))

    def _call(self, what: str, folder: str, call: Callable[[Any], T]) -> T:
        """`call(filesystem)`, tried again where that may help."""
        address = f"{self.address}/{folder}".rstrip("/")
        try:
            return retried(lambda: call(self._connection[0]), what, address)
        except Exception as error:  # each storage has its own
            raise refusal(error, what, address) from error

    def check(self) -> None:
        """ValueError within seconds where the location can't be listed."""
        try:
            retried(
                lambda: _children(self._connection[0], self._path()), "listing", self.address, backoff=QUICK_BACKOFF
            )
        except Exception as error:
            reason = error.__cause__ if isinstance(error, UnavailableError) and error.__cause__ else error
            raise ValueError(
                f"the remote store {redacted(self.address)} cannot be reached ({explained(reason)}): check its address,"
                " the endpoint (AWS_ENDPOINT_URL) and the credentials, or unset TOKENMILL_REMOTE"
            ) from error

    def folders(self, folder: str) -> list[str]:
        """Names of what is directly under `folder`, complete or not; none where there is no such folder."""
        return self._call("listing", folder, lambda filesystem: _children(filesystem, self._path(folder)))

    def is_complete(self, folder: str) -> bool:
        """Whether `folder` is published."""
        return self._call(
            "looking at", folder, lambda filesystem: _info(filesystem, self._path(folder, MANIFEST)) is not None
        )

    def manifest(self, folder: str) -> bytes | None:
        """The manifest of a published folder, None where there is none."""
        return self._call("reading", folder, lambda filesystem: _content(filesystem, self._path(folder, MANIFEST)))

    def upload(self, local: Path, folder: str) -> None:
        """Publish the complete folder `local` as `folder`; nothing is sent where it is there already.

        What an earlier, killed upload has sent is not sent again. Raises TakenError where another machine was first,
        and ValueError where `local` is not what its manifest says.
        """
        manifest = (local / MANIFEST).read_bytes()
        winner = self.manifest(folder)
        if winner is None:
            files = _listed(local, manifest)
            self._send(local, folder, files)
            winner = self._complete(folder, manifest, files)
            if winner != manifest:
                self._withdraw(folder, files, winner)
        if winner != manifest:
            raise TakenError(
                f"another machine has published {folder} in {redacted(self.address)} first, with other content"
            )

    def fetch(self, folder: str, destination: Path) -> None:
        """Copy a published folder here, complete or not at all. The caller holds a lock for `destination`.

        What an earlier, killed copy has got is kept. Raises ValueError where the remote is damaged.
        """
        manifest = self.manifest(folder)
        if manifest is None:
            raise ValueError(f"{redacted(self.address)} holds no published {folder}")
        unfinished = destination.parent / f"{TEMPORARY_PREFIX}fetch-{destination.name}"
        unfinished.mkdir(parents=True, exist_ok=True)
        logger.info("fetching %s from %s", folder, redacted(self.address))
        for file in self._files(folder, manifest):
            target = unfinished / file.path
            if not target.is_file() or _sha256(target) != file.sha256:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_file(folder, file, target)
        write_file(unfinished / MANIFEST, manifest)
        if destination.exists():  # without a manifest: left by somebody, and no published folder
            shutil.rmtree(destination)
        move_directory(unfinished, destination)

    def _fetch_file(self, folder: str, file: _File, target: Path) -> None:
        address = f"{self.address}/{folder}/{file.key}"
        digest = hashlib.sha256()
        with open_handle(address) as source, target.open("wb") as copy:
            while block := source.read(_COPY_BYTES):
                digest.update(block)
                copy.write(block)
        if digest.hexdigest() != file.sha256:
            target.unlink()
            raise ValueError(
                f"{redacted(address)} is damaged: its SHA-256 is not the published one;"
                " restore it, or remove the folder there and upload it again from the machine that made it"
            )

    def _send(self, local: Path, folder: str, files: Iterable[_File]) -> None:
        def sizes(filesystem: Any) -> dict[str, int]:
            found = filesystem.find(self._path(folder), detail=True)
            return {name: info["size"] for name, info in found.items()}

        there = self._call("listing", folder, sizes)
        missing = [file for file in files if there.get(self._path(folder, file.key)) != file.num_bytes]
        logger.info("uploading %d files of %s to %s", len(missing), folder, redacted(self.address))
        for batch in _batches(missing):
            sources = [str(local / file.path) for file in batch]
            targets = [self._path(folder, file.key) for file in batch]
            self._call("writing", folder, functools.partial(_put, sources=sources, targets=targets))

    def _complete(self, folder: str, manifest: bytes, files: tuple[_File, ...]) -> bytes:
        """Put list and manifest; the manifest that is there then, which is another one where another was first."""
        listing = _Files(files=files).model_dump_json(indent=1).encode()
        name = self._path(folder, _list_name(manifest))
        self._call("writing", folder, lambda filesystem: filesystem.pipe_file(name, listing))
        self._call("writing", folder, functools.partial(_create, path=self._path(folder, MANIFEST), content=manifest))
        there = self.manifest(folder)
        if there is None:
            raise ValueError(f"another machine publishes {folder} at this moment: run it again")
        return there

    def _withdraw(self, folder: str, files: Iterable[_File], winner: bytes) -> None:
        """Remove what was sent in vain."""
        kept = {file.key for file in self._files(folder, winner)}
        for file in files:
            if file.key not in kept:
                path = self._path(folder, file.key)
                self._call("removing", folder, functools.partial(_remove, path=path))

    def _files(self, folder: str, manifest: bytes) -> tuple[_File, ...]:
        name = _list_name(manifest)
        content = self._call("reading", folder, lambda filesystem: _content(filesystem, self._path(folder, name)))
        try:
            return _Files.model_validate_json(content or b"").files
        except ValidationError as error:
            raise ValueError(
                f"{redacted(self.address)}/{folder}/{name} is missing or damaged: restore it, or remove the folder"
                " there and upload it again from the machine that made it"
            ) from error


def _list_name(manifest: bytes) -> str:
    return f"files-{hashlib.sha256(manifest).hexdigest()[:_HASH_DIGITS]}.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(local: Path, manifest: bytes) -> tuple[_File, ...]:
    """The folder's files without its manifest. ValueError where one differs from what the manifest says of it."""
    files = tuple(
        _File(path=str(path.relative_to(local)), num_bytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(local.rglob("*"))
        if path.is_file() and path != local / MANIFEST
    )
    found = {file.path: file.sha256 for file in files}
    for part in json.loads(manifest).get("parts", ()):
        if found.get(part["path"]) != part["sha256"]:
            raise ValueError(f"{local / part['path']} is missing or damaged: it is not what {MANIFEST} says of it")
    return files


def _batches(files: Iterable[_File]) -> Iterator[list[_File]]:
    waiting = iter(files)
    while batch := list(islice(waiting, _BATCH_FILES)):
        yield batch


def _is_missing_bucket(error: FileNotFoundError) -> bool:
    cause = error.__cause__
    return isinstance(cause, botocore.exceptions.ClientError) and cause.response["Error"].get("Code") == "NoSuchBucket"


def _children(filesystem: Any, path: str) -> list[str]:
    try:
        names: list[str] = filesystem.ls(path, detail=False)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in names)


def _info(filesystem: Any, path: str) -> dict[str, Any] | None:
    """What the storage knows of an object; None where there is none."""
    try:
        info: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return None
    return info


def _content(filesystem: Any, path: str) -> bytes | None:
    """A small object's bytes; None where there is none."""
    try:
        content: bytes = filesystem.cat_file(path)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return None
    return content


def _put(filesystem: Any, *, sources: list[str], targets: list[str]) -> None:
    filesystem.put(sources, targets)


def _remove(filesystem: Any, *, path: str) -> None:
    filesystem.rm_file(path)


def _create(filesystem: Any, *, path: str, content: bytes) -> None:
    """Put an object where there is none. One that is there stays, and so does what another puts at this moment.

    The caller looks at what is there: it may be this very content, when the answer to an earlier try was lost.
    """
    try:
        filesystem.pipe_file(path, content, mode="create")
    except FileExistsError:
        logger.info("%s is there already", path)
    except OSError as error:
        cause = error.__cause__
        if not isinstance(cause, botocore.exceptions.ClientError):
            raise
        # S3's answer to two conditional puts at once, of which the other may still fail
        if cause.response["Error"].get("Code") != "ConditionalRequestConflict":
            raise
