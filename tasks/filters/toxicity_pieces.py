"""What of a text is judged at once: a sentence or a line of enough words to say something.

A line is a unit; one of more than `MAX_LINE_CHARS` characters is cut into sentences, because a paragraph hides one bad
sentence in the average. Units of few words are read together with what follows, until they have `MIN_PIECE_WORDS`: the
score of a word or two is a guess. So is that of names, numbers and code, for which `reads_as_english` tells sentences
from the rest. Of the highest scores of ordinary pages nearly all were of such pieces.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence

from tasks.document import Edit

MAX_LINE_CHARS = 200
MIN_PIECE_WORDS = 4
MAX_UNIT_CHARS = 1000
"""A sentence without an end (tables, code, a megabyte of one letter) is cut here at the latest."""

POINTING_WORDS = frozenset(
    "an don't he he's her him his how i'm it's me my our she she's should such that that's the their them these they"
    " they're this those us was we were what what's who will would you you're your yourself".split()
)
"""Words of which one makes it likely that somebody is spoken of, or spoken to."""
OTHER_FUNCTION_WORDS = frozenset(
    "about all and are as at be but by can cannot do for from get had has have if in is it just like more no not of on"
    " or out so that then there to too up very when with".split()
)
"""Words that sentences have, and program code and lists of names one of now and then."""
MIN_LETTER_FRACTION = 0.75
MIN_OTHER_FUNCTION_WORDS = 2

_POINTING_BEGINNINGS, _OTHER_BEGINNINGS = (
    frozenset(word.partition("'")[0].encode() for word in words) for words in (POINTING_WORDS, OTHER_FUNCTION_WORDS)
)
_LETTERS = bytes(
    ord(chr(byte).lower()) if chr(byte) in string.ascii_letters + "\n" else ord(" ") for byte in range(256)
)
_LOWER_IS_ASCII = (("\u212a", "k"), ("\u0130", "i "))
"""The only characters beyond ASCII that `str.lower` makes letters from a to z of."""

Piece = tuple[int, int]
"""Where a piece begins and ends in its text, in characters."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE_END = re.compile(r"([.!?…][\"'”’)\]]*)\s+")  # begins with its mark: looking behind costs four times as much


def split_into_pieces(text: str) -> list[Piece]:
    """The pieces in order; they hold every character that is no white space, and begin and end with such."""
    pieces: list[Piece] = []
    start, num_words = -1, 0
    for unit_start, unit_end in _units(text):
        if start < 0:
            start = unit_start
        if unit_end - start < MAX_LINE_CHARS:
            num_words += 1 + text.count(" ", unit_start, unit_end)
            if num_words < MIN_PIECE_WORDS:
                continue
        pieces.append((start, unit_end))
        start, num_words = -1, 0
    if start >= 0:  # what is left at the end belongs to what stands before it
        if pieces:
            start = pieces.pop()[0]
        pieces.append((start, unit_end))
    return pieces


def _units(text: str) -> Iterator[Piece]:
    """Lines, long ones in sentences, without white space around."""
    position = 0
    for line in text.split("\n"):
        if stripped := line.strip():
            start = position if len(stripped) == len(line) else position + line.index(stripped)
            end = start + len(stripped)
            if len(stripped) <= MAX_LINE_CHARS:
                yield start, end
            else:
                yield from _sentences(text, start, end)
        position += len(line) + 1


def _sentences(text: str, start: int, end: int) -> Iterator[Piece]:
    """A line's sentences, each with the quotation marks that close it; in parts, where one is too long."""
    for found in _SENTENCE_END.finditer(text, start, end):
        yield from _parts(text, start, found.end(1))
        start = found.end()
    yield from _parts(text, start, end)


def _parts(text: str, start: int, end: int) -> Iterator[Piece]:
    """A sentence, in parts that end with a word, or within one that is too long by itself."""
    while end - start > MAX_UNIT_CHARS:
        part = text[start : start + MAX_UNIT_CHARS]
        if not (part[-1].isspace() or text[start + MAX_UNIT_CHARS].isspace()):
            part = part.rsplit(maxsplit=1)[0]  # without the beginning of a word
        part = part.rstrip()
        yield start, start + len(part)
        start += len(part)
        while text[start].isspace():
            start += 1
    yield start, end


def reads_as_english(piece: str) -> bool:
    """Whether it has a pointing word or two other function words, and is letters for the most part."""
    words = _WORD.findall(piece.lower().replace("’", "'"))
    if sum(map(len, words)) < MIN_LETTER_FRACTION * sum(map(len, piece.split())):
        return False
    return not POINTING_WORDS.isdisjoint(words) or (
        sum(word in OTHER_FUNCTION_WORDS for word in words) >= MIN_OTHER_FUNCTION_WORDS
    )


def may_read_as_english(pieces: Sequence[str]) -> list[bool]:
    """Of each piece whether `reads_as_english` has to be asked: False only where that says no, at a fifth of its cost.

    Pieces hold no line feed here. Whatever is no letter from a to z parts words, so that each word found there is found
    here, up to its apostrophe.
    """
    if not pieces:
        return []
    lines = "\n".join(pieces)
    for letter, lower in _LOWER_IS_ASCII:
        if letter in lines:
            lines = lines.replace(letter, lower)
    letters = lines.encode("utf-8", "surrogatepass").translate(_LETTERS)
    no_pointing_word, is_other = _POINTING_BEGINNINGS.isdisjoint, _OTHER_BEGINNINGS.__contains__
    return [
        not no_pointing_word(words) or sum(map(is_other, words)) >= MIN_OTHER_FUNCTION_WORDS
        for words in map(bytes.split, letters.split(b"\n"))
    ]


def removal_edits(text: str, pieces: Sequence[Piece], is_toxic: Sequence[bool]) -> tuple[Edit, ...]:
    """Edits that take the toxic pieces out, one each, with the white space that would be left over.

    Of two line ends or two spaces around what is gone one stays: pieces that begin a line take with them what is
    between them and the next piece, others what is before them. What stays is neither glued together nor torn apart.
    """
    edits = []
    opens_line = False
    for index, (start, end) in enumerate(pieces):
        if not is_toxic[index]:
            continue
        before = pieces[index - 1][1] if index else 0
        if not (index and is_toxic[index - 1]):  # a run of toxic pieces is taken out as its first one is
            opens_line = index == 0 or "\n" in text[before:start]
        if not opens_line:
            edits.append((before, end))
        elif index + 1 < len(pieces):
            edits.append((start, pieces[index + 1][0]))
        else:  # nothing follows: of the white space around the last run all goes
            edits.append((start, len(text)))
            first = len(edits) - 1
            while first and edits[first - 1][1] == edits[first][0]:
                first -= 1
            edits[first] = (len(text[: edits[first][0]].rstrip()), edits[first][1])
    return tuple(Edit("span_removed", "toxic_span", start, text[start:end]) for start, end in edits)
