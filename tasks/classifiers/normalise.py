"""What a text becomes before a classifier reads it: the same in training and in use, one line without a line feed.

fastText cuts lines at white space, takes a word that begins with `__label__` for a label and one that is `</s>` for the
line's end. No line made here holds either, whatever the text held.

`normalised` does many texts at once, as the pieces of a document, in passes over all of them: a regular expression that
looks at every character costs as much as the classifier itself, so what is done here is done by `str.replace`,
`bytes.translate`, and expressions that begin with a fixed character, which the library looks for as fast.
"""

from __future__ import annotations

import functools
import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

_LINK, _WEB_NAME, _MENTION = re.compile(r"https?://\S+"), re.compile(r"www\.\S+"), re.compile(r"@\w+")

_SURROGATE = re.compile("[\ud800-\udfff]")
_INNER_MARKS = "'’*$"
_BETWEEN_LETTERS = tuple((mark, re.compile(f"{re.escape(mark)}(?<=\\w.)(?=\\w)")) for mark in _INNER_MARKS)
_HELD = "\x01"  # stands for an inner mark while the others are set apart; no text holds it then
_RUN_MARKS = "!?"
_AFTER_RUN_MARK = tuple((f"{mark}  ", re.compile(rf"{re.escape(mark)}  (?=[!?])"), mark) for mark in _RUN_MARKS)
_OTHER_MARKS = tuple(sorted(set(string.punctuation) - set(_INNER_MARKS) - set(_RUN_MARKS) - {"_"}))

_CONTROLS = "".join(map(chr, range(32))).replace("\n", "") + "\x7f"
_ASCII = bytes.maketrans(
    (string.ascii_uppercase + "123456789" + _CONTROLS).encode(),
    (string.ascii_lowercase + "000000000" + " " * len(_CONTROLS)).encode(),
)


def normalised(name: str, texts: Sequence[str]) -> list[str]:
    """Each text as the normaliser `name` writes it: as `[NORMALISERS[name](text) for text in texts]`, but faster."""
    return _MANY[name](texts)


def _words_and_marks(texts: Sequence[str]) -> list[str]:
    """Lower-case words and marks, with spaces between.

    Case, digits (a number is 0), names and links are taken away because they would betray the source of a training
    example (a tweet, a comment, a web page) instead of its tone. A mark is a word of its own, runs of `!` and `?` are
    one, and those in `_INNER_MARKS` belong to the word that they stand in. Halves of a character become U+FFFD.
    """
    if not texts:
        return []
    lines = "\n".join(texts)
    if lines.count("\n") >= len(texts):
        lines = "\n".join([text.replace("\n", " ") for text in texts])
    if "&" in lines:
        lines = _without_entities(lines)
    if not lines.isascii():
        lines = "\n".join([line if line.isascii() else _folded(line) for line in lines.split("\n")])
    lines = lines.encode().translate(_ASCII).decode()
    if "://" in lines:
        lines = _LINK.sub(" ", lines)
    if "www." in lines:
        lines = _WEB_NAME.sub(" ", lines)
    if "@" in lines:
        lines = _MENTION.sub(" ", lines)
    lines = lines.replace("_", " ")
    while "00" in lines:
        lines = lines.replace("00", "0")
    lines = _marks_apart(lines)
    while "  " in lines:
        lines = lines.replace("  ", " ")
    return lines.replace(" \n", "\n").replace("\n ", "\n").strip(" ").split("\n")


def _without_entities(lines: str) -> str:
    unescaped = html.unescape(lines)
    if unescaped.count("\n") == lines.count("\n"):
        return unescaped
    return "\n".join([html.unescape(line).replace("\n", " ") for line in lines.split("\n")])  # some meant a line feed


def _marks_apart(lines: str) -> str:
    """Spaces around every mark of ASCII, and around an apostrophe that is printed, unless it stays in its word."""
    for mark in _OTHER_MARKS:
        lines = lines.replace(mark, f" {mark} ")
    for mark, between_letters in _BETWEEN_LETTERS:
        if mark in lines:
            lines = between_letters.sub(_HELD, lines).replace(mark, f" {mark} ").replace(_HELD, mark)
    for mark in _RUN_MARKS:
        lines = lines.replace(mark, f" {mark} ")
    for spaced, followed, mark in _AFTER_RUN_MARK:
        if spaced in lines:
            lines = followed.sub(mark, lines)
    return lines


def _folded(line: str) -> str:
    return unicodedata.normalize("NFKC", line).translate(_FOLD)


class _Fold(dict[int, str]):
    """What a code point turns into; filled on demand, as `str.translate` asks for it. ASCII is left alone."""

    def __missing__(self, code_point: int) -> str:
        character = chr(code_point)
        self[code_point] = folded = (
            character if character.isascii() else "".join(map(self._apart, character.lower()))
        )
        return folded

    @staticmethod
    def _apart(character: str) -> str:
        if character.isdecimal():
            return "0"
        if character.isspace():
            return " "
        if character.isalnum() or character in _INNER_MARKS or character.isascii():
            return character
        return " \ufffd " if "\ud800" <= character <= "\udfff" else f" {character} "


_FOLD = _Fold()


def _plain_lines(texts: Sequence[str]) -> list[str]:
    """The text as it is, white space to one space, as DCLM's classifier reads it (Li et al. 2024, arXiv:2406.11794)."""
    return [_plain_line(text) for text in texts]


def _plain_line(text: str) -> str:
    line = " ".join(text.replace("\x00", " ").split())
    if not line.isascii():
        line = _SURROGATE.sub("\ufffd", line)
    return line.replace("__label__", "__ label__").replace("</s>", "< /s>")


def _one(many: Callable[[Sequence[str]], list[str]], text: str) -> str:
    return many([text])[0]


_MANY: Mapping[str, Callable[[Sequence[str]], list[str]]] = {
    "words_and_marks": _words_and_marks,
    "plain_line": _plain_lines,
}

NORMALISERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {name: functools.partial(_one, many) for name, many in _MANY.items()}
)
"""The normalisers by the names that `classifier.json` gives them. What one makes of a text never changes under its
name: a model trained with it would read something else than it learnt."""
