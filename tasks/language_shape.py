"""What no model of languages can judge, found without one: too few letters, and program code.

A line counts as code by its form: it ends as statements of C's family do, begins with a word of a language followed by
what such a word is followed by, assigns, calls, is a comment's frame, or is all markup. Prose has few such lines, and
they are short; a page of documentation has them between paragraphs. So the figure is a share of characters, not lines.
"""

from __future__ import annotations

import re

MAX_WINDOWS, WINDOW_CHARS = 8, 200
CHARS_PER_WINDOW = 600
"""Windows are a third of a text at most: what they cost is a third of what its language costs."""

_WIDE_LETTERS = 3
"""Letters that an ideograph, kana or Hangul syllable counts for: as many bytes, and about as much of a word."""
_WIDE = "\u2e80"
"""First of the scripts of East Asia, which go on to the end of the basic plane, but for a few of Africa and Asia."""

_MARKS = "{}();=<>[]_"
MIN_MARK_FRACTION = 0.03
"""Of a text, that are marks of `_MARKS`; where there are fewer, no line is looked at."""

MAX_PROSE_MARK_FRACTION = 0.1
"""Of a line; where more are marks it is code, whatever its form: minified scripts, tables of numbers in brackets."""

MAX_FORM_CHARS = 300
"""A longer line is judged by its marks alone: no statement is so long, and no pattern becomes slow."""

_CODE_LINE = re.compile(
    "|".join(
        (
            r".*[;{}\\]$",  # a statement, a block, a line that goes on
            r"[})\]]",  # what a block or a call ends with
            r"from [\w.]+ import|import [\w.]+(?: as \w+|, [\w.]+)*;?$|import .* from",
            r"def \w+ ?\(|class \w+ ?[:({]|@\w+",
            r"(?:async )?(?:if|elif|for|while|with|except|switch|catch)\b.*[:({]$",
            r"(?:else|try|finally|do|pass|break|continue|return) ?:?$",
            r"(?:return|raise|assert|yield|await|del) [\w.'\"\[({-]+(?:$|[.,(\[{+*/=<>-]| [=!<>+*/-])",
            r"(?:return|raise|assert|yield|await|del) [\w.'\"\[({-]+ (?:if|for|and|or|not|in|is)\b",
            r"(?:var|let|const|public|private|protected|static|extern|typedef|struct|enum|union|void|unsigned) [\w*]+",
            r"\# ?(?:include|define|undef|ifn?def|if|elif|else|endif|pragma|error|!)",
            # an assignment: names, perhaps a type, a sign
            r"[\w.$\[\]'\"*>-]+(?: ?, ?[\w.]+)*(?: ?: ?[\w.\[\], |\"']+)? ?(?:[-+*/|&^%]|<<|>>|\*\*|//)?=(?!=) ?\S",
            r"[\w.$]+\(.*[),]$",  # a call
            r"[\"'][^\"']*[\"'] ?[:,]",  # an entry of a table
            r"/\*|\*/|//",  # a comment's frame
            r"[\w.*&$]+,$",  # a name in a list of names
            r"</?[a-zA-Z!][^>]*>$",  # markup alone
        )
    )
)


def num_letters(text: str, enough: int) -> int:
    """Letters of a text, a wide one counted as `_WIDE_LETTERS`; the count stops when there are `enough`."""
    found = 0
    for start in range(0, len(text), 2 * enough or 1):
        piece = text[start : start + 2 * enough]
        found += sum(map(str.isalpha, piece))
        if not piece.isascii():
            found += (_WIDE_LETTERS - 1) * sum(char >= _WIDE and char.isalpha() for char in piece)
        if found >= enough:
            return found
    return found


def code_fraction(text: str) -> float:
    """Share of the characters that stand on lines of program code, runs of white space counted as one; 0 to 1."""
    if sum(map(text.count, _MARKS)) < MIN_MARK_FRACTION * len(text):
        return 0.0
    code = total = 0
    for line in text.splitlines():
        line = " ".join(line.split())
        total += len(line)
        if line and _is_code(line):
            code += len(line)
    return code / total if total else 0.0


def _is_code(line: str) -> bool:
    if len(line) <= MAX_FORM_CHARS and _CODE_LINE.match(line):
        return True
    return sum(map(line.count, _MARKS)) > MAX_PROSE_MARK_FRACTION * len(line)


def windows(text: str) -> list[str]:
    """Up to `MAX_WINDOWS` pieces of `WINDOW_CHARS`, evenly spread from the text's beginning to its end.

    One for each `CHARS_PER_WINDOW`; none at all of a text that is too short for two.
    """
    number = min(MAX_WINDOWS, len(text) // CHARS_PER_WINDOW)
    if number < 2:
        return []
    last = len(text) - WINDOW_CHARS
    return [text[start : start + WINDOW_CHARS] for start in (last * each // (number - 1) for each in range(number))]
