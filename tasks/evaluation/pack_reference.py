"""How an operator names a pack of tasks: `NAME[=DIR][:task,task]`.

    basics                           a shipped pack, all of it
    academic=/data/eval:piqa,copa    two of its tasks; the pack's files lie in that folder
    /packs/mine                      a folder with a pack.yaml, or a YAML file; its files lie beside it
    harness:hellaswag,arc_easy       stock tasks of lm-evaluation-harness

A path may hold the signs itself. What is there as a whole is a place; `=` parts what stands before it only where that
is a name or is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHIPPED_PACKS = ("academic", "basics")
HARNESS = "harness"
_NAMES = (*SHIPPED_PACKS, HARNESS)


@dataclass(frozen=True)
class PackReference:
    """A pack as it was named."""

    place: str
    """A name, or the path of a folder or YAML file."""
    data: Path | None = None
    """The folder of the pack's files, where they do not lie beside its YAML."""
    names: tuple[str, ...] | None = None
    """Of the tasks that are meant; None is all."""

    def __str__(self) -> str:
        data = "" if self.data is None else f"={self.data}"
        return self.place + data + ("" if self.names is None else f":{','.join(self.names)}")


def split_reference(text: str) -> PackReference:
    """The parts of a pack's name. Raises ValueError where the folder behind `=` is missing."""
    whole = _place_and_data(text)
    listed = text.rpartition(":")[2]
    if ":" not in text or "/" in listed or (whole.data or Path(whole.place)).exists():
        return whole
    parts = _place_and_data(text.removesuffix(f":{listed}"))
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    return PackReference(parts.place, parts.data, names)


def _place_and_data(text: str) -> PackReference:
    for end, sign in enumerate(text):
        place, data = text[:end], text[end + 1 :]
        if sign == "=" and not Path(text).exists() and (place in _NAMES or (place and Path(place).exists())):
            if not data:
                raise ValueError(f"{text!r} names no folder behind the sign: write {place}=DIR, or {place} alone")
            return PackReference(place, Path(data))
    return PackReference(text)


def absolute_reference(text: str) -> str:
    """The same with every path made whole, for a process in another folder; what is no path stays as it is."""
    if not text:
        return text
    parts = split_reference(text)
    place = Path(parts.place).expanduser()
    is_path = parts.place not in _NAMES and ("/" in parts.place or place.exists())
    data = None if parts.data is None else parts.data.expanduser().absolute()
    return str(PackReference(str(place.absolute()) if is_path else parts.place, data, parts.names))
