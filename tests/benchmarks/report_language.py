"""How often the language rule as recipes have it is right, on texts by which none of its limits is chosen.

    python -m tests.benchmarks.report_language

Every figure stands twice: on the even half, by which limits may be compared, and on the odd half, which reports. Odd is
a web page by its URL's SHA-256 (`tests.benchmarks.gold_pages`), an article of the declaration by its number, a manual's
page by its file's name, a file of code by its content's SHA-256. Intervals are Clopper-Pearson's of 95 %; texts of one
page, article or language are not independent of each other, so those of pieces and lines are too narrow.

Wanted is English. Kept ought to be: pages and pieces in English, and texts half and more in English. Dropped ought to
be all the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from tasks.classifiers.proportion import proportion
from tasks.document import Document, Keep
from tasks.language import EMBEDDED_MIN_SCORE, LanguageRule
from tests.benchmarks.gold_pages import gold_pages
from tests.benchmarks.language_texts import code_files, manual_pages, pieces, udhr_articles

LIMITS = (0.0, 0.3, EMBEDDED_MIN_SCORE, 0.65, 0.9)
SHORT_LETTERS = ((10, 25), (25, 50), (50, 100))
MAX_LINES = 500
MIXED_CHARS = 30_000
MIXED_SHARES = (0.3, 0.7)
MIXED_LANGUAGES = 12
CODE_FILES = 300  # of each kind


def kept(rule: LanguageRule, texts: Sequence[str]) -> str:
    """How many stay, with the interval."""
    decide = rule.build()
    num_kept = sum(isinstance(decide(Document("0" * 32 + "-0", text, "report")), Keep) for text in texts)
    return str(proportion(num_kept, len(texts))) if texts else "none"


def english_pages(odd: bool) -> list[str]:
    """The main contents that people marked; all in English but one."""
    return [page.main_content for page in gold_pages() if page.is_odd == odd and len(page.main_content) >= 50]


def declaration(odd: bool, chars: int) -> dict[str, list[str]]:
    """Pieces of the declaration's articles, by language."""
    return {
        code: [piece for number, text in articles if number % 2 == odd for piece in pieces(text, chars)]
        for code, articles in udhr_articles().items()
    }


def lines_of(pages: Sequence[str], low: int, high: int) -> list[str]:
    """Lines with so many letters, the first in order of hash."""
    lines = {line.strip() for page in pages for line in page.splitlines() if low <= sum(map(str.isalpha, line)) < high}
    return sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())[:MAX_LINES]


def mixed(pages: Sequence[str], odd: bool, english_share: float) -> Iterator[str]:
    """Texts that begin in English and go on in another language."""
    num_english = int(MIXED_CHARS * english_share)
    english, others = "\n".join(pages), dict[str, str]()
    for code, text in manual_pages(odd=odd, num_pages=40):
        if code != "en":
            others[code] = f"{others.get(code, '')}\n{text}"
    long = ((code, text) for code, text in sorted(others.items()) if len(text) >= MIXED_CHARS - num_english)
    for number, (_, text) in enumerate(islice(long, MIXED_LANGUAGES)):
        start = number * num_english % max(1, len(english) - num_english)
        yield f"{english[start : start + num_english]}\n{text[: MIXED_CHARS - num_english]}"


def rows(odd: bool) -> Iterator[tuple[str, str]]:
    """What, and how much of it the rule keeps."""
    pages, of_200, of_50 = english_pages(odd), declaration(odd, 200), declaration(odd, 50)
    others = [piece for code, found in of_200.items() if code != "en" for piece in found]
    for limit in LIMITS:
        rule = LanguageRule(min_score=limit)
        yield f"limit {limit}: web pages in English", kept(rule, pages)
        yield f"limit {limit}: other languages, 200 characters", kept(rule, others[::10])
    rule = LanguageRule()
    yield "English, 200 characters", kept(rule, of_200["en"])
    yield "other languages, 200 characters", kept(rule, others)
    yield "English, 50 characters", kept(rule, of_50["en"])
    yield (
        "other languages, 50 characters",
        kept(rule, [p for code, found in of_50.items() if code != "en" for p in found][::5]),
    )
    for low, high in SHORT_LETTERS:
        yield f"lines of English pages, {low} to {high - 1} letters", kept(rule, lines_of(pages, low, high))
    for share in MIXED_SHARES:
        yield f"{share:.0%} English, then another language", kept(rule, list(mixed(pages, odd, share)))
    for kind, files in code_files(CODE_FILES).items():
        half = [text for text in files if hashlib.sha256(text.encode()).digest()[-1] % 2 == odd]
        yield f"program code: {kind}", kept(rule, half)


def main() -> None:
    print("| kept, of | even half (compared on) | odd half (report) |\n|---|---|---|")
    for (what, even), (_, odd) in zip(rows(False), rows(True), strict=True):
        print(f"| {what} | {even} | {odd} |", flush=True)


if __name__ == "__main__":
    main()
