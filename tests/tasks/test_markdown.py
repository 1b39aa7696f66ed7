"""Whatever a page holds, what we show of it is text."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.markdown import (
    markdown_address,
    markdown_cell,
    markdown_code,
    markdown_facts,
    markdown_quotes,
    markdown_table,
)
from tests.tasks.rendering import harmful_tags, rendered

HOSTILE = [
    "![x](https://evil.example/x.png)",
    "[c](javascript:alert(1))",
    "<script>alert(1)</script>",
    "a|b`c`",
    "\x1b[31m\x00",
    "**bold** _em_ ~~gone~~",
    "&lt;img src=x&gt;",
    "\\<img src=x onerror=alert(1)>",
    "[ref]: https://evil.example",
    "<https://evil.example>",
]


def shown(cell: str) -> str:
    """What a reader sees in the one cell of a table."""
    (content,) = re.findall(r"<td>(.*?)</td>", rendered(markdown_table(["x"], [[cell]])), re.DOTALL)
    assert "<" not in content
    return html.unescape(content)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_was_written_is_what_is_shown(text: str) -> None:
    expected = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    assert shown(text) == expected
    for markdown in (f"{markdown_cell(text)}", f"> {markdown_cell(text)}", f"**{markdown_cell(text)}**"):
        assert not harmful_tags(f"- x\n\n{markdown}")


@given(st.text(alphabet=st.sampled_from("ab <>[]()!|`\\*_~&#;:/\n\x00'\"-{}"), max_size=40))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    expected = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    assert shown(f"x {text} x") == f"x {expected} x".replace("  ", " ")


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_line_ends_a_block_of_code(lines: list[str]) -> None:
    page = rendered("before\n\n" + markdown_code(["first", *lines, "last"]) + "\n\nafter")
    assert re.fullmatch(r"<p>before</p>\n<pre><code>[^<]*</code></pre>\n<p>after</p>\n", page)


def test_an_empty_prompt_and_an_empty_answer_are_said_to_be_so() -> None:
    assert markdown_quotes([("", "a"), ("b", "")]) == "**(no prompt)**\n\n> a\n\n**b**\n\n> (nothing)"


def test_numbers_and_facts() -> None:
    assert "| 1,234 | 0.5 |" in markdown_table(["a", "b"], [[1234, 0.5]])
    assert markdown_facts({"min_words": 50000}) == r"- **min\_words**: 50,000"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/_x_/y__z?a=1&b=*2*", "`https://a.example/_x_/y__z?a=1&b=*2*`"),
        ("http://a.example/|`<b>\\ c", "`http://a.example/%7C%60%3Cb%3E%5C%20c`"),
        ("line\nbreak", "`line%20break`"),
        ("", ""),
    ],
)
def test_an_address_is_read_letter_by_letter(url: str, shown: str) -> None:
    assert markdown_address(url) == shown
    assert markdown_table(["a"], [(markdown_address(url),)]).splitlines()[-1] == f"| {shown} |"
