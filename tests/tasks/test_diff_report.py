"""The reports of a difference: whole, and harmless whatever pages hold."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.diff import VersionDiff, compare
from tasks.diff_report import KIND_TITLES, diff_html, diff_markdown, report_file, write_report
from tests.tasks.rendering import harmful_tags
from tests.tasks.test_diff import BASE, NEXT
from tests.tasks.version_folders import Published, Removed, document_id, moved, write_version

HOSTILE_TEXT = (
    "<script>alert(1)</script></blockquote><img src=x onerror=alert(2)> \"quoted\" 'too' {{ 7*7 }} {% raw %}"
    " ![x](https://evil.example/x.png) [c](javascript:alert(3)) a|b `c` \u202egnp.exe\u2066 \x1b[31m \x00"
)
HOSTILE_URL = "javascript:alert(1)//<script>'\"onmouseover=x \u202e"
ALLOWED_TAGS = frozenset(
    "html head meta title style body main h1 h2 h3 h4 p a div b span section table tr th td code ul li details summary"
    " article blockquote pre bdi".split()
)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def diff(tmp_path_factory: pytest.TempPathFactory) -> VersionDiff:
    root = tmp_path_factory.mktemp("corpora")
    return compare(write_version(root, "web", 1, BASE), write_version(root, "web", 2, NEXT))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> VersionDiff:
    root = tmp_path_factory.mktemp("hostile")
    before = {
        document_id(name): Published(f"{HOSTILE_TEXT} {name}", f"https://evil.example/{name}<b>{HOSTILE_URL}", "<i>")
        for name in ("a", "b", "c")
    }
    survivor = Published(f"{HOSTILE_TEXT} older", HOSTILE_URL)
    after = moved(
        before,
        a=Published(f"{HOSTILE_TEXT} other\n{'x' * 100_000}", HOSTILE_URL, "<i>"),
        b=Removed("near_dedup", "near_duplicate", document_id("d"), HOSTILE_URL),
        c=Removed("quality", "<script>alert(4)</script>"),
        d=survivor,
        e=Published("w" * 100_000, f"https://{'long' * 60}.example/{'y' * 5_000}"),
    )
    return compare(write_version(root, "web", 1, before), write_version(root, "web", 2, after))


def test_the_page_shows_every_kind(diff: VersionDiff) -> None:
    page = Page(diff_html(diff))
    for kind, part in diff.kinds.items():
        assert any(attributes.get("id") == kind for _, attributes in page.tags)
        assert f"{KIND_TITLES[kind]}: {part.documents}" in page.text
        for sample in part.samples:
            assert sample.document_id in page.text and sample.other_id in page.text
    assert "example.co.uk" not in page.text  # nothing happened there
    assert "near dedup: near duplicate" in page.text and "+the page as it is now" in page.text
    assert page.open == []


@pytest.mark.parametrize("name", ["diff", "hostile"])
def test_the_page_needs_nothing_and_runs_nothing(name: str, request: pytest.FixtureRequest) -> None:
    page = Page(diff_html(request.getfixturevalue(name)))
    assert {tag for tag, _ in page.tags} <= ALLOWED_TAGS
    for _, attributes in page.tags:
        assert set(attributes) <= {
            "lang",
            "charset",
            "http-equiv",
            "content",
            "name",
            "class",
            "href",
            "style",
            "title",
            "id",
            "open",
        }
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
    policies = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_nothing_of_a_page_is_mark_up_or_turns_what_follows(hostile: VersionDiff) -> None:
    html = diff_html(hostile)
    page = Page(html)
    assert all(character.isprintable() or character == "\n" for character in html)
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text and '"quoted"' in page.text
    assert "quality: <script>alert(4)</script>" in page.text
    assert len(html) < 100_000  # a text of 100,000 characters is shown by its beginning
    markdown = diff_markdown(hostile)
    assert not harmful_tags(markdown)
    assert all(character.isprintable() or character == "\n" for character in markdown)


def test_the_markdown_has_the_counts(diff: VersionDiff) -> None:
    text = diff_markdown(diff)
    assert "| web@1 | 7 |" in text and "| Changed | 2 |" in text and "| Taken down | -1 |" in text
    assert "### Superseded: 1" in text and document_id("older") in text
    assert "the name of somebody" not in text


def test_of_equal_versions_there_is_a_report_too(tmp_path: Path) -> None:
    folders = [write_version(tmp_path, name, 1, {}) for name in ("a", "b")]
    diff = compare(*folders)
    assert "0 of 4 buckets differ" in Page(diff_html(diff)).text and "0 of 4" in diff_markdown(diff)


def test_the_report_has_a_place_in_the_store(tmp_path: Path, diff: VersionDiff) -> None:
    file = write_report(diff, report_file(tmp_path, diff))
    assert file == tmp_path / "reports/web@1--web@2.html"
    assert file.read_text(encoding="utf-8") == diff_html(diff)
