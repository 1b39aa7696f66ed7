"""Where pieces begin and end, which of them read as sentences, and how they are taken out."""

from __future__ import annotations

import itertools
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.filters.toxicity_pieces import (
    MAX_LINE_CHARS,
    MAX_UNIT_CHARS,
    MIN_PIECE_WORDS,
    OTHER_FUNCTION_WORDS,
    POINTING_WORDS,
    may_read_as_english,
    reads_as_english,
    removal_edits,
    split_into_pieces,
)
from tasks.formatters.edits import apply_edits

TEXTS = st.text(st.characters() | st.sampled_from("\n\r ab.!?\"'”\u2028"), max_size=300)
FUNCTION_WORDS = st.sampled_from(sorted(POINTING_WORDS | OTHER_FUNCTION_WORDS))
ODD = st.sampled_from([*"'’ é0_-“s", "\u0301", "\u212a", "\u0130", "\u00a0", "\ud800", "boat"])
LINE = "the boat lay here"  # as many words as a piece needs


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in split_into_pieces(text)]


def without(text: str, *toxic: int) -> str:
    found = split_into_pieces(text)
    is_toxic = [index in toxic for index in range(len(found))]
    return apply_edits(text, removal_edits(text, found, is_toxic))


def test_lines_and_sentences() -> None:
    assert pieces("") == pieces(" \n\n\t") == []
    assert pieces(f"  {LINE}.\r\n\r\n{LINE}! ") == [f"{LINE}.", f"{LINE}!"]
    first, second = "A b c d " * 15 + 'e."', "F g h i " * 12 + "j!"
    assert pieces(f"{first} {second} Kl") == [first, f"{second} Kl"]


@pytest.mark.parametrize(("num_chars", "num_pieces"), [(200, 1), (201, 2)])
def test_a_line_is_cut_into_sentences_beyond_200_characters(num_chars: int, num_pieces: int) -> None:
    line = f"{LINE}. {LINE} "
    line += "x" * (num_chars - len(line))
    assert len(pieces(line)) == num_pieces


@given(st.text(st.sampled_from("ab .!?…\"'”’)]\t\u00a0"), max_size=120))
def test_a_sentence_ends_behind_its_mark_and_what_closes_it(text: str) -> None:
    line = f"{'x' * MAX_LINE_CHARS} {text}".strip()
    each_on_a_line = re.sub(r"(?<=[.!?…])([\"'”’)\]]*)(\s+)", lambda end: end[1] + "\n" * len(end[2]), line)
    assert split_into_pieces(line) == split_into_pieces(each_on_a_line)


def test_few_words_are_read_with_what_follows() -> None:
    words = "one two three four five".split()
    few, enough = " ".join(words[: MIN_PIECE_WORDS - 1]), " ".join(words[:MIN_PIECE_WORDS])
    assert pieces(f"{enough}\n{LINE}") == [enough, LINE]
    assert pieces(f"{few}\n{LINE}\n{LINE}") == [f"{few}\n{LINE}", LINE]
    assert pieces(f"{LINE}\n{few}\n") == [f"{LINE}\n{few}"], "the last has nothing behind it"
    assert pieces(few) == [few]


def test_a_unit_without_an_end_is_cut() -> None:
    spaced = "x" * (MAX_UNIT_CHARS - 1) + "   " + "y" * 300
    assert pieces(spaced) == ["x" * (MAX_UNIT_CHARS - 1), "y" * 300]
    assert [len(piece) for piece in pieces("x" * 2500)] == [MAX_UNIT_CHARS, MAX_UNIT_CHARS, 500]
    tail = "z" * 300
    for num_chars in (MAX_UNIT_CHARS - 1, MAX_UNIT_CHARS):  # up to the limit the word is whole
        assert pieces(f"{'x' * (num_chars - 4)} yyy {tail}") == [f"{'x' * (num_chars - 4)} yyy", tail]
    assert pieces(f"{'x' * (MAX_UNIT_CHARS - 3)} yyy {tail}") == ["x" * (MAX_UNIT_CHARS - 3), f"yyy {tail}"]


@given(
    st.lists(st.tuples(st.integers(1, 1500), st.sampled_from([" ", "   ", "\t", "\u3000"])), min_size=1, max_size=40)
)
def test_a_word_is_cut_only_where_it_is_too_long_for_a_piece(words: list[tuple[int, str]]) -> None:
    text = "".join("x" * num_chars + space for num_chars, space in words)
    found = split_into_pieces(text)
    for (_, end), (start, _) in itertools.pairwise(found):
        if end == start:  # within a word
            word = next(each for each in re.finditer(r"\S+", text) if each.start() < end < each.end())
            assert len(word[0]) > MAX_UNIT_CHARS


