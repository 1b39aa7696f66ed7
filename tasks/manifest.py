"""Identity of a stage's output, and the manifest that makes a folder complete.

A stage's **fingerprint** is a hash of everything that determines its output: resolved configuration, the fingerprint
of what it reads, hashes of model files, the code of the core, and the versions of the libraries involved. A folder with
a manifest is complete and immutable; one without is unfinished work whose finished shards may be kept. The manifest is
the only cache there is.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__, **value.model_dump(mode="json")}
    if isinstance(value, Path):
        raise TypeError(f"a path ({value}) is no identity: hash the file's content instead")
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of the canonical JSON of `identity` (configurations and plain values)."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(canonical.encode()).hexdigest()


@functools.cache
def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_version(*packages: str) -> str:
    """Hash of the source files of our own packages (`tasks`, `model`): changed code never reuses an old output."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions, and Python's, whose regular expressions and Unicode tables decide too."""
    versions = {name: importlib.metadata.version(name) for name in sorted(names)}
    return {**versions, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def files_identity(files: Iterable[Path]) -> dict[str, str]:
    return {file.name: file_sha256(file) for file in files}


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None where the folder is not complete.

    Raises ValueError where it was written by a newer version of this software.
    """
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it was changed by hand: restore or remove it") from error
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {version}, this software reads {SCHEMA_VERSION}: upgrade it")
    return manifest
