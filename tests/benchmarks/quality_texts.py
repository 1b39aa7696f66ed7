"""Examples of quality: texts that somebody wrote or marked as a page's content, and the same pages as they come.

    good   articles of an encyclopedia (WikiText-2's validation part) and the main content that people marked
    raw    all visible text of pages: menus, notices, lists of links, and the content among them

A text is cut into windows of so many characters, so that its length says nothing about its class. Pages whose URL's
SHA-256 is odd are looked at by reports alone (tests.benchmarks.gold_pages).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text

from tasks.html_charset import decode_html
from tests.benchmarks.gold_pages import WEB, gold_pages

WIKITEXT = WEB.parent / "text" / "wikitext2_valid.txt.gz"
WINDOW_CHARS, MIN_WINDOW_CHARS = 1_500, 200

_TITLE = re.compile(r"\n = (?!=)[^\n]* = \n")
_JOINED = {" @-@ ": "-", " @,@ ": ",", " @.@ ": ".", "<unk>": ""}
_BEFORE_MARK, _AFTER_BRACKET = re.compile(r" (?=[,.;:!?)\]%'])"), re.compile(r"(?<=[(\[]) ")
_QUOTED = re.compile(r'(?<= )" ([^"\n]*) "')


@dataclass(frozen=True, slots=True)
class QualityPage:
    """A page by its marked content and by all of its visible text; either may be empty."""

    url: str
    page_type: str
    is_odd: bool
    marked: str
    visible: str


def encyclopedia_articles(file: Path = WIKITEXT) -> Iterator[str]:
    """The articles without headings, with marks where a writer puts them: how the file writes them names its source."""
    text = gzip.decompress(file.read_bytes()).decode()
    for written, meant in _JOINED.items():
        text = text.replace(written, meant)
    text = _QUOTED.sub(r'"\1"', _AFTER_BRACKET.sub("", _BEFORE_MARK.sub("", text)))
    for article in _TITLE.split(text):
        lines = (line.strip() for line in article.splitlines())
        if body := "\n".join(line for line in lines if line and not line.startswith("=")):
            yield body


def quality_pages() -> Iterator[QualityPage]:
    """The annotated pages, in the archive's order."""
    for page in gold_pages():
        decoded = decode_html(page.html, page.charset)
        visible = extract_plain_text(decoded, main_content=False) if isinstance(decoded, str) else ""
        yield QualityPage(page.url, page.page_type, page.is_odd, page.main_content, visible)


def windows(text: str) -> Iterator[str]:
    """The text in pieces of about `WINDOW_CHARS` characters that end with a word; a rest of less than 200 is left out.

    White space becomes one space: where lines end says what a text was extracted by.
    """
    words: list[str] = []
    num_chars = 0
    for word in text.split():
        words.append(word)
        num_chars += len(word) + 1
        if num_chars >= WINDOW_CHARS:
            yield " ".join(words)
            words, num_chars = [], 0
    if num_chars >= MIN_WINDOW_CHARS:
        yield " ".join(words)
