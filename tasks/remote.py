"""Published folders on an object store that several machines share.

Object stores have no rename, so a folder there becomes complete by its last object. Below the remote address:

objects/<2 digits>/<SHA-256>     the files of all folders, each content once: what a version shares with the one before
                                 is not sent again, and two publishers never write to the same object, unless it is the
                                 same content
<folder>/files-<hash>.json       path, size and SHA-256 of its files; the hash is that of the manifest they belong to
<folder>/manifest.json           the folder's own, unchanged; put last, and only where there is none

That last put is conditional (If-None-Match) on S3, so of two publishers one wins. Other storages of fsspec look first
and put then: for them, publish from one machine.

The list is put first: from then on its objects count as named, also those of an upload that is still going on. An
object is removed only when a folder is withdrawn or replaced, and only if no list names it. What a publisher sent in
vain stays, because another one may have counted on it a moment ago. One gap is left: an upload that begins in the
seconds between the look at all lists and the removal may count on an object that goes; so no two machines should
purge and publish at once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from tasks.address import check_store_address, connect, explained, redacted
from tasks.atomic import TEMPORARY_PREFIX, link_file, move_directory, write_file
from tasks.manifest import MANIFEST
from tasks.read.raw_file import open_handle
from tasks.remote_objects import children, content, create, find, info, put, remove
from tasks.rule import Configuration
from tasks.transient import QUICK_BACKOFF, UnavailableError, refusal, retried

T = TypeVar("T")

_OBJECTS = "objects"
_HASH_DIGITS = 16  # of a manifest's, in the name of its list
_LOOKS_AT_ONCE = 16  # requests of a few bytes each, which are nothing but waiting
_BATCH_FILES = 4  # sent at a time, and again where one of them fails; s3fs holds each in memory, up to 100 MB
_COPY_BYTES = 5 << 20
_LIST_NAME = re.compile(rf"files-[0-9a-f]{{{_HASH_DIGITS}}}\.json")

logger = logging.getLogger(__name__)


class TakenError(ValueError):
    """Another machine has published a folder of this name with other content."""


class RemoteFile(Configuration):
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
        """Its name below the remote address."""
        return f"{_OBJECTS}/{self.sha256[:2]}/{self.sha256}"


class _Files(Configuration):
    """The content of a list. The layout before this one, the first, had every file in its own folder."""

    layout: Literal[2]
    files: tuple[RemoteFile, ...]


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
        check_store_address(address, "the remote store")
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
            retried(lambda: children(self._connection[0], self._path()), "listing", self.address, backoff=QUICK_BACKOFF)
        except Exception as error:
            reason = error.__cause__ if isinstance(error, UnavailableError) and error.__cause__ else error
            raise ValueError(
                f"the remote store {redacted(self.address)} cannot be reached ({explained(reason)}): check its address,"
                " the endpoint (AWS_ENDPOINT_URL) and the credentials, or unset TOKENMILL_REMOTE"
            ) from error

    def folders(self, folder: str) -> list[str]:
        """Names of what is directly under `folder`, complete or not; none where there is no such folder."""
        return self._call("listing", folder, lambda filesystem: children(filesystem, self._path(folder)))

    def is_complete(self, folder: str) -> bool:
        """Whether `folder` is published."""
        return self._call(
            "looking at", folder, lambda filesystem: info(filesystem, self._path(folder, MANIFEST)) is not None
        )

    def manifest(self, folder: str) -> bytes | None:
        """The manifest of a published folder, None where there is none."""
        return self._call("reading", folder, lambda filesystem: content(filesystem, self._path(folder, MANIFEST)))

    def upload(self, local: Path, folder: str) -> None:
        """Publish the complete folder `local` as `folder`; nothing is sent where it is there already.

        A file that is there, by whatever folder or killed upload, is not sent again. Raises TakenError where another
        machine was first, and ValueError where `local` is not what its manifest says.
        """
        manifest = (local / MANIFEST).read_bytes()
        winner = self.manifest(folder)
        if winner is None:
            self._send(local, folder, manifest)
            self._call(
                "writing", folder, functools.partial(create, path=self._path(folder, MANIFEST), content=manifest)
            )
            winner = self.manifest(folder)
            if winner is None:
                raise ValueError(f"another machine publishes {folder} at this moment: run it again")
            if winner != manifest:
                self._remove([self._path(folder, _list_name(manifest))], folder)
        if winner != manifest:
            raise TakenError(
                f"another machine has published {folder} in {redacted(self.address)} first, with other content"
            )

    def replace(self, local: Path, folder: str) -> None:
        """Publish the complete folder `local` as `folder`, instead of what that name has meant.

        The name means one or the other at any moment. Then objects go that only the earlier content had named. Killed
        at any point, it is completed by another call, with the same content.
        """
        manifest = (local / MANIFEST).read_bytes()
        self._send(local, folder, manifest)
        path = self._path(folder, MANIFEST)
        self._call("writing", folder, lambda filesystem: filesystem.pipe_file(path, manifest))
        self._forget([path for path in self._lists(folder) if not path.endswith(f"/{_list_name(manifest)}")], folder)

    def withdraw(self, folder: str) -> None:
        """Remove `folder`, published or half sent, and those of its objects that no other folder names.

        Nothing happens where there is none. Killed at any point, it is completed by another call. Raises ValueError,
        before anything but the folder's manifest is removed, where a list cannot be read: it may name any object.
        """
        manifest = self._path(folder, MANIFEST)
        if self.is_complete(folder):
            self._remove([manifest], folder)
        self._forget(self._lists(folder), folder)

    def _listing(self, folder: str) -> tuple[bytes, tuple[RemoteFile, ...]]:
        """The manifest of a published folder, and its other files. ValueError where it is not there, or damaged."""
        manifest = self.manifest(folder)
        if manifest is None:
            raise ValueError(f"{redacted(self.address)} holds no published {folder}")
        return manifest, self._listed_there(self._path(folder, _list_name(manifest)))

    def fetch(self, folder: str, destination: Path, known: Mapping[str, Path]) -> None:
        """Copy a published folder here, complete or not at all. The caller holds a lock for `destination`.

        Files that are `known` here, by their SHA-256, are linked, and what an earlier, killed copy has got is kept.
        Raises ValueError where the remote is damaged.
        """
        manifest, files = self._listing(folder)
        unfinished = destination.parent / f"{TEMPORARY_PREFIX}fetch-{destination.name}"
        unfinished.mkdir(parents=True, exist_ok=True)
        logger.info("fetching %s from %s", folder, redacted(self.address))
        for file in files:
            target = unfinished / file.path
            if _holds(target, file.sha256):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # cut off; and never write into a link
            if (here := known.get(file.sha256)) is not None and _holds(here, file.sha256):
                link_file(here, target)
            else:
                self._fetch_file(folder, file, target)
        write_file(unfinished / MANIFEST, manifest)
        if destination.exists():  # without a manifest: left by somebody, and no published folder
            shutil.rmtree(destination)
        move_directory(unfinished, destination)

    def _fetch_file(self, folder: str, file: RemoteFile, target: Path) -> None:
        address = f"{self.address}/{file.key}"
        digest = hashlib.sha256()
        with open_handle(address) as source, target.open("wb") as copy:
            while block := source.read(_COPY_BYTES):
                digest.update(block)
                copy.write(block)
        if digest.hexdigest() != file.sha256:
            target.unlink()
            raise ValueError(
                f"{redacted(address)}, {file.path} of {folder}, is damaged: its SHA-256 is not the published one;"
                " restore it, or remove it there, and the folder, and upload that again from the machine that made it"
            )

    def _send(self, local: Path, folder: str, manifest: bytes) -> None:
        """Put the list of the files of `local`, then each content that is not there."""
        files = _listed(local, manifest)
        listing = _Files(layout=2, files=files).model_dump_json(indent=1).encode()
        name = self._path(folder, _list_name(manifest))
        self._call("writing", folder, lambda filesystem: filesystem.pipe_file(name, listing))
        contents = {file.key: file for file in files}
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as looks:
            is_there = list(looks.map(functools.partial(self._is_there, folder), contents.values()))
        missing = [file for file, there in zip(contents.values(), is_there, strict=True) if not there]
        logger.info("uploading %d of %d files of %s to %s", len(missing), len(files), folder, redacted(self.address))
        for batch in _batches(missing):
            sources = [str(local / file.path) for file in batch]
            targets = [self._path(file.key) for file in batch]
            self._call("writing", folder, functools.partial(put, sources=sources, targets=targets))

    def _is_there(self, folder: str, file: RemoteFile) -> bool:
        known = self._call("looking at", folder, lambda filesystem: info(filesystem, self._path(file.key)))
        return known is not None and known["size"] == file.num_bytes

    def _lists(self, folder: str) -> list[str]:
        """Paths of the lists directly in `folder`: its own, and those of unfinished uploads."""
        return [self._path(folder, name) for name in self.folders(folder) if _is_list(name)]

    def _all_lists(self) -> set[str]:
        """Paths of the lists of all folders."""
        places = [name for name in self.folders("") if name != _OBJECTS]
        found: set[str] = set()
        for place in places:
            path = self._path(place)
            found.update(self._call("listing", place, functools.partial(find, path=path)))
        return {path for path in found if _is_list(path.rpartition("/")[2])}

    def _forget(self, lists: list[str], folder: str) -> None:
        """Remove these lists, after the objects that no other list names."""
        candidates = {file.key for path in lists for file in self._listed_there(path)}
        if candidates:
            for path in sorted(self._all_lists() - set(lists)):
                candidates.difference_update(file.key for file in self._listed_there(path))
        logger.info("removing %d objects from %s that %s alone had", len(candidates), redacted(self.address), folder)
        self._remove([*(self._path(key) for key in sorted(candidates)), *lists], folder)

    def _remove(self, paths: list[str], folder: str) -> None:
        for path in paths:
            self._call("removing", folder, functools.partial(remove, path=path))

    def _listed_there(self, path: str) -> tuple[RemoteFile, ...]:
        """What the list at `path` says. ValueError where it is missing or damaged."""
        name = path.removeprefix(f"{self._connection[1]}/")
        listing = self._call("reading", name, lambda filesystem: content(filesystem, path))
        try:
            return _Files.model_validate_json(listing or b"").files
        except ValidationError as error:
            raise ValueError(
                f"{redacted(self.address)}/{name} is missing, damaged or of an earlier program: restore it, or remove"
                " the folder there and upload it again from the machine that made it"
            ) from error


def _list_name(manifest: bytes) -> str:
    return f"files-{hashlib.sha256(manifest).hexdigest()[:_HASH_DIGITS]}.json"


def _is_list(name: str) -> bool:
    return _LIST_NAME.fullmatch(name) is not None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _listed(local: Path, manifest: bytes) -> tuple[RemoteFile, ...]:
    """The folder's files without its manifest. ValueError where one differs from what the manifest says of it."""
    files = tuple(
        RemoteFile(path=str(path.relative_to(local)), num_bytes=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(local.rglob("*"))
        if path.is_file() and path != local / MANIFEST
    )
    found = {file.path: file.sha256 for file in files}
    for part in json.loads(manifest).get("parts", ()):
        if found.get(part["path"]) != part["sha256"]:
            raise ValueError(f"{local / part['path']} is missing or damaged: it is not what {MANIFEST} says of it")
    return files


def _batches(files: Iterable[RemoteFile]) -> Iterator[list[RemoteFile]]:
    waiting = iter(files)
    while batch := list(islice(waiting, _BATCH_FILES)):
        yield batch
