"""What no model of languages can judge, found without one: too few letters, and program code.

A line counts as code by its form: it ends as statements of C's family do, begins with a word of a language followed by
what such a word is followed by, assigns, calls, is a comment's frame, or is all markup. Prose has few such lines, and
they are short; a page of documentation has them between paragraphs. So the figure is a share of characters, not lines.
"""

from __future__ import annotations

import re

MAX_WINDOWS, WINDOW_CHARS, MIN_WINDOW_LETTERS = 8, 300, 120
"""A window is what the rough check before extraction takes as a sample."""

_WIDE_LETTERS = 3
"""Letters that an ideograph, kana or Hangul syllable counts for: as many bytes, and about as much of a word."""
_WIDE = "\u2e80"
"""First of the scripts of East Asia, which go on to the end of the basic plane, but for a few of Africa and Asia."""

_MARKS = "{}();=<>[]_"
MIN_MARK_FRACTION = 0.03
"""Of a text, that are marks of `_MARKS`; where there are fewer, no line is looked at."""

MAX_PROSE_MARK_FRACTION = 0.1
"""Of a line; where more are marks it is code, whatever its form: minified scripts, tables of numbers in brackets."""

_CODE_LINE = re.compile(
    r"""
    .*[;{}\\]\s*$                                                     # a statement, a block, a line that goes on
    | \s*[})\]]                                                       # what a block or a call ends with
    | \s*(?:from\s+[\w.]+\s+import|import\s+[\w.,{}*\s]+(?:$|from|as)|def\s+\w+\s*\(|class\s+\w+\s*[:({]|@\w+)
    | \s*(?:async\s+)?(?:if|elif|for|while|with|except|switch|catch)\b.*[:({]\s*$
    | \s*(?:else|try|finally|do)\s*:?\s*$
    | \s*(?:return|raise|assert|yield|await|del|pass|break|continue)\b(?:\s*$|\s+[\w.'"\[({-]+(?:$|[.,(\[{+*/=<>-]|\s(?:[=!<>+*/-]|if|for|and|or|not|in|is)))
    | \s*(?:var|let|const|public|private|protected|static|extern|typedef|struct|enum|union|void|unsigned)\s+[\w*]+
    | \s*\#\s*(?:include|define|undef|ifn?def|if|elif|else|endif|pragma|error|!)
    | \s*[\w.$\[\]'"*>-]+(?:\s*,\s*[\w.]+)*(?:\s*:\s*[\w.\[\], |"']+)?\s*(?:[-+*/|&^%]|<<|>>|\*\*|//)?=(?!=)\s*\S   # an assignment
    | \s*[\w.$]+\(.*[),]\s*$                                          # a call
    | \s*["'][^"']*["']\s*[:,]                                        # an entry of a table
    | \s*(?:/\*|\*/|//)                                               # a comment's frame
    | \s*[\w.*&$]+,\s*$                                               # a name in a list of names
    | \s*</?[a-zA-Z!][^>]*>\s*$                                       # markup alone
    """,
    re.VERBOSE,
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
    """Share of the characters that stand on lines of program code, white space at a line's ends left out; 0 to 1."""
    if sum(map(text.count, _MARKS)) < MIN_MARK_FRACTION * len(text):
        return 0.0
    code = total = 0
    for line in text.splitlines():
        chars = len(line.strip())
        total += chars
        if chars and (_CODE_LINE.match(line) or sum(map(line.count, _MARKS)) > MAX_PROSE_MARK_FRACTION * chars):
            code += chars
    return code / total if total else 0.0


def windows(text: str) -> list[str]:
    """Up to `MAX_WINDOWS` pieces of `WINDOW_CHARS`, evenly spread from the text's beginning to its end.

    Without those that have fewer than `MIN_WINDOW_LETTERS` letters. None at all of a text that is shorter than two.
    """
    number = min(MAX_WINDOWS, len(text) // WINDOW_CHARS)
    if number < 2:
        return []
    last = len(text) - WINDOW_CHARS
    pieces = (text[start : start + WINDOW_CHARS] for start in (last * each // (number - 1) for each in range(number)))
    return [piece for piece in pieces if num_letters(piece, MIN_WINDOW_LETTERS) >= MIN_WINDOW_LETTERS]
