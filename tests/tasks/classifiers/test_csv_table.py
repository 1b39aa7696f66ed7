"""A text in a CSV table comes back as text, in one cell, and is never a formula."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.classifiers.csv_table import csv_table


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'=1"),
        ("\r\n=1", "'=1"),
        ("\x00=1", "'=1"),
        ("  =1", "'=1"),
        ("＝1", "'＝1"),
        ("a=1", "a=1"),
        ('say "a", b\nc', 'say "a", b c'),
        ("\ud800x", "x"),
        ("", ""),
    ],
)
def test_no_text_is_a_formula(text: str, cell: str) -> None:
    assert read(csv_table(["text"], [(text, "x")])) == [["text"], [cell, "x"]]


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_stays_in_its_cell(texts: list[str]) -> None:
    table = csv_table(["a"], [("first", *texts, "last")])
    assert table.encode()
    _, row = read(table)
    assert len(row) == len(texts) + 2
    assert all(cell[:1] not in set("=+-@＝＋－＠\t\r\n") or not cell for cell in row)


def test_figures() -> None:
    assert csv_table(["a", "b", "c", "d"], [(1234567, 1 / 3, None, -0.5)]) == "a,b,c,d\n1234567,0.333333,,-0.5\n"
