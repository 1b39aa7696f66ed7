"""Addresses of remote files: how they are opened, and how they are shown to people without their secrets."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec

_TRANSFER_BLOCK_BYTES = 5 << 20  # read ahead, and what is asked for again where a connection is cut
_CONNECT_TIMEOUT_S = 20.0
_READ_TIMEOUT_S = 60.0  # without a byte
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_USER = re.compile(r"[^\s'\"/@]+:[^\s'\"/@]*@")  # user:password@, also where it stands alone
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>(),]+")


def redacted(address: str) -> str:
    """`address` without user and password and, of a web address, without query string and fragment.

    Those may be credentials. A local path is returned as it is.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    if scheme.lower() in ("http", "https"):
        rest = _QUERY.sub("", rest)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def explained(error: BaseException) -> str:
    """An error of a storage in a few words on one line, without credentials."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return explained(error.__cause__)  # fsspec calls every failed look at a web address so
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status} {error.message}".strip()
    if isinstance(error.__cause__, botocore.exceptions.ClientError):
        error = error.__cause__
    if isinstance(error, botocore.exceptions.ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', 'no code')}: {details.get('Message', 'no message')}"
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = _USER.sub("", _URL.sub(lambda match: redacted(match[0]), " ".join(str(error).split())))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_store_address(address: str, what: str) -> None:
    """ValueError for the address of `what`, a place that is written to, of an unknown kind or with credentials in it.

    The message may be shown: it holds none.
    """
    scheme, _, rest = address.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            f"{what} {redacted(address)} was given with credentials in its address: leave them to the environment"
            " (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{what} {redacted(address)!r}: {error}") from error


def connect(address: str) -> tuple[Any, str]:
    """fsspec's filesystem of `address`, and the path in it. Raises ValueError for an unknown kind of address.

    The libraries' own retries are off, because `retried` does that work and says so; nothing that was listed once is
    taken for what is there now. S3's endpoint is the environment's AWS_ENDPOINT_URL (or FSSPEC_S3_ENDPOINT_URL, which
    s3fs alone would know), credentials are found as by any AWS client.
    """
    options: dict[str, Any] = {}
    if address.startswith(("s3://", "s3a://")):
        options = {
            "use_listings_cache": False,
            "default_block_size": _TRANSFER_BLOCK_BYTES,
            "max_concurrency": 2,  # parts of one upload, 50 MB each, in memory
            "config_kwargs": {
                "retries": {"total_max_attempts": 1},
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "read_timeout": _READ_TIMEOUT_S,
            },
        }
    elif address.startswith(("http://", "https://")):
        # aiohttp's default ends every request after five minutes, also one that is going well
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
        options = {"block_size": _TRANSFER_BLOCK_BYTES, "client_kwargs": {"timeout": timeout}}
    filesystem, path = fsspec.core.url_to_fs(address, **options)
    if options.get("config_kwargs"):
        filesystem.retries = 1
    return filesystem, path
