"""What the name of a source says by itself. Imports nothing heavy: the command line asks before anything else."""

from __future__ import annotations

EMBEDDED = "environment-docs"


def is_embedded(source: str) -> bool:
    """Whether it is the documentation of the installed packages, `environment-docs[:N|:all]`."""
    return source == EMBEDDED or source.startswith(f"{EMBEDDED}:")


def source_name(source: str) -> str:
    """The source's logical name, part of each document: the embedded default's, else the last part of the path."""
    if is_embedded(source):
        return EMBEDDED
    parts = [part for part in source.split("?")[0].split("/") if part and not set("*?[") & set(part)]
    return parts[-1].split(".")[0] or parts[-1] if parts else source
