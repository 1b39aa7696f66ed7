"""What commands in files of their own share with `flows.arguments`: types of options, for argparse."""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks.source_names import is_model_path


def local_path(text: str) -> Path:
    """A local path made absolute, because drivers leave the current folder."""
    return Path(text).expanduser().absolute()


def model_reference(text: str) -> str:
    """A checkpoint's path made absolute; a name or URL as it is."""
    return str(local_path(text)) if is_model_path(text) else text


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
