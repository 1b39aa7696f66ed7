"""ftfy: datatrove's text, exactly, by small edits, and in bounded time whatever the text."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from datatrove.pipeline.formatters import FTFYFormatter
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Document, Drop, Edit, Keep, Rewrite
from tasks.formatters.edits import apply_edits
from tasks.formatters.ftfy_text import MAX_PASSES, FtfyText

STOCK = FTFYFormatter()


def text_of(text: str) -> str:
    decision = FtfyText().build()(Document("x", text, "test"))
    if isinstance(decision, Rewrite):
        assert apply_edits(text, decision.edits) == decision.text
        return decision.text
    return "" if isinstance(decision, Drop) else text


def test_edits_are_the_changed_characters(document: Callable[[str], Document]) -> None:
    decision = FtfyText().build()(document("A schÃ¶ner Tag &amp; mehr.\nLine two\x07\nÃœber alles"))
    expected = (
        Edit("replaced", "ftfy", 5, "Ã¶", "ö"),
        Edit("span_removed", "ftfy", 16, "amp;"),
        Edit("span_removed", "ftfy", 35, "\x07"),
        Edit("replaced", "ftfy", 37, "Ãœ", "Ü"),
    )
    assert decision == Rewrite("A schöner Tag & mehr.\nLine two\nÜber alles", expected)


@pytest.mark.parametrize("text", ["plain", "“Curly” – ﬁne ＷＩＤＥ\r\nÅngström", "AT&T & R&D;", "1 < 2 &amp; 3"])
def test_what_is_only_unusual_stays(text: str, document: Callable[[str], Document]) -> None:
    assert FtfyText().build()(document(text)) == Keep()


def test_nothing_left_is_empty(document: Callable[[str], Document]) -> None:
    assert FtfyText().build()(document("\x00\x01 \x02")) == Drop("empty")


MOJIBAKE = st.text(st.sampled_from("ÃÂâ€™œž¶¤ \xa0\x96&;#38ampltéаГЎ°–“à²µØÙ‚Ä<\n\x1b[m\ufeff\udc80a"), max_size=40)


@settings(max_examples=1000)
@given(MOJIBAKE | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace").decode("cp1252", "replace")))
def test_text_is_that_of_ftfy(text: str) -> None:
    fixed = STOCK.format(text)
    assert text_of(text) == fixed or not fixed.strip() or not text.strip()


def test_real_pages_and_their_mojibake(page_texts: list[str]) -> None:
    num_changed = 0
    for text in page_texts[::10]:
        for seen in (text, text.encode().decode("cp1252", "replace")):
            assert text_of(seen) == STOCK.format(seen)
            num_changed += text_of(seen) != seen
    assert num_changed > 12


def test_boundary_of_the_passes() -> None:
    escaped = "&" + "amp;" * (MAX_PASSES - 1)
    assert text_of(f"{escaped}\nÃ¶") == "&\nö"
    assert text_of(f"{escaped}amp;\nÃ¶") == f"{escaped}amp;\nö"


@pytest.mark.parametrize(
    "text",
    ["&" + "amp;" * 100_000, "&#" * 80_000 + "5" + "3;" * 80_000, "Ã¶" * 200_000, "\x96" * 400_000, "â€" * 200_000],
    ids=["entities", "nested digits", "mojibake", "controls", "cut mojibake"],
)
def test_hostile_text_is_done_in_seconds(text: str) -> None:
    start = time.process_time()
    text_of(text)
    assert time.process_time() - start < 20, "measured: at most 1 s"
