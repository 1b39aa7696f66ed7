"""A text ends where it should, however it is cut into pieces, and nothing of what ends it is seen before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.stop_strings import MAX_STOP_CHARS, MAX_STOP_STRINGS, StopStrings

SHORT = st.text("abc", min_size=1, max_size=4)


def ended(text: str, stop: list[str]) -> tuple[str, bool]:
    """By trying each end of the text: the first at which a stop string is complete, and of these the longest."""
    for end in range(len(text) + 1):
        if found := [each for each in stop if text[:end].endswith(each)]:
            return text[: end - max(map(len, found))], True
    return text, False


@given(st.lists(st.text("abc", max_size=6), max_size=8), st.lists(SHORT, max_size=3))
def test_the_end_does_not_depend_on_the_pieces_and_nothing_is_shown_beyond_it(
    pieces: list[str], stop: list[str]
) -> None:
    strings = StopStrings(stop)
    expected, found = ended("".join(pieces), stop)
    shown = ""
    for piece in pieces:
        shown += strings.feed(piece)
        assert expected.startswith(shown)
    assert (shown + strings.rest(), strings.found) == (expected, found)
    assert (strings.rest(), strings.feed("d") if found else "") == ("", "")


@given(st.lists(st.text("abc", max_size=6), max_size=8), st.lists(SHORT, min_size=1, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop_string(pieces: list[str], stop: list[str]) -> None:
    strings = StopStrings(stop)
    fed = shown = ""
    for piece in pieces:
        fed, shown = fed + piece, shown + strings.feed(piece)
        held = fed[len(shown) :]
        assert strings.found or not held or any(each.startswith(held) and each != held for each in stop)


def test_a_stop_string_across_three_pieces() -> None:
    strings = StopStrings(["###"])
    assert [strings.feed(piece) for piece in ("one #", "#", "x##", "# two")] == ["one ", "", "##x", ""]
    assert strings.found and strings.rest() == ""


def test_without_stop_strings_everything_is_handed_out_at_once() -> None:
    strings = StopStrings(())
    assert [strings.feed(piece) for piece in ("one", "", " two")] == ["one", "", " two"]
    assert not strings.found and strings.rest() == ""


def test_what_can_not_be_looked_for_is_refused() -> None:
    StopStrings(["a" * MAX_STOP_CHARS] * MAX_STOP_STRINGS)
    with pytest.raises(ValueError, match="has 257 characters; it must have 1 to 256"):
        StopStrings(["a" * (MAX_STOP_CHARS + 1)])
    with pytest.raises(ValueError, match="has 0 characters"):
        StopStrings(["a", ""])
    with pytest.raises(ValueError, match="there are 17 stop strings; there may be 16"):
        StopStrings(["a"] * (MAX_STOP_STRINGS + 1))
