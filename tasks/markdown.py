"""Text that came from outside, made safe for the Markdown that Prefect's and MLflow's pages render."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence


def markdown_cell(text: str) -> str:
    """`text` in one line, safe inside a table: no mark-up, link, image or control character is left in it."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"[^\w\s.,;:?'\"-]|_|(?<=www)\.", lambda match: f"&#{ord(match[0])};", " ".join(printable.split()))


def markdown_code(lines: Iterable[str]) -> str:
    """Lines as an indented block of code, which no line of text can end; put an empty line before it."""
    pieces = [piece for line in lines for piece in line.splitlines()]
    return "\n".join(
        "    " + "".join(character if character.isprintable() else " " for character in piece) for piece in pieces
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is escaped, whole numbers get their commas."""

    def cell(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else markdown_cell(str(value))

    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def markdown_facts(facts: Mapping[str, object]) -> str:
    """A table of two columns without a heading of its own."""
    return markdown_table(["", ""], facts.items())
