"""One page to its text: the engines, counts as limits, hostile pages, and no memory of pages before."""

from __future__ import annotations

import random
import statistics
import sys
import time

import pytest
import trafilatura
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.document import Drop
from tasks.extract import Extraction, extract_text, page
from tasks.extract.limits import BLOCK_MODEL
from tasks.extract.page import extract_page, parsed
from tests.benchmarks.gold_pages import WEB, GoldPage, documentation_pages, gold_pages
from tests.tasks.extract.pages import LIMITS, PAGE, SENTENCES, nested

DOUBTFUL = f"<html><body><div><a href='/'>{SENTENCES}</a></div></body></html>"


def test_the_text_has_what_the_page_says_and_not_its_frame() -> None:
    text = extract_text(PAGE)
    assert text == extract_text(PAGE.encode("utf-8"))
    assert text.splitlines() == [
        "The mill",
        (SENTENCES * 3).strip(),
        f"Größe: 3 €. {SENTENCES}".strip(),
        "| Grain | Price |",
        "| --- | --- |",
        "| Rye | 3 |",
    ]


def test_trafilatura_and_resiliparse_are_as_they_are_by_themselves() -> None:
    from resiliparse.extract.html2text import extract_plain_text

    theirs = trafilatura.extract(PAGE, include_comments=False, include_tables=True, deduplicate=False)
    assert extract_page(PAGE.encode(), None, Extraction(engine="trafilatura")) == theirs
    theirs = extract_plain_text(PAGE, main_content=True)
    assert extract_page(PAGE.encode(), None, Extraction(engine="resiliparse")) == theirs


def test_what_the_classifier_doubts_is_left_to_trafilatura(monkeypatch: pytest.MonkeyPatch) -> None:
    by_blocks = extract_text(PAGE)
    by_trafilatura = extract_page(PAGE.encode(), None, Extraction(engine="trafilatura"))
    assert by_blocks != by_trafilatura
    _, expected = page.blocks_text(page.read_blocks(parsed(PAGE)))
    monkeypatch.setattr(page, "MIN_EXPECTED_F1", expected)  # on the limit
    assert extract_text(PAGE) == by_blocks
    monkeypatch.setattr(page, "MIN_EXPECTED_F1", expected + 1e-9)
    assert extract_text(PAGE) == by_trafilatura


@pytest.mark.parametrize(
    "html", ["", "no markup at all", "<html><body></body></html>", "<html><script>x</script></html>"]
)
@pytest.mark.parametrize("engine", ["blocks", "trafilatura"])
def test_nothing_is_nothing(html: str, engine: str) -> None:
    drop = extract_page(html.encode(), None, Extraction(engine=engine))
    assert isinstance(drop, Drop)
    assert drop.reason == "no_content"
    assert extract_text(html) == ""


def test_unreadable_bytes_are_an_error_where_there_is_no_drop() -> None:
    with pytest.raises(ValueError, match=r"\d+% of the characters cannot be read"):
        extract_text(b"\xef\xbb\xbf" + b"\xff" * 100)


def test_the_visible_text_is_asked_about_before_the_main_text_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(text: str) -> Drop:
        asked.append(text)
        return Drop("language_rough")

    monkeypatch.delattr(page, "main_text")
    html = PAGE.replace("</main>", "<script>let x</script><style>a {}</style><template>no</template></main>")
    assert extract_page(html.encode(), None, LIMITS, refuse) == Drop("language_rough")
    assert (
        asked[0].split()
        == f"Home The mill {SENTENCES * 3} Größe: 3 €. {SENTENCES} Grain Price Rye 3 All rights reserved".split()
    )


@pytest.mark.parametrize("page", [None, 5, ["<p>"]])
def test_what_is_no_page_is_a_type_error(page: object) -> None:
    with pytest.raises(TypeError, match=f"bytes or str, not {type(page).__name__}"):
        extract_text(page)  # type: ignore[arg-type]


