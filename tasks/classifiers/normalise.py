"""What a text becomes before a classifier reads it: the same in training and in use, one line without a line feed.

fastText cuts lines at white space, takes a word that begins with `__label__` for a label and one that is `</s>` for the
line's end. No line made here holds either, whatever the text held.

Many texts are done at once, as the pieces of a document, in passes over the bytes of all of them. A regular expression
that looks at every character costs half as much as the classifier itself; so what stands here begins with a fixed byte,
which is looked for as fast as memory is read, and the rest is done by `translate` and `replace`. Joining runs of spaces
costs as much as a quarter of all else: `model_lines`, for a model alone, leaves them, because fastText skips them.
"""

from __future__ import annotations

import functools
import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator

_APOSTROPHE = "’".encode()  # as it is printed; what else is not ASCII is a letter once `_fold` is through
_LETTER = rb"[a-z0-9\x80-\xff]"

_LINK, _WEB_NAME = re.compile(rb"https?://\S+"), re.compile(rb"www\.\S+")
_MENTION = re.compile(rb"@(?:\w|(?!" + _APOSTROPHE + rb")[\x80-\xff])+")
_ZEROS, _SPACES = re.compile(rb"00+"), re.compile(rb"  +")


def _between_letters(mark: bytes) -> re.Pattern[bytes]:
    escaped = re.escape(mark)
    before = rb"(?<=" + _LETTER + escaped + rb")(?<!" + _APOSTROPHE + escaped + rb")"
    return re.compile(escaped + before + rb"(?=" + _LETTER + rb")(?!" + _APOSTROPHE + rb")")


_INNER_MARKS = tuple((mark, _between_letters(mark), b" " + mark + b" ") for mark in (b"'", _APOSTROPHE, b"*", b"$"))
_HELD = b"\x01"  # stands for an inner mark while the others are set apart; there is no such byte then
_OPENS, _CLOSES = b"\x01", b"\x02"  # around a mark of a run while runs are joined
_OTHER_MARKS = tuple((mark.encode(), f" {mark} ".encode()) for mark in sorted(set(string.punctuation) - set("'*$!?_")))

_TEXTS_A_PASS = 128
"""What many pages hold of odd characters, each of which costs a pass, every page would pay for."""

_MAX_PASSES = 32

_CONTROLS = bytes(range(32)).replace(b"\n", b"") + b"\x7f"
_ASCII = bytes.maketrans(
    string.ascii_uppercase.encode() + b"123456789" + _CONTROLS,
    string.ascii_lowercase.encode() + b"000000000" + b" " * len(_CONTROLS),
)
_ALL_ASCII = bytes(range(128))


def normalised(name: str, texts: Sequence[str]) -> list[str]:
    """Each text as the normaliser `name` writes it: as `[NORMALISERS[name](text) for text in texts]`, but faster."""
    lines = b"".join(_lines(name, texts))
    if name in _WITH_RUNS:
        lines = _SPACES.sub(b" ", lines)
    return [line.strip(" ") for line in lines.decode().split("\n")[:-1]]


def model_lines(name: str, texts: Sequence[str]) -> list[bytes]:
    """The same as fastText takes it: in UTF-8, each with a line feed, and with more spaces, which mean nothing to it.

    Of a text of which nothing is left the line is white space alone.
    """
    return _lines(name, texts)


def _lines(name: str, texts: Sequence[str]) -> list[bytes]:
    starts = range(0, len(texts), _TEXTS_A_PASS)
    return [line for start in starts for line in _MANY[name](texts[start : start + _TEXTS_A_PASS])]


def _words_and_marks(texts: Sequence[str]) -> list[bytes]:
    """Lower-case words and marks, with spaces between.

    Case, digits (a number is 0), names and links are taken away because they would betray the source of a training
    example (a tweet, a comment, a web page) instead of its tone. A mark is a word of its own, runs of `!` and `?` are
    one, and `'`, `’`, `*` and `$` between letters belong to the word. Half a character is U+FFFD.
    """
    if not texts:
        return []
    text = "\n".join(texts)
    if text.count("\n") >= len(texts):
        text = "\n".join([each.replace("\n", " ") for each in texts])
    if "&" in text:
        text = _without_entities(text)
    lines = (text.encode() if text.isascii() else _folded(text)).translate(_ASCII)
    if b"://" in lines:
        lines = _LINK.sub(b" ", lines)
    if b"www." in lines:
        lines = _WEB_NAME.sub(b" ", lines)
    lines = _MENTION.sub(b" ", lines).replace(b"_", b" ")
    lines = _marks_apart(_ZEROS.sub(b"0", lines)) + b"\n"
    return lines.splitlines(keepends=True)  # there is no other line end left


def _without_entities(text: str) -> str:
    unescaped = html.unescape(text)
    if unescaped.count("\n") == text.count("\n"):
        return unescaped
    return "\n".join([html.unescape(line).replace("\n", " ") for line in text.split("\n")])  # some meant a line feed


