"""Letters, program code and windows, each on its limit and one step over."""

from __future__ import annotations

import ast
import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.language_shape import (
    CHARS_PER_WINDOW,
    MAX_FORM_CHARS,
    MAX_WINDOWS,
    WINDOW_CHARS,
    code_fraction,
    num_letters,
    windows,
)

PROSE = "The mill stands by the river, and every morning the miller opens the gate."
CODE = [
    "from pathlib import Path",
    "def grind(corn: list[int], *, fine=True):",
    "    for sack in corn:",
    "        total = total + sack",
    "        self.mill.grind(sack, fine)",
    "    return total",
    "#include <stdio.h>",
    "static int gate_open(struct gate *gate)",
    "{",
    "    gate->height += 3;",
    "}",
    "const mill = require('mill');",
    '    "corn": "wheat",',
    "// opens the gate",
    "    first_gate,",
    '<a href="/mill">',
]
NO_CODE = [
    PROSE,
    "For the sake of the mill we went on.",
    "If it rains (and it does), the wheel turns.",
    "- rye, wheat and barley",
    "# The mill and the river",
    "Return to the mill before it is dark.",
    "Class of 1923, in front of the mill",
    "Price: 12.50 (with bag)",
    "import duties on corn rose",
    "",
]


@pytest.mark.parametrize("line", CODE)
def test_a_line_of_code_is_recognised_by_its_form(line: str) -> None:
    assert code_fraction(f"{line}\n{{}}\n" * 3) == 1.0


@pytest.mark.parametrize("line", NO_CODE)
def test_a_line_of_prose_is_not(line: str) -> None:
    marks = "{};\n" * (1 + len(line) // 40)
    assert code_fraction(f"{line}\n{marks}") == (pytest.approx(len(marks) * 3 / 4 / (len(marks) * 3 / 4 + len(line))))


def test_the_share_is_one_of_characters_not_lines() -> None:
    page = f"{PROSE}\n" + "x = [];\n" * 10
    assert code_fraction(page) == 70 / (70 + len(PROSE))


@pytest.mark.parametrize(("num_marks", "fraction"), [(3, 1.0), (2, 0.0)])
def test_where_few_characters_are_marks_no_line_is_looked_at(num_marks: int, fraction: float) -> None:
    text = "int " + "a" * (96 - num_marks) + ";" * num_marks
    assert len(text) == 100
    assert code_fraction(text) == fraction


@pytest.mark.parametrize(("num_marks", "fraction"), [(100, 0.0), (101, 1.0)])
def test_a_long_line_is_code_by_its_marks_alone(num_marks: int, fraction: float) -> None:
    line = "(" * num_marks + "a" * (1000 - num_marks)
    assert len(line) == 1000 > MAX_FORM_CHARS
    assert code_fraction(line) == fraction


@pytest.mark.parametrize(
    "text",
    [
        "a:" + " " * 4500 + "(;" * 200,
        ("'" + "a" * 290 + "\n") * 15 + ";" * 200,
        ("a:" + "a, " * 98 + "\n") * 15 + "(;)" * 90,
        ("import " + "a " * 140 + "\n") * 15 + ";(" * 100,
    ],
)
def test_no_text_makes_the_patterns_slow(text: str) -> None:
    start = time.process_time()
    code_fraction(text[:5000])
    assert time.process_time() - start < 0.2


@settings(max_examples=100)
@given(st.text(max_size=500))
def test_any_text_has_a_share(text: str) -> None:
    assert 0.0 <= code_fraction(text) <= 1.0
    assert code_fraction(text) == code_fraction(text)


@given(st.text(max_size=300), st.integers(0, 200))
def test_letters_are_counted_until_there_are_enough(text: str, enough: int) -> None:
    every = num_letters(text, 10_000)
    assert every >= sum(map(str.isalpha, text))
    assert (num_letters(text, enough) >= enough) == (every >= enough)
    assert num_letters(text, enough) <= every


def test_an_ideograph_counts_as_three_letters() -> None:
    assert num_letters("a1 b2", 100) == 2
    assert num_letters("水車は。", 100) == 9
    assert num_letters("мельница", 100) == 8


@given(st.text(st.sampled_from("abc \n"), max_size=9000))
def test_windows_lie_in_order_from_the_beginning_to_the_end(text: str) -> None:
    check_windows(text)


@pytest.mark.parametrize("num_chars", [1199, 1200, 4799, 4800, 100_000])
def test_there_is_a_window_for_so_many_characters(num_chars: int) -> None:
    text = ("miller " * 20_000)[:num_chars]
    assert len(check_windows(text)) == (
        min(MAX_WINDOWS, num_chars // CHARS_PER_WINDOW) if num_chars >= 2 * CHARS_PER_WINDOW else 0
    )


def check_windows(text: str) -> list[str]:
    found, position = windows(text), 0
    for window in found:
        assert len(window) == WINDOW_CHARS
        position = text.index(window, position)
    return found


def test_programs_and_pages_are_told_apart(shared_data: Path) -> None:
    """Of 495 web pages none is near the limit, and programs without their prose are above it."""
    with gzip.open(shared_data / "web/pages.gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        pages = [json.loads(line)["main_content"] for line in lines]
    assert max(code_fraction(page[:5000]) for page in pages) < 0.5
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))[::4]
    programs = [without_prose(file.read_text("utf-8", "replace"))[:5000] for file in files]
    is_code = [code_fraction(program) > 0.75 for program in programs if len(program) > 500]
    assert len(is_code) > 30
    assert sum(is_code) / len(is_code) > 0.85


def without_prose(program: str) -> str:
    """Without comments and documentation strings."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[:1] = [ast.Pass()]
    return ast.unparse(tree)
