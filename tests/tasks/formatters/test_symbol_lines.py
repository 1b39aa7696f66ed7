"""Symbol lines: datatrove's text, exactly, with an edit for every change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datatrove.pipeline.formatters import SymbolLinesFormatter
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Document, Drop, Edit, Keep, Rewrite
from tasks.formatters.edits import apply_edits
from tasks.formatters.symbol_lines import SymbolLines

TABLE_ROWS = SymbolLines(symbols="|", replacement="\n")


def text_of(rule: SymbolLines, text: str) -> str:
    decision = rule.build()(Document("x", text, "test"))
    if isinstance(decision, Rewrite):
        assert apply_edits(text, decision.edits) == decision.text
        return decision.text
    return "" if isinstance(decision, Drop) else text


def test_every_change_is_recorded(document: Callable[[str], Document]) -> None:
    decision = SymbolLines().build()(document("One\r\n***\n - - \nTwo\n!\n"))
    expected = (
        Edit("replaced", "symbol_line_end", 3, "\r\n", "\n"),
        Edit("line_removed", "symbol_line", 5, "***\n"),
        Edit("line_removed", "symbol_line", 9, " - - \n"),
        Edit("span_removed", "symbol_line_end", 18, "\n"),
        Edit("line_removed", "symbol_line", 19, "!\n"),
    )
    assert decision == Rewrite("One\nTwo", expected)


def test_a_run_of_lines_is_replaced_once(document: Callable[[str], Document]) -> None:
    decision = TABLE_ROWS.build()(document("One\n| |\n||\n| a |\n|"))
    expected = (
        Edit("line_removed", "symbol_line", 4, "| |\n", "\n\n"),
        Edit("line_removed", "symbol_line", 8, "||\n"),
        Edit("line_removed", "symbol_line", 17, "|", "\n"),
    )
    assert decision == Rewrite("One\n\n\n| a |\n\n", expected)


@pytest.mark.parametrize("line", ["* a *", "", "  ", "\t|", "12.", "€"])
def test_lines_that_stay(line: str, document: Callable[[str], Document]) -> None:
    assert SymbolLines().build()(document(f"One\n{line}\nTwo")) == Keep()


@pytest.mark.parametrize("text", ["***", "***\n---\n", " \n"])
def test_nothing_left_is_empty(text: str, document: Callable[[str], Document]) -> None:
    assert SymbolLines().build()(document(text)) == Drop("empty")


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from("ab|*-. \t\n\r\x0b\x1c\u2028。…é"), max_size=30),
    replacement=st.sampled_from(["", "\n", "--"]),
)
def test_text_is_that_of_datatrove(text: str, replacement: str) -> None:
    for symbols in ("", "|"):
        rule = SymbolLines(symbols=symbols, replacement=replacement)
        stock = SymbolLinesFormatter(list(symbols) or None, replacement).format(text)
        assert text_of(rule, text) == stock or (not stock.strip() and not text_of(rule, text).strip())


def test_real_pages(page_texts: list[str]) -> None:
    stock = SymbolLinesFormatter()
    num_changed = 0
    for text in page_texts[::4]:
        assert text_of(SymbolLines(), text) == stock.format(text)
        num_changed += stock.format(text) != text
    assert num_changed > 5


def test_twice_is_once(page_texts: list[str]) -> None:
    for text in page_texts[::10]:
        once = text_of(SymbolLines(), text)
        assert text_of(SymbolLines(), once) == once
