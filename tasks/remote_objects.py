"""Single calls on an object store through fsspec: what is not there is None or empty, a bucket that is not is an error.

Each of them can be made again when its answer was lost. They raise what the storage's library raises.
"""

from __future__ import annotations

import logging
from typing import Any

import botocore.exceptions

logger = logging.getLogger(__name__)


def _is_missing_bucket(error: FileNotFoundError) -> bool:
    cause = error.__cause__
    return isinstance(cause, botocore.exceptions.ClientError) and cause.response["Error"].get("Code") == "NoSuchBucket"


def children(filesystem: Any, path: str) -> list[str]:
    try:
        names: list[str] = filesystem.ls(path, detail=False)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in names)


def info(filesystem: Any, path: str) -> dict[str, Any] | None:
    """What the storage knows of an object; None where there is none."""
    try:
        known: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return None
    return known


def content(filesystem: Any, path: str) -> bytes | None:
    """A small object's bytes; None where there is none."""
    try:
        data: bytes = filesystem.cat_file(path)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise
        return None
    return data


def put(filesystem: Any, *, sources: list[str], targets: list[str]) -> None:
    filesystem.put(sources, targets)


def find(filesystem: Any, path: str) -> list[str]:
    """All objects below `path`."""
    names: list[str] = filesystem.find(path)
    return names


def remove(filesystem: Any, *, path: str) -> None:
    """Remove an object; nothing where it is gone, as after an earlier try whose answer was lost."""
    try:
        filesystem.rm_file(path)
    except FileNotFoundError as error:
        if _is_missing_bucket(error):
            raise


def create(filesystem: Any, *, path: str, content: bytes) -> None:
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
