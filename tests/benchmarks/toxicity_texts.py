"""What the toxicity classifier is trained on, tuned on and measured on, and which is which.

A page's side is a hash of its name. What merely resembles a page, or asks something else about the same passage, may be
on another side:

    part    training                 threshold                held out
    web     hash 0 of 4              2 of 4                   1 and 3 of 4: the odd ones
    docs    0 of 8                   1 of 32                  all others
    news, questions, novels  0 of 4  1 of 4                   2 and 3 of 4
    fresh docs  none                 none                     all

`web` is the main content of annotated web pages as people marked it; `docs` is English documentation as Debian installs
it (README of `../shared/data`), its main content as resiliparse extracts it; `fresh docs` is the same of ten packages
that nothing was tried on before the figures were taken. Toxic comments are on the sides that their
data set gives them; of the labelled tweets a tenth by hash is held out.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

Side = Literal["train", "tune", "held out"]

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
DEBIAN = Path("/usr/share/doc")
DOCUMENTATION = (
    "apache2-doc/manual/en/**/*.html",
    "debian-handbook/html/en-US/*.html",
    "git-doc/**/*.html",
    "installation-guide-amd64/en/*.html",
    "libxslt1-dev/**/*.html",
    "linux-doc-6.1/html/**/*.html",
    "nodejs/**/*.html",
    "postgresql-doc-15/html/*.html",
    "python3.11/html/**/*.html",
    "sqlite3/**/*.html",
    "valgrind/**/*.html",
)
FRESH_PACKAGES = (
    "bash-doc",
    "debian-policy",
    "developers-reference",
    "gimp-help-en",
    "gnuplot-doc",
    "libboost1.74-doc",
    "octave-doc",
    "openjdk-17-doc",
    "qtbase5-doc-html",
    "r-doc-html",
)
NUM_FRESH = 5000
NOT_ENGLISH = "/translations/"
MIN_DOCUMENTATION_CHARS = 200
MIN_WEB_CHARS = 50

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|\n")


@dataclass(frozen=True, slots=True)
class Page:
    """An ordinary document."""

    part: str
    side: Side
    text: str


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment with the offsets of what is toxic in it; none: its annotators did not agree on any."""

    text: str
    toxic: frozenset[int]

    def is_toxic(self, start: int, end: int) -> bool:
        return not self.toxic.isdisjoint(range(start, end))

    def toxic_sentences(self) -> Iterator[str]:
        """Sentences with a toxic offset, each on its own."""
        start = 0
        for end in (*(match.end() for match in _SENTENCE_END.finditer(self.text)), len(self.text)):
            if self.is_toxic(start, end):
                yield self.text[start:end].strip()
            start = end


@dataclass(frozen=True, slots=True)
class Tweet:
    """A labelled tweet (Davidson et al. 2017); `kind` 0 hate, 1 offensive, 2 neither."""

    text: str
    kind: Literal["0", "1", "2"]
    held_out: bool


def number(name: str) -> int:
    """A number that a name always has."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[-4:], "big")


def side_of(part: str, name: str) -> Side:
    """The side of a page; `name` is its address, its path, or, where it has neither, its text."""
    if part == "docs":
        return "train" if number(name) % 8 == 0 else "tune" if number(name) % 32 == 1 else "held out"
    remainder = number(name) % 4
    return "train" if remainder == 0 else "tune" if remainder == (2 if part == "web" else 1) else "held out"


def web_pages() -> Iterator[Page]:
    for row in _rows(DATA / "web/pages.gold.jsonl.gz"):
        if len(row["main_content"]) >= MIN_WEB_CHARS:
            yield Page("web", side_of("web", row["url"]), row["main_content"])


def documentation_pages(side: Side | None = None, num: int | None = None) -> Iterator[Page]:
    """Distinct pages of one side or all, in the order of their numbers, so many at most.

    None where Debian's packages are not installed.
    """
    files = {
        str(file.relative_to(DEBIAN)): file
        for pattern in DOCUMENTATION
        for file in DEBIAN.glob(pattern)
        if NOT_ENGLISH not in str(file) and file.is_file()
    }
    of_side = {name: file for name, file in files.items() if side in (None, side_of("docs", name))}
    for name, text in islice(_distinct_pages(of_side), num):
        yield Page("docs", side_of("docs", name), text)


def fresh_pages(folder: Path, num: int = NUM_FRESH) -> list[str]:
    """Distinct pages of `FRESH_PACKAGES`, which are unpacked in `folder`, the first by their numbers.

    Raises ValueError where there is none.
    """
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*.html") if file.is_file()}
    pages = [text for _, text in islice(_distinct_pages(files), num)]
    if not pages:
        raise ValueError(f"{folder} has no HTML page: unpack there {', '.join(FRESH_PACKAGES)}")
    return pages


def _distinct_pages(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Name and main content, in the order of the names' numbers."""
    seen: set[str] = set()
    for name in sorted(files, key=lambda name: (number(name), name)):
        text = _main_content(files[name].read_bytes())
        if len(text) >= MIN_DOCUMENTATION_CHARS and text not in seen:
            seen.add(text)
            yield name, text