@given(TEXTS)
def test_pieces_hold_all_but_white_space_in_order(text: str) -> None:
    position = 0
    for start, end in split_into_pieces(text):
        assert not text[position:start].strip()
        assert text[start:end] == text[start:end].strip() != ""
        position = end
    assert not text[position:].strip()


def test_sentences_and_what_is_none() -> None:
    assert reads_as_english("What a boat!")
    assert reads_as_english("YOU boat")
    assert reads_as_english("I’m late")
    assert reads_as_english("boats and oars are gone")
    assert not reads_as_english("boats and oars")
    assert not reads_as_english("A boat, I say")
    assert not reads_as_english("class Boat in Garbage")
    assert not reads_as_english("")


@given(st.lists(st.lists(FUNCTION_WORDS | FUNCTION_WORDS.map(str.upper) | ODD, max_size=8).map("".join), max_size=4))
def test_what_reads_as_english_may_do_so(pieces: list[str]) -> None:
    may = may_read_as_english(pieces)
    assert len(may) == len(pieces)
    assert not any(reads_as_english(piece) and not may_be for piece, may_be in zip(pieces, may, strict=True))


def test_every_function_word_is_found_however_it_is_written() -> None:
    for word in POINTING_WORDS:
        kelvin, printed = word.replace("k", "\u212a"), word.replace("'", "’")
        for written in (word, word.upper(), kelvin, printed, f"“{word}”", f"0{word}_"):
            assert may_read_as_english([f"boat {written}", "boat"]) == [True, False]
    for word in OTHER_FUNCTION_WORDS:
        assert may_read_as_english([f"{word} {word}", f"{word}é{word}", "boat"]) == [True, True, False]
    assert may_read_as_english(["boats and oars", "boats and oars are gone"]) == [False, True]


def test_two_characters_beyond_ascii_become_ascii_letters() -> None:
    lower = {char: char.lower() for char in map(chr, range(0x80, sys.maxunicode + 1))}
    found = {char for char, low in lower.items() if not low.isalpha() or low.isascii() if re.search("[a-z]", low)}
    assert found == {"\u212a", "\u0130"}


@pytest.mark.parametrize(("num_digits", "is_sentence"), [(3, True), (4, False)])
def test_three_quarters_are_letters(num_digits: int, is_sentence: bool) -> None:
    assert reads_as_english("your boats " + "7" * num_digits) == is_sentence


def test_what_stays_is_joined_as_it_was() -> None:
    a, b, c, d = (f"{name} {LINE}" for name in "ABCD")
    lines = f"{a}\n{b}\n\n{c}\n{d}"
    assert without(lines) == lines
    assert without(lines, 0) == f"{b}\n\n{c}\n{d}"
    assert without(lines, 1) == f"{a}\n{c}\n{d}"
    assert without(lines, 1, 2) == f"{a}\n{d}"
    assert without(lines, 3) == f"{a}\n{b}\n\n{c}"
    assert without(f"{lines}\n", 2, 3) == f"{a}\n{b}"
    assert without(lines, 0, 1, 2, 3) == ""


def test_a_sentence_is_taken_out_of_its_paragraph() -> None:
    a, b, c = (f"{name} {LINE} {'and so on ' * 9}on." for name in "ABC")
    text = f"{a} {b} {c}\n\n{LINE}"
    assert pieces(text) == [a, b, c, LINE]
    assert without(text, 0) == f"{b} {c}\n\n{LINE}"
    assert without(text, 1) == f"{a} {c}\n\n{LINE}"
    assert without(text, 2) == f"{a} {b}\n\n{LINE}"
    assert without(text, 1, 2) == f"{a}\n\n{LINE}"
    assert without(text, 0, 1, 2) == LINE
    assert without(text, 2, 3) == f"{a} {b}"


@given(TEXTS, st.integers(0, 2**16))
def test_removal_takes_the_toxic_pieces_and_white_space_alone(text: str, bits: int) -> None:
    found = split_into_pieces(text)
    is_toxic = [bool(bits >> index % 16 & 1) for index in range(len(found))]
    edits = removal_edits(text, found, is_toxic)
    assert len(edits) == sum(is_toxic)
    kept = "".join(text[start:end] for (start, end), toxic in zip(found, is_toxic, strict=True) if not toxic)
    assert "".join(apply_edits(text, edits).split()) == "".join(kept.split())