@pytest.mark.parametrize("before", ["", "\ufeff\n", "<?xml version='1.0'?>\n<!-- mill -->"])
def test_declarations_within_a_doctype_are_no_text(before: str) -> None:
    doctype = '<!DOCTYPE html [<!ENTITY a "b"> <!ENTITY c "d">]>'
    assert extract_text(PAGE.replace("<!DOCTYPE html>", before + doctype)) == extract_text(PAGE)
    written = PAGE.replace("The mill<", "The mill &lt;!DOCTYPE html [ ]><")
    assert "<!DOCTYPE html [ ]>" in extract_text(written)


def test_a_page_of_frames_is_what_it_has_for_browsers_without() -> None:
    body = PAGE[PAGE.index("<body>") : PAGE.index("</html>")]
    frames = f"<html><head></head><frameset cols=1><frame src=a><noframes>{body}</noframes></frameset></html>"
    assert extract_text(frames) == extract_text(PAGE.replace("<title>Mill</title>", ""))
    assert extract_text("<html><frameset><frame src=a><noframes> </noframes></frameset></html>") == ""


@pytest.mark.parametrize("depth", [20, 200])
def test_depth_is_limited(depth: int) -> None:
    limits = Extraction(max_depth=depth)
    assert isinstance(extract_page(nested(depth), None, limits), str)
    assert extract_page(nested(depth + 1), None, limits) == Drop("too_deep", depth + 1, depth)


def test_a_page_deeper_than_the_parser_is_dropped_not_cut() -> None:
    assert extract_page(nested(5_000), None, Extraction(max_depth=255)) == Drop("too_deep", 256, 255)


def test_elements_are_limited() -> None:
    html = f"<html><body>{f'<p>{SENTENCES}</p>' * 8}</body></html>".encode()  # 10 elements
    assert isinstance(extract_page(html, None, Extraction(max_nodes=10)), str)
    assert extract_page(html, None, Extraction(max_nodes=9)) == Drop("too_many_nodes", 10, 9)


@pytest.mark.parametrize("error", [RecursionError("deep"), AssertionError(), MemoryError(), KeyError("x")])
def test_an_exception_is_recorded(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object) -> str:
        raise error

    monkeypatch.setattr(page, "main_text", fail)
    drop = extract_page(PAGE.encode(), None, LIMITS)
    assert drop == Drop("extraction_error", detail=f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "field", [{"max_depth": 256}, {"backstop_s": 0}, {"max_bytes": 0}, {"max_node": 5}, {"engine": "justext"}]
)
def test_limits_have_bounds(field: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Extraction(**field)


def test_the_model_is_part_of_what_the_engine_reads() -> None:
    assert Extraction().files() == (BLOCK_MODEL,)
    assert BLOCK_MODEL.is_file()
    assert Extraction(engine="trafilatura").files() == ()
    assert "trafilatura" in Extraction().libraries


TAGS = (
    "<p> </p> <div_class='post_nav'> </div> <table> <tr> <td> <th> </table> <pre> <li> <br> <br><br> <a_href=x> </a> "
    "<b> <!-- --> <noscript> <body> <h1> <svg>"
)
FRAGMENTS = [*(tag.replace("_", " ") for tag in TAGS.split()), "text. ", "水車。", "\x00", "|", "```", "&amp;", "\n"]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=8), max_size=60))
def test_no_page_crashes_and_each_has_one_text(pieces: list[str]) -> None:
    html = f"<html><body>{''.join(pieces)}</body></html>".encode("utf-8", "replace")
    result = extract_page(html, None, LIMITS)
    assert result == extract_page(html, None, LIMITS)
    assert not isinstance(result, Drop) or result.reason == "no_content"


HOSTILE = [
    "<p>a</p>",
    "<td>a",
    "<table><tr><td>a</td><td>b</td></tr></table>",
    "<li>one <b>two</b>",
    "<div class='a b c'>a</div>",
    "a<br><br>",
    "<a href=x>a</a> ",
    "<pre>a</pre>",
    "<h1>a</h1>",
    "word. ",
    "\x00",
    "<td colspan=1000 rowspan=1000>a",
    "<tr><td colspan=1000 rowspan=1000>a<td>b",
    "<p hidden>a</p>b",
    "<div class=lineno>1</div>",
    "<pre><div>a</div></pre>",
    "<!DOCTYPE [",
    "<noframes>a",
]


