"""Text that came from outside, made safe for the Markdown that Prefect's and MLflow's pages render.

Their four renderers agree on backslashes before punctuation and on the named entities; Prefect's older page shows a
numeric entity as it is written, and breaks no line inside a table's cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def markdown_cell(text: str) -> str:
    """`text` in one line, for a table's cell or anywhere else, without mark-up, image, named link, control character.

    A bare address may be shown as a link, which can't pretend to lead elsewhere.
    """
    printable = "".join(character if character.isprintable() else " " for character in text)
    escaped = re.sub(r"[<>&]", lambda match: _ENTITIES[match[0]], " ".join(printable.split()))
    return re.sub(r"[\\`*_{}\[\]|~!]", r"\\\g<0>", escaped)


class SafeMarkdown(str):
    """Markdown that was made here, for a table's cell: it is not escaped again."""

    __slots__ = ()


def markdown_address(url: str) -> SafeMarkdown:
    """An address to be read and copied, letter by letter: as code, because pages make links of bare ones before they
    take the backslashes out. What could end the code or the cell is percent-encoded, which names the same page."""
    printable = "".join(character if character.isprintable() else " " for character in url)
    encoded = re.sub(r"[`|<>\\]", lambda match: f"%{ord(match[0]):02X}", "%20".join(printable.split()))
    return SafeMarkdown(f"`{encoded}`" if encoded else "")


def markdown_code(lines: Iterable[str]) -> str:
    """Lines as an indented block of code, which no line of text can end; put an empty line before it."""
    pieces = [piece for line in lines for piece in line.splitlines()]
    return "\n".join(
        "    " + "".join(character if character.isprintable() else " " for character in piece) for piece in pieces
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for short values; every cell is escaped, whole numbers get their commas."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_shown(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def markdown_facts(facts: Mapping[str, object]) -> str:
    """A list of names and values of any length, escaped."""
    return "\n".join(f"- **{markdown_cell(name)}**: {_shown(value)}" for name, value in facts.items())


def _shown(value: object) -> str:
    if isinstance(value, SafeMarkdown):
        return value
    return f"{value:,}" if isinstance(value, int) else markdown_cell(str(value))


def markdown_quotes(pairs: Iterable[tuple[str, str]]) -> str:
    """What a model made of each prompt. Quotes, because Prefect's page never wraps the cells of a table."""
    return "\n\n".join(
        f"**{markdown_cell(prompt) or '(no prompt)'}**\n\n> {markdown_cell(text) or '(nothing)'}"
        for prompt, text in pairs
    )
