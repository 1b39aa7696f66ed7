"""A table as CSV, which MLflow's page shows and a spreadsheet opens: no text in it is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA_STARTS = frozenset("=+-@＝＋－＠")  # OWASP, "CSV Injection"


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """`rows` under `columns`; figures with as many digits as anybody reads, nothing for None, texts in one line."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: str | float | None) -> str | int | None:
    if isinstance(value, float):
        return f"{value:.6g}"
    return _text_cell(value) if isinstance(value, str) else value


def _text_cell(text: str) -> str:
    """One line without control characters; after a leading apostrophe a spreadsheet reads text, whatever follows."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return f"'{line}" if line[:1] in _FORMULA_STARTS else line