def seconds_for(html: bytes) -> float:
    """CPU time; whatever the page, it gets a text or a reason."""
    before = time.process_time()
    result = extract_page(html, None, LIMITS)
    seconds = time.process_time() - before
    assert not isinstance(result, Drop) or result.reason in ("no_content", "too_many_nodes")
    return seconds


def calls_for(html: bytes) -> int:
    """Calls of functions, Python's and C's: a measure of time that no other process disturbs."""
    num_calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    extract_page(b"<html><body>what is loaded once", None, LIMITS)
    sys.setprofile(count)
    try:
        extract_page(html, None, LIMITS)
    finally:
        sys.setprofile(None)
    return num_calls


@pytest.mark.parametrize("piece", HOSTILE)
def test_much_of_one_thing_takes_no_more_than_its_share(piece: str) -> None:
    """Twice as much may take twice as many calls; a quadratic algorithm takes four times as many."""
    short, long = (f"<html><body>{piece * number}</body></html>".encode() for number in (6_000, 12_000))
    assert calls_for(long) < 2.2 * calls_for(short)


@pytest.mark.verify
@pytest.mark.parametrize("piece", HOSTILE)
def test_five_million_bytes_of_one_thing_take_seconds(piece: str) -> None:
    num_pieces = 5_000_000 // len(piece)
    assert seconds_for(f"<html><body>{piece * num_pieces}</body></html>".encode()) < 20
    num_nodes = 99_000 // max(1, piece.count("<") - piece.count("</"))  # the limit, almost
    assert seconds_for(f"<html><body>{piece * min(num_pieces, num_nodes)}</body></html>".encode()) < 20


def odd_pages(step: int) -> list[GoldPage]:
    if not (WEB / "pages.warc.gz").exists():
        pytest.skip("shared/data is not here: see its README")
    return [found for found in gold_pages() if found.is_odd][::step]


def test_a_page_does_not_depend_on_pages_before() -> None:
    """Any order, any subset, pages again and again: the same text."""
    pages = [
        *((found.html, found.charset) for found in odd_pages(20)),
        (PAGE.encode(), None),
        (DOUBTFUL.encode(), None),
    ]
    first = [extract_page(html, charset, LIMITS) for html, charset in pages]
    rng = random.Random(5)
    for number in rng.choices(range(len(pages)), k=30):
        html, charset = pages[number]
        assert extract_page(html, charset, LIMITS) == first[number]


def test_nearer_to_what_people_marked_than_trafilatura() -> None:
    """On every fifth page of those that the classifier was not made from; all: tests/benchmarks/bench_extraction.py."""
    ours, theirs = [], []
    for found in odd_pages(5):
        text = extract_page(found.html, found.charset, LIMITS)
        ours.append(found.word_f1("" if isinstance(text, Drop) else text))
        theirs.append(found.word_f1(_by_trafilatura(found)))
    assert len(ours) == 51
    assert statistics.mean(ours) > statistics.mean(theirs)


def test_the_middle_and_the_end_of_long_documentation_are_kept() -> None:
    """On pages that the classifier was not made from; more: tests/benchmarks/bench_extraction.py."""
    pages = list(documentation_pages(odd=True, num_pages=8))
    if not pages:
        pytest.skip("needs one of the Debian packages python3-doc, git-doc, apache2-doc, debian-handbook")
    texts = [extract_page(found.html, found.charset, LIMITS) for found in pages]
    recalls = [
        found.word_recall("" if isinstance(text, Drop) else text) for found, text in zip(pages, texts, strict=True)
    ]
    assert statistics.mean(recalls) > 0.95


def _by_trafilatura(found: GoldPage) -> str:
    text = extract_page(found.html, found.charset, Extraction(engine="trafilatura"))
    return "" if isinstance(text, Drop) else text
