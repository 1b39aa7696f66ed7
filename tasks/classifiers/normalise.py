"""What a text becomes before a classifier reads it: the same in training and in use, one line without a line feed.

fastText cuts lines at white space, takes a word that begins with `__label__` for a label and one that is `</s>` for the
line's end. No line made here holds either, whatever the text held.

`normalised` does many texts at once, as the pieces of a document: what is done to each alone is what is dear or may
differ from one to the next, and the cutting into words is one pass over all of them.
"""

from __future__ import annotations

import functools
import html
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

_SURROGATE = re.compile("[\ud800-\udfff]")
_MENTION_OR_LINK = re.compile(r"https?://\S+|www\.\S+|@\w+")
_DIGITS = re.compile(r"\d+")
_ZEROS = re.compile("00+")
_AS_ZERO = str.maketrans("123456789", "000000000")
_WORD_OR_MARK = re.compile(r"[^\W_]+(?:['’*@$][^\W_]+)*|[!?]+|[^\w\s]|\n")


def normalised(name: str, texts: Sequence[str]) -> list[str]:
    """Each text as the normaliser `name` writes it: as `[NORMALISERS[name](text) for text in texts]`, but faster."""
    return _MANY[name](texts)


def _words_and_marks(texts: Sequence[str]) -> list[str]:
    """Lower-case words and marks, with spaces between.

    Case, digits, names and links are taken away because they would betray the source of a training example (a tweet, a
    comment, a web page) instead of its tone. Lone surrogates have no UTF-8 form and become U+FFFD.
    """
    if not texts:
        return []
    joined = " ".join(_WORD_OR_MARK.findall("\n".join(map(_plain, texts))))
    return [line.strip(" ") for line in joined.split("\n")]


def _plain(text: str) -> str:
    """Without entities, capitals, compatibility forms, names, links and line feeds; a number is 0."""
    if "&" in text:
        text = html.unescape(text)  # which may make line feeds
    if "\n" in text:
        text = text.replace("\n", " ")
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _SURROGATE.sub("\ufffd", text))
    text = text.lower()
    if "@" in text or "://" in text or "www." in text:
        text = _MENTION_OR_LINK.sub(" ", text)
    if not text.isascii():
        return _DIGITS.sub("0", text)
    text = text.translate(_AS_ZERO)
    return _ZEROS.sub("0", text) if "00" in text else text


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