def _main_content(html: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(html, detect_encoding(html) or "utf-8")
    return str(extract_plain_text(tree, main_content=True))


def other_pages() -> Iterator[Page]:
    """News articles, questions with the encyclopedia's passage, and passages of novels."""
    with gzip.open(DATA / "dedup/articles_1000.train.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield _page("news", line.partition(" ")[2].strip())
    for row in _rows(DATA / "eval/boolq.jsonl.gz"):
        yield _page("questions", row["query"])
    for row in _rows(DATA / "eval/lambada_openai.jsonl.gz"):
        yield _page("novels", f"{row['context']} {row['continuation']}")


def judged_pages() -> list[str]:
    """Web texts that people have judged for DCLM; all are held out."""
    return [row["text"] for row in _rows(DATA / "quality/human_labels.jsonl.gz")]


def wikitext(part: Literal["valid", "test"]) -> str:
    return _text(DATA / f"text/wikitext2_{part}.txt.gz")


def short_texts() -> Iterator[str]:
    """Questions, answers and single sentences: ordinary text that is not long."""
    for name in ("piqa", "arc_easy", "arc_challenge", "copa"):
        for row in _rows(DATA / f"eval/{name}.jsonl.gz"):
            yield row["query"]
            yield from row["choices"]
    for file in sorted((DATA / "eval/blimp").glob("*.jsonl.gz")):
        yield from (row["sentence_good"] for index, row in enumerate(_rows(file)) if index % 25 == 0)


def comments(part: Literal["train", "test"]) -> list[Comment]:
    """SemEval-2021 task 5, those with a toxic offset."""
    rows = csv.DictReader(_text(DATA / f"toxicity/toxic_spans_{part}.csv.gz").splitlines(keepends=True))
    found = (Comment(row["text"], frozenset(ast.literal_eval(row["spans"]))) for row in rows)
    return [comment for comment in found if comment.toxic]


def tweets() -> Iterator[Tweet]:
    rows = csv.DictReader(_text(DATA / "toxicity/davidson.csv.gz").splitlines(keepends=True))
    for row in rows:
        yield Tweet(row["tweet"], row["class"], number(row["tweet"]) % 10 == 0)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Planted:
    """An ordinary page with a toxic sentence in it, which begins at `start`."""

    text: str
    start: int
    sentence: str


def plant(pages: Sequence[str], sentences: Sequence[str], num: int, seed: int = 1) -> list[Planted]:
    """Different sentences, each as a line of its own between two lines of a page, both drawn by the seed."""
    draw = random.Random(seed)
    planted = []
    for sentence in draw.sample(sentences, min(num, len(sentences))):
        lines = draw.choice(pages).strip().splitlines(keepends=True)
        at = draw.randint(1, max(1, len(lines) - 1))
        before, after = "".join(lines[:at]).rstrip("\n"), "".join(lines[at:])
        planted.append(Planted(f"{before}\n{sentence}\n{after}", len(before) + 1, sentence))
    return planted


def _page(part: str, text: str) -> Page:
    return Page(part, side_of(part, text), text)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _text(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return file.read()