def _marks_apart(lines: bytes) -> bytes:
    for mark, apart in _OTHER_MARKS:
        lines = lines.replace(mark, apart)
    for mark, between_letters, apart in _INNER_MARKS:
        if mark in lines:
            lines = between_letters.sub(_HELD, lines).replace(mark, apart).replace(_HELD, mark)
    for mark in (b"!", b"?"):
        lines = lines.replace(mark, _OPENS + mark + _CLOSES)
    return lines.replace(_CLOSES + _OPENS, b"").replace(_OPENS, b" ").replace(_CLOSES, b" ")


def _folded(text: str) -> bytes:
    """In UTF-8, without compatibility forms; beyond ASCII only lower-case letters and the apostrophe are left.

    Of a text's characters beyond ASCII, few are different ones and fewer change: those are replaced one by one. Where
    they are many, as on a page of symbols, all are looked up, which costs as much as `_MAX_PASSES` of them.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    characters = _beyond_ascii(encoded)
    if not all(map(_stands_alone, characters)):
        lines = [line if line.isascii() else unicodedata.normalize("NFKC", line) for line in text.split("\n")]
        encoded = "\n".join(lines).encode("utf-8", "surrogatepass")
        characters = _beyond_ascii(encoded)
    changed = {character: folded for character in sorted(characters) if (folded := _fold(character)) != character}
    if len(changed) > _MAX_PASSES:
        return (
            encoded.decode("utf-8", "surrogatepass")
            .translate({ord(key): value for key, value in changed.items()})
            .encode()
        )
    for character, folded in changed.items():
        encoded = encoded.replace(character.encode("utf-8", "surrogatepass"), folded.encode())
    return encoded


def _beyond_ascii(encoded: bytes) -> set[str]:
    return set(encoded.translate(None, _ALL_ASCII).decode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=1 << 16)
def _stands_alone(character: str) -> bool:
    """Whether it changes nothing before it, as accents and the later parts of a Korean syllable do.

    In a text of such characters NFKC is that of each: what composes with a character before it is a mark (category M)
    or a conjoining vowel or final consonant (The Unicode Standard, 3.11 and 3.12).
    """
    first = unicodedata.normalize("NFKD", character)[0]
    return not unicodedata.category(first).startswith("M") and not "\u1160" <= first <= "\u11ff"


@functools.lru_cache(maxsize=1 << 16)
def _fold(character: str) -> str:
    return "".join([_apart(low) for each in unicodedata.normalize("NFKC", character) for low in each.lower()])


def _apart(character: str) -> str:
    if character.isdecimal():
        return "0"
    if character.isspace():
        return " "
    if "\ud800" <= character <= "\udfff":
        return " \ufffd "
    return character if character.isalnum() or character == "’" or character.isascii() else f" {character} "


_SURROGATE = re.compile("[\ud800-\udfff]")
_WHITE = b"\t\n\x0b\x0c\r\x00\x1c\x1d\x1e\x1f"
_WHITE_ASCII = bytes.maketrans(_WHITE, b" " * len(_WHITE))
_WHITE_BEYOND = tuple(char for char in map(chr, range(0x80, 0x3001)) if char.isspace())  # 19 characters


def _plain_lines(texts: Sequence[str]) -> list[bytes]:
    """The text as it is, in one line, as DCLM's classifier reads it (Li et al. 2024, arXiv:2406.11794).

    White space becomes spaces, one by one: fastText skips runs of them, and joining them here would cost half as much
    as the classifier.
    """
    return [_plain_line(text) for text in texts]


def as_words(text: str) -> str:
    """The text without what fastText would take for a label or for the line's end, and not read on."""
    return text.replace("__label__", "__ label__").replace("</s>", "< /s>")


def _plain_line(text: str) -> bytes:
    text = as_words(text)
    if not text.isascii():
        for char in _WHITE_BEYOND:
            if char in text:
                text = text.replace(char, " ")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = _SURROGATE.sub("\ufffd", text).encode()
    return encoded.translate(_WHITE_ASCII) + b"\n"


def _one(name: str, text: str) -> str:
    return normalised(name, [text])[0]


_MANY: Mapping[str, Callable[[Sequence[str]], list[bytes]]] = {
    "words_and_marks": _words_and_marks,
    "plain_line": _plain_lines,
}
_WITH_RUNS = frozenset({"words_and_marks"})
"""Whose lines have runs of spaces that are of its own making, which no line of a normaliser shows."""

NORMALISERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {name: functools.partial(_one, name) for name in _MANY}
)
"""The normalisers by the names that `classifier.json` gives them. What one makes of a text never changes under its
name: a model trained with it would read something else than it learnt."""


def _known(name: str) -> str:
    if name not in NORMALISERS:
        raise ValueError(f"normaliser {name!r} is none of {', '.join(NORMALISERS)}")
    return name


NormaliserName = Annotated[str, AfterValidator(_known)]
"""The type of a configuration's field that names one."""
