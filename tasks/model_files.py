"""The models that a recipe names: what a name means, and where its file lies in the store.

A rule's field `model` is one of

    ""                                      the model that the rule brings along
    toxicity@champion, toxicity@3           one of MLflow's registry; before the first stage it becomes the next
    toxicity@3#sha256=<64 hex>              the same, pinned
    /path/model.ftz#sha256=<64 hex>         a fastText model, or a classifier's folder, by its whole path
    https://.../model.bin#sha256=<64 hex>   the same by address; that of a folder ends in "/"
    lid.176.ftz                             a short name of `KNOWN_MODELS`, written out at once

The hash is the file's, or that of the folder's `classifier.json`, which holds the hashes of the other files. It is all
that tells where the model lies: `<store>/models/<hash>/`. So a recipe means the same on every machine, and what an
address holds tomorrow changes nothing. Nothing is downloaded here (tasks/model_cache.py does, when it is asked to).
"""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

CLASSIFIER_FILE = "classifier.json"
"""In a classifier's folder: what makes a folder one."""
SINGLE_FILE = "model"
"""A model that is one file, by its name in `<store>/models/<hash>/`: the address it came from is no part of it."""

KNOWN_MODELS: Mapping[str, str] = {
    "lid.176.ftz": "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.ftz"
    "#sha256=8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",
}
"""Other people's models by a short name; licence and origin are in tasks/model_facts.py."""

_MARK = "#sha256="
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REGISTERED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})@([A-Za-z0-9][A-Za-z0-9._-]{0,63})")
_FORMS = (
    "name@alias or name@version of the registry, or a whole path or an address with #sha256=<64 hexadecimal digits>"
)
_MODELS: ContextVar[Path | None] = ContextVar("folder of the store's models", default=None)


@dataclass(frozen=True)
class ModelReference:
    """What a field `model` means."""

    kind: Literal["embedded", "registry", "file"]
    name: str = ""
    """Of a model in the registry."""
    version_or_alias: str = ""
    source: str = ""
    """Whole path or address of a file."""
    sha256: str = ""
    """Empty: embedded, or of the registry and not resolved yet."""


def parse_model(reference: str) -> ModelReference:
    """What `reference` means. Raises ValueError, in one line, for what is no name, path or address, or has no hash."""
    if not reference:
        return ModelReference("embedded")
    source, mark, sha256 = written_out(reference).partition(_MARK)
    _check_address(source)
    if mark and not _SHA256.fullmatch(sha256):
        raise ValueError(f"{f'{source}{_MARK}…'!r}: a SHA-256 is 64 hexadecimal digits in lower case, this is none")
    if registered := _REGISTERED.fullmatch(source):
        name, version_or_alias = registered.groups()
        if mark and not version_or_alias.isdecimal():
            raise ValueError(
                f"{reference!r}: an alias moves on, a hash does not; name the version, as in {name}@3{_MARK}…"
            )
        return ModelReference("registry", name, version_or_alias, sha256=sha256)
    if "://" not in source and not source.startswith("/"):
        known = ", ".join(KNOWN_MODELS)
        raise ValueError(f"there is no model {_shown(source)!r}: name it as {_FORMS}; known by a short name: {known}")
    if not mark:
        raise ValueError(f"{reference!r} has no hash: add {_MARK}…, as printed by `{_hash_command(source)}`")
    return ModelReference("file", source=source, sha256=sha256)


def _check_address(source: str) -> None:
    """ValueError where `source` is an address that may hold a secret; the message does not show it."""
    if "://" in source:
        parts = urlsplit(source)
        if "@" in parts.netloc or parts.query:
            raise ValueError(
                "the address of a model stands in recipes, which are published: give it without user, password and"
                f" query ({parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path})"
            )


def _shown(name: str) -> str:
    """What is no name, without what may be a user and password in it, or a query."""
    user, _, place = name.rpartition("@")
    return re.sub(r"[?].*", "?…", place if ":" in user else name, flags=re.DOTALL)


def _hash_command(source: str) -> str:
    is_address = "://" in source
    file = source
    if source.endswith("/") if is_address else Path(source).is_dir():
        file = f"{source.rstrip('/')}/{CLASSIFIER_FILE}"
    if not is_address:
        return shlex.join(["sha256sum", file])
    return f"{shlex.join(['curl', '-L', file])} | sha256sum"


def written_out(reference: str) -> str:
    """The same with a short name as the address that it stands for."""
    return KNOWN_MODELS.get(reference, reference)


def _checked(reference: str) -> str:
    parse_model(reference)
    return written_out(reference)


ModelName = Annotated[str, AfterValidator(_checked)]
"""The type of a rule's field `model`: checked, and with a short name written out."""


@contextmanager
def models_in(folder: Path | None) -> Iterator[None]:
    """Within the block, `folder` (`Store.models`) is where this process finds models. None changes nothing."""
    token = _MODELS.set(folder) if folder is not None else None
    try:
        yield
    finally:
        if token is not None:
            _MODELS.reset(token)


def model_path(reference: str, embedded: Path | None) -> Path:
    """Where the model lies: a classifier's folder, or a file. `embedded` is what "" means.

    Its hash is checked once per process; that of a folder is of its `classifier.json`, and whoever loads the classifier
    checks the others. Raises ValueError, in one line, where the rule has no embedded model, the name is not resolved,
    the model is not in the store (with the command that brings it) or the file is another (with both hashes).
    """
    parsed = parse_model(reference)
    if parsed.kind == "embedded":
        if embedded is None:
            raise ValueError(f"there is no embedded model: name one as {_FORMS}")
        return embedded
    if not parsed.sha256:
        raise ValueError(f"the model {reference} is of no fixed version yet: runs resolve it in MLflow's registry")
    models = _MODELS.get()
    if models is None:
        raise ValueError(f"the model {reference} lies in a store: call this within models_in(store.models)")
    return _verified(models / parsed.sha256, reference)


def model_files(reference: str, embedded: Path | None) -> tuple[Path, ...]:
    """What stands for the model in a fingerprint: its file, or its `classifier.json`. Raises as `model_path`."""
    path = model_path(reference, embedded)
    return (path / CLASSIFIER_FILE,) if path.is_dir() else (path,)


def fetch_command(models: Path, reference: str) -> str:
    """The command that brings a model into the store whose models are in `models`."""
    return shlex.join(["tokenmill", "doctor", "--store", str(models.parent), "--model", reference, "--fetch"])


@functools.lru_cache(maxsize=64)
def _verified(folder: Path, reference: str) -> Path:
    """The model in `folder`, which is named by its hash."""
    path = folder if (folder / CLASSIFIER_FILE).is_file() else folder / SINGLE_FILE
    file = path / CLASSIFIER_FILE if path == folder else path
    command = fetch_command(folder.parent, reference)
    if not file.is_file():
        raise ValueError(f"the model {reference} is not in the store; bring it with `{command}`")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != folder.name:
        raise ValueError(
            f"{file} has been changed: its SHA-256 is {found}, and not {folder.name}; bring the model again with"
            f" `{command}`"
        )
    return path
