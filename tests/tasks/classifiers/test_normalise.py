"""Normalisers: what they write, against the same said plainly, and what no text may do to a line."""

from __future__ import annotations

import html
import re
import string
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.classifiers.normalise import NORMALISERS, model_lines, normalised

ODD = st.text(st.sampled_from("aZé0٣７ _'’*$@!?.,\n\t\x00\x01\x85\u2028\u00a0\ud800ΣσİﬀßΩ…“&;#x1Ll/:w中"), max_size=30)
TEXTS = st.one_of(
    st.text(), ODD, st.from_regex(r"(https?://\w+|www\.\w|@\w+|&(amp|#10|NewLine|#xD800|lt);|'|’| ){1,6}")
)


def said_plainly(text: str) -> str:
    """`words_and_marks` step by step, with an expression for each."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    text = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    text = re.sub(r"[\x00-\x1f\x7f]", " ", "".join(char.lower() for char in text))
    beyond = "".join(f" {char} " if re.match(r"[^\w\s\x00-\x7f’]", char) else char for char in text)
    for pattern in (r"https?://\S+", r"www\.\S+", r"@\w+"):
        beyond = re.sub(pattern, " ", beyond)
    return " ".join(re.findall(r"[^\W_]+(?:['’*$][^\W_]+)*|[!?]+|[^\w\s]", re.sub(r"\d+", "0", beyond)))


@given(TEXTS)
@example("a’'b ’’c d'’e")
@example("HTTP://X.y/z @me’s www.WWW")
@example("".join(f"{chr(code)}a" for code in range(0x2190, 0x2500)) + "\ud800É")  # more odd ones than passes
def test_words_and_marks_are_what_is_said_plainly(text: str) -> None:
    assert NORMALISERS["words_and_marks"](text) == said_plainly(text)


def test_words_and_marks() -> None:
    lines = {
        "RT @Jo: Don't &amp; 1984!! http://x.org/y": "rt : don't & 0 !!",
        "a\nb\x00c\ud800": "a b c \ufffd",
        "@jo www.x.org": "",
        "f*ck $hit ?!": "f*ck $ hit ?!",
        "It’s “fine” — O’Neill's": "it’s “ fine ” — o’neill's",
        "snake_case 12,345.6": "snake case 0 , 0 . 0",
        "": "",
    }
    assert normalised("words_and_marks", list(lines)) == list(lines.values())
    assert normalised("words_and_marks", []) == []


@pytest.mark.parametrize("num_spaces", [1, 2, 3, 4, 5, 7, 8, 9, 1000])
def test_spaces_are_one_however_many_they_were(num_spaces: int) -> None:
    spaces = " " * num_spaces
    assert normalised("words_and_marks", [f"{spaces}a{spaces}b", spaces, f"c{spaces},d"]) == ["a b", "", "c , d"]


def test_characters_are_folded_as_in_their_text() -> None:
    """Those that NFKC changes, or that compose with the letter before them: each the only one of its text."""
    characters = [char for char in map(chr, range(0x80, sys.maxunicode + 1)) if not "\uac00" <= char <= "\ud7a3"]
    changed = [char for char in characters if unicodedata.normalize("NFKC", f"e{char}") != f"e{char}"]
    assert len(changed) > 4_000
    for char in changed:
        assert NORMALISERS["words_and_marks"](f"e{char} {char}{char}") == said_plainly(f"e{char} {char}{char}")


def test_only_marks_and_parts_of_syllables_compose_with_what_is_before_them() -> None:
    """What NFKC of each character alone rests on: Unicode's pairs, and its arithmetic for Korean."""
    for char in map(chr, range(sys.maxunicode + 1)):
        pair = unicodedata.decomposition(char).split()
        if len(pair) == 2 and not pair[0].startswith("<"):
            assert unicodedata.category(chr(int(pair[1], 16))).startswith("M")
    for jamo in map(chr, range(0x1100, 0x1200)):
        composes = any(unicodedata.normalize("NFC", before + jamo) != before + jamo for before in "\u1100\uac00")
        assert not composes or "\u1160" <= jamo <= "\u11ff"


def test_a_run_of_marks_is_one_word() -> None:
    runs = {"a!b": "a ! b", "!?!?x?": "!?!? x ?", "! !": "! !", "!\n!": "! !", "!\x01!\x02?": "! ! ?", "!!": "!!"}
    assert normalised("words_and_marks", list(runs)) == list(runs.values())


@pytest.mark.parametrize("name", sorted(NORMALISERS))
@given(texts=st.lists(TEXTS, max_size=5))
@example(texts=["a , b", "", "@jo", "\x0b\x0c\r\x1c"])
def test_a_model_reads_the_same_words(name: str, texts: list[str]) -> None:
    lines = model_lines(name, texts)
    for line, written in zip(lines, normalised(name, texts), strict=True):
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert line.split() == written.encode().split()
        assert line.isspace() == (written == "")


def test_plain_line() -> None:
    lines = {
        "  One\n\ttwo\u00a0three\x00four ": "One  two three four",
        "__label__toxic </s> a__label__b": "__ label__toxic < /s> a__ label__b",
        "½\ud800": "½\ufffd",
        "": "",
    }
    assert normalised("plain_line", list(lines)) == list(lines.values())


@pytest.mark.parametrize("name", sorted(NORMALISERS))
@given(texts=st.lists(TEXTS, max_size=5))
@example(texts=["a\n", "\n", "", "b &#10; c"])
@example(texts=["____label____label__", "x\x00</s>", "</s", ">"])
@example(texts=[f"Line {number}, é\u0301“" for number in range(300)])  # more than one pass takes
def test_many_at_once_are_each_alone_and_fit_for_fasttext(name: str, texts: list[str]) -> None:
    lines = normalised(name, texts)
    assert lines == [NORMALISERS[name](text) for text in texts]
    for line in lines:
        assert "\n" not in line
        assert line == line.strip()
        line.encode("utf-8")
        for word in re.split(f"[{string.whitespace}\x00]", line):
            assert not word.startswith("__label__")
            assert word != "</s>"
