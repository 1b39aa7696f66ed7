"""The worst errors: which they are, and that their texts are masked, cut and nothing but text."""

from __future__ import annotations

import csv
import html
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.classifiers.errors import MAX_SHOWN_CHARS, errors_csv, errors_markdown, worst_errors
from tests.tasks.rendering import harmful_tags, rendered

HOSTILE = [
    "# heading",
    "- list",
    "1. list",
    "---",
    "> quote",
    "    code",
    "```",
    "<script>alert(1)</script>",
    "![x](https://evil.example/x.png)",
    "[c](javascript:alert(1))",
    "a|b\n\n# second paragraph",
    "[ref]: https://evil.example",
    "=HYPERLINK(1)",
    "\x1b[31m\x00",
    "&lt;b&gt;",
    "",
]


def test_the_worst_come_first_and_twenty_of_each() -> None:
    texts = [f"text {place:02}" for place in range(60)]
    labels = [place % 2 == 0 for place in range(60)]
    scores = [0.1 + place / 100 if label else 0.9 - place / 100 for place, label in enumerate(labels)]
    errors = worst_errors(texts, labels, scores, 0.4, num_each=5)
    assert [each.text for each in errors.false_alarms] == [f"text {place:02}" for place in (1, 3, 5, 7, 9)]
    assert [each.text for each in errors.misses] == [f"text {place:02}" for place in (0, 2, 4, 6, 8)]
    assert errors.num_false_alarms == sum(score > 0.4 for score in scores[1::2])
    assert errors.num_misses == sum(score <= 0.4 for score in scores[0::2])
    assert len(worst_errors(texts, [False] * 60, [0.5] * 60, 0.4).false_alarms) == 20


def test_on_the_threshold_is_missed_one_step_above_is_found() -> None:
    errors = worst_errors(["on", "above"] * 2, [True, True, False, False], [0.5, math.nextafter(0.5, 1)] * 2, 0.5)
    assert [each.text for each in errors.misses] == ["on"]
    assert [each.text for each in errors.false_alarms] == ["above"]


def test_the_order_of_the_texts_does_not_matter() -> None:
    texts, scores = ["b", "a", "c"], [0.9, 0.9, 0.9]
    forward, backward = (worst_errors(each, [False] * 3, scores, 0.5) for each in (texts, texts[::-1]))
    assert forward == backward


def test_personal_data_is_masked_before_the_text_is_cut() -> None:
    """Cut first, the half of an address that is left would be no address any more."""
    address = "jane.doe.of.somewhere@mail-of-hers.com"
    (sample,) = worst_errors([f"{'x' * (MAX_SHOWN_CHARS - 13)} {address} and on"], [False], [0.9], 0.5).false_alarms
    assert len(sample.text) == MAX_SHOWN_CHARS + 1
    assert "jane" not in sample.text and sample.text.endswith("█…")
    assert "+1 415" not in worst_errors(["call +1 415 555 2671 now"], [False], [0.9], 0.5).false_alarms[0].text


@pytest.mark.parametrize(("num_chars", "shown"), [(MAX_SHOWN_CHARS, MAX_SHOWN_CHARS), (MAX_SHOWN_CHARS + 1, 301)])
def test_a_text_is_cut(num_chars: int, shown: int) -> None:
    (sample,) = worst_errors(["x" * num_chars], [True], [0.1], 0.5).misses
    assert len(sample.text) == shown


def shown_texts(page: str) -> list[str]:
    """What a reader sees in each quotation: one paragraph, nothing but letters."""
    quotations = re.findall(r"<blockquote>\n<p>“(.*?)”</p>\n</blockquote>", rendered(page))
    assert not [each for each in quotations if "<" in each]
    return [html.unescape(each) for each in quotations]


def test_hostile_texts_are_shown_as_they_are() -> None:
    errors = worst_errors(HOSTILE, [False] * len(HOSTILE), [0.9] * len(HOSTILE), 0.5, HOSTILE)
    page = errors_markdown(errors)
    assert not harmful_tags(page)
    expected = [" ".join("".join(c if c.isprintable() else " " for c in text).split()) for text in sorted(HOSTILE)]
    assert shown_texts(page) == expected
    assert rendered(page).count("<h3>") == 2 and "<h1>" not in rendered(page)


@settings(max_examples=60)
@given(st.text(alphabet=st.sampled_from("ab <>[]()!|`\\*_~&#;:/\n\x00'\"-=+@1.>“”"), max_size=40))
def test_any_text_stays_in_its_quotation(text: str) -> None:
    page = errors_markdown(worst_errors([text], [True], [0.1], 0.5, [text]))
    assert len(shown_texts(page)) == 1
    assert not harmful_tags(page)


def test_the_table_has_both_kinds() -> None:
    errors = worst_errors(["=1+1", "fine"], [False, True], [0.9, 0.1], 0.5, ["@forum", "news"])
    assert list(csv.reader(io.StringIO(errors_csv(errors)))) == [
        ["error", "score", "source", "text"],
        ["false alarm", "0.9", "'@forum", "'=1+1"],
        ["miss", "0.1", "news", "fine"],
    ]


def test_what_is_told_around_the_texts() -> None:
    page = errors_markdown(worst_errors(["a", "b", "c"], [False, False, True], [0.9, 0.8, 0.7], 0.5, num_each=1))
    assert "negative texts above the threshold 0.5\n\nThe worst 1 of 2, worst first.\n\n**0.9000**\n\n> “a”" in page
    assert page.endswith("positive texts not above the threshold 0.5\n\nNone.")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each"):
        worst_errors(["x", "y"], [True], [0.1, 0.2], 0.5)
