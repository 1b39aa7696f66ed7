"""What commands in files of their own share with `flows.arguments`: types of options, for argparse."""

from __future__ import annotations

from pathlib import Path


def local_path(text: str) -> Path:
    """A local path made absolute, because drivers leave the current folder."""
    return Path(text).expanduser().absolute()


def model_reference(text: str) -> str:
    """A checkpoint folder made absolute; a name or URL as it is."""
    return str(local_path(text)) if Path(text).expanduser().is_dir() else text
