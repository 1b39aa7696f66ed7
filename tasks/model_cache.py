"""What writes `<store>/models/<SHA-256>/`: fetching a model from its path or address, and adding a trained classifier.

A model is there whole and as its hash says, or not at all: it is made under a temporary name, checked, and renamed.
What a killed fetch has left means nothing, and the next one of the same model clears it and begins anew. Of two at the
same time, in whatever processes, the second waits, and finds it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tasks.address import redacted
from tasks.atomic import TEMPORARY_PREFIX, locked, new_directory
from tasks.classifiers.bundle import CARD_FILE, SEEN_FILE, Classifier, load_bundle
from tasks.model_files import CLASSIFIER_FILE, SINGLE_FILE, parse_model
from tasks.read.raw_file import open_handle
from tasks.stages import Progress, no_progress

_BLOCK_BYTES = 5 << 20


def fetch_model(reference: str, models_folder: Path, progress: Progress = no_progress) -> Path:
    """Bring a model that is named by path or address into `models_folder`; a classifier's folder, or a file.

    This is all that ever downloads a model. `progress` is told bytes. Where it is there and whole, nothing is read.
    Raises ValueError, in one line, where it cannot be read, is no classifier, or has another hash than `reference` says
    (with both hashes); then nothing is kept.
    """
    parsed = parse_model(reference)
    if parsed.kind != "file":
        raise ValueError(f"the model {reference!r} is not named by a path or an address: there is nothing to fetch")
    source, sha256 = parsed.source, parsed.sha256
    is_folder = source.endswith("/") if "://" in source else Path(source).is_dir()
    with _entry(models_folder, sha256) as folder:
        if folder is not None and is_folder:
            _fetch_folder(source.rstrip("/"), folder, sha256, progress)
        elif folder is not None:
            _fetch_file(source, folder / SINGLE_FILE, sha256, progress)
    return _model_in(models_folder / sha256)


def add_bundle(folder: Path, models_folder: Path) -> str:
    """Copy a classifier's folder into `models_folder`; its SHA-256. Where it is there and whole, nothing is written.

    Raises ValueError, with both hashes, where one of its files is not what its `classifier.json` says, or where it has
    no card.
    """
    bundle = load_bundle(folder)
    if not (folder / CARD_FILE).is_file():
        raise ValueError(f"the classifier in {folder} has no {CARD_FILE}: it has been taken apart; bring the whole one")
    with _entry(models_folder, bundle.sha256) as entry:
        if entry is not None:
            for name in _files_of(bundle.classifier):
                shutil.copyfile(folder / name, entry / name)
            load_bundle(entry, bundle.sha256)
    return bundle.sha256


def has_model(models_folder: Path, sha256: str) -> bool:
    """Whether the model with this hash is there and whole: every byte of it is read."""
    folder = models_folder / sha256
    if (folder / CLASSIFIER_FILE).is_file():
        try:
            load_bundle(folder, sha256)
        except ValueError:
            return False
        return True
    file = folder / SINGLE_FILE
    return file.is_file() and _sha256(file) == sha256


@contextlib.contextmanager
def _entry(models_folder: Path, sha256: str) -> Iterator[Path | None]:
    """A new folder that becomes the model's when the block ends without an error; None where the model is whole."""
    destination = models_folder / sha256
    with locked(models_folder.parent / "locks" / f"model-{sha256}.lock"):
        for left in models_folder.glob(f"{TEMPORARY_PREFIX}{sha256}-*"):  # nobody else is at it
            shutil.rmtree(left)
        if has_model(models_folder, sha256):
            yield None
            return
        if destination.exists():
            damaged = models_folder / f"{TEMPORARY_PREFIX}{sha256}-{uuid.uuid4().hex[:8]}"
            destination.rename(damaged)
            shutil.rmtree(damaged)
        with new_directory(destination) as folder:
            yield folder


def _model_in(folder: Path) -> Path:
    return folder if (folder / CLASSIFIER_FILE).is_file() else folder / SINGLE_FILE


def _files_of(classifier: Classifier) -> tuple[str, ...]:
    return CLASSIFIER_FILE, classifier.model_file, SEEN_FILE, CARD_FILE


def _fetch_folder(source: str, folder: Path, sha256: str, progress: Progress) -> None:
    _fetch_file(f"{source}/{CLASSIFIER_FILE}", folder / CLASSIFIER_FILE, sha256, progress)
    for name in _files_of(_description(folder))[1:]:
        _fetch_file(f"{source}/{name}", folder / name, "", progress)
    load_bundle(folder, sha256)


def _description(folder: Path) -> Classifier:
    try:
        return Classifier.model_validate_json((folder / CLASSIFIER_FILE).read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"the {CLASSIFIER_FILE} that was asked for is not understood ({error.error_count()} of its fields do not"
            " fit): it is none, or of another version of this program"
        ) from error


def _fetch_file(source: str, target: Path, sha256: str, progress: Progress) -> None:
    """Copy one file. ValueError where it cannot be read, or its hash is not `sha256` (empty: checked elsewhere)."""
    name = source.rpartition("/")[2]
    if "://" not in source and not Path(source).is_file():
        raise ValueError(f"there is no file {source}: give the whole path of the model")
    digest, done = hashlib.sha256(), 0
    with open_handle(source) as handle, target.open("wb") as copy:
        total = handle.seek(0, 2)
        handle.seek(0)
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
            done += len(block)
            progress(f"fetch {name}", done, total, note="bytes")
    if sha256 and digest.hexdigest() != sha256:
        raise ValueError(
            f"{redacted(source)} is another file: its SHA-256 is {digest.hexdigest()}, and {sha256} was asked for;"
            " nothing was kept"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
