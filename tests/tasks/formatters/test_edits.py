"""Edits found by comparing lines lead back to the rewritten text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.document import Edit
from tasks.formatters.edits import apply_edits, line_edits

LINES = st.lists(st.sampled_from(["a", "b", "longer line", "", " "]), max_size=12)


def test_removed_changed_and_added_lines() -> None:
    before, after = "one\ntwo\nthree\nfour\n", "one\nTHREE\nfour\nfive\n"
    assert line_edits(before, "one\nfour\n", "why") == (
        Edit("line_removed", "why", 4, "two\n"),
        Edit("line_removed", "why", 8, "three\n"),
    )
    assert line_edits(before, after, "why") == (
        Edit("replaced", "why", 4, "two\nthree\n", "THREE\n"),
        Edit("replaced", "why", 19, "", "five\n"),
    )
    assert line_edits(before, before, "why") == ()


@given(LINES, LINES, st.sampled_from(["\n", "\r\n", "\u2028"]))
def test_edits_lead_to_the_new_text(before: list[str], after: list[str], end: str) -> None:
    old, new = end.join(before), "\n".join(after)
    edits = line_edits(old, new, "why")
    assert apply_edits(old, edits) == new
    assert (edits == ()) == (old == new)


def test_many_equal_lines_take_little_time() -> None:
    before = "x\n" + "\n" * 200_000 + "y\n"
    start = time.process_time()
    assert apply_edits(before, line_edits(before, "\n" * 199_999, "why")) == "\n" * 199_999
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "edits",
    [
        [Edit("span_removed", "why", 0, "b")],
        [Edit("span_removed", "why", 5, "a")],
        [Edit("span_removed", "why", 0, "ab"), Edit("span_removed", "why", 1, "b")],
    ],
    ids=["other text", "beyond the end", "overlap"],
)
def test_edits_of_another_text_are_refused(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match="does not fit the text"):
        apply_edits("abc", edits)
