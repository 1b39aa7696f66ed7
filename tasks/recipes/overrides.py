"""`section.field=value` on top of a finished configuration, for the command line and for quick experiments.

A key is a path of field names. An element of a tuple is addressed by its position or, where it has one, by its `kind`
or `name`; such an element can also be addressed directly, wherever it stands: `gopher_quality.min_words=30`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from tasks.rule import Configuration

C = TypeVar("C", bound=Configuration)
Path = tuple[str | int, ...]


class OverrideError(ValueError):
    """An override names something that is not there, or gives it a value that it can not have."""


def apply_overrides(configuration: C, overrides: Mapping[str, str]) -> C:
    """A copy of the configuration with each dotted key set to its value, validated as a whole.

    A value is read as JSON (`3`, `true`, `null`, `["en", "de"]`) where it is JSON and the field takes it so, else as
    the string it is. All overrides apply together, so that two fields that constrain each other can be changed in one
    call. Raises OverrideError, in one line: for an unknown key with the closest keys there are, for a refused value
    with the reason and the bounds.
    """
    values: dict[Path, str] = {}
    for key, text in overrides.items():
        path = _resolve(configuration, key)
        for other in values:
            if path[: len(other)] == other or other[: len(path)] == path:
                raise OverrideError(
                    f"the overrides {key!r} and {_dotted(other)!r} set the same field; keep one of them"
                )
        values[path] = text
    result = _rebuilt(configuration, values, ())
    assert isinstance(result, type(configuration))
    return result


def _resolve(root: Configuration, key: str) -> Path:
    """The full path of a dotted key."""
    segments = key.split(".")
    if segments[0] not in type(root).model_fields:
        labelled = [path for path, node in _nodes(root, ()) if path and _label(node) == segments[0]]
        if len(labelled) > 1:
            places = ", ".join(_dotted(path) for path in labelled)
            raise OverrideError(f"{key!r} is ambiguous, {segments[0]!r} stands at {places}; write the whole path")
        if not labelled:
            raise _unknown(root, key)
        path, segments = labelled[0], segments[1:]
    else:
        path = ()
    node = _at(root, path)
    for segment in segments:
        step = _step(node, segment)
        if step is None:
            raise _unknown(root, key)
        path, node = (*path, step), _child(node, step)
    if isinstance(_at(root, path[:-1]), tuple):
        raise OverrideError(f"{key!r} is an element of a tuple; set one of its fields, or the tuple as a JSON list")
    return path


def _step(node: Any, segment: str) -> str | int | None:
    """The field or position that a key's segment means in this node; None where there is none."""
    if isinstance(node, Configuration):
        return segment if segment in type(node).model_fields else None
    if isinstance(node, tuple):
        positions = [position for position, element in enumerate(node) if _label(element) == segment]
        if len(positions) == 1:
            return positions[0]
        if segment.isdecimal() and int(segment) < len(node):
            return int(segment)
    return None


def _child(node: Any, step: str | int) -> Any:
    return node[step] if isinstance(step, int) else getattr(node, step)


def _at(root: Any, path: Path) -> Any:
    node = root
    for step in path:
        node = _child(node, step)
    return node


def _label(node: Any) -> str | None:
    """What an element of a tuple goes by."""
    for field in ("kind", "name"):
        label = getattr(node, field, None)
        if isinstance(node, Configuration) and isinstance(label, str):
            return label
    return None


def _nodes(node: Any, path: Path) -> Iterator[tuple[Path, Configuration]]:
    """Every configuration within this one, itself first."""
    if isinstance(node, Configuration):
        yield path, node
        for field in type(node).model_fields:
            yield from _nodes(getattr(node, field), (*path, field))
    elif isinstance(node, tuple):
        for position, element in enumerate(node):
            yield from _nodes(element, (*path, position))


def _unknown(root: Configuration, key: str) -> OverrideError:
    known: set[str] = set()
    for path, node in _nodes(root, ()):
        for field in type(node).model_fields:
            known.add(_dotted((*path, field)))
            if any(isinstance(step, int) for step in path) and (label := _label(node)):
                known.add(f"{label}.{field}")
    close = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.5)
    parts = sorted({name.split(".")[0] for name in known})
    hint = f"did you mean {' or '.join(close)}?" if close else f"its parts are {', '.join(parts)}"
    return OverrideError(f"{type(root).__name__} has no field {key!r}; {hint}")


def _rebuilt(node: Any, values: Mapping[Path, str], path: Path) -> Any:
    """The node with every value below it set, validated from the inside out; nodes with nothing to set are kept."""
    if not any(other[: len(path)] == path for other in values):
        return node
    if isinstance(node, tuple):
        return tuple(_rebuilt(element, values, (*path, position)) for position, element in enumerate(node))
    assert isinstance(node, Configuration)
    fields: dict[str, Any] = {}
    for field in type(node).model_fields:
        place = (*path, field)
        current = getattr(node, field)
        fields[field] = _parsed(values[place]) if place in values else _rebuilt(current, values, place)
    try:
        return type(node).model_validate(fields)
    except ValidationError as error:
        # "3" for a field that holds text: the JSON reading was refused, the string may not be
        as_text = {detail["loc"][0]: (*path, detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        retry = {str(name): values[place] for name, place in as_text.items() if place in values}
        try:
            return type(node).model_validate(fields | retry)
        except ValidationError:
            raise OverrideError(_one_line(error, path)) from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _one_line(error: ValidationError, path: Path) -> str:
    problems = []
    for detail in error.errors():
        where = _dotted((*path, *detail["loc"])) or error.title
        given = "" if detail["type"] == "value_error" else f" (got {detail['input']!r})"
        problems.append(f"{where}: {detail['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(problems)


def _dotted(path: Path) -> str:
    return ".".join(str(step) for step in path)
