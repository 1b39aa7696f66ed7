"""The embedded default source: what is documented becomes pages, and the same packages and seed the same bytes."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pytest
import trafilatura
from fastwarc.warc import ArchiveIterator, WarcRecordType

from tasks.read import environment_docs
from tasks.read.environment_docs import (
    MIN_PROSE_CHARS,
    ModuleSource,
    list_modules,
    render_module,
    write_environment_docs,
)

PROSE = "The reader walks the archive once and yields every record in the order in which it was written to the file. "


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the distribution `Mill.Docs` 1.2+local and its ten documented modules."""
    site = tmp_path / "site"
    info = site / "mill_docs-1.2.dist-info"
    info.mkdir(parents=True)
    files = {
        "mill/__init__.py": f'"""{PROSE * 3}"""',
        "mill.py": '"""Hidden behind the package of the same name."""',
        "mill/tests/test_grind.py": f'"""{PROSE * 3}"""',
        "mill/bare.py": "def grind(grain):\n    return grain\n",
        "mill/broken.py": f'"""{PROSE * 3}"""\ndef (:\n',
        "mill/not-a-module.py": f'"""{PROSE * 3}"""',
        **{f"mill/part{number}.py": f'"""Part {number}. {PROSE * 3}"""' for number in range(9)},
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(f"import sys\nsys.exit('imported')\n{text}" if name == "mill/bare.py" else text)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: Mill.Docs\nVersion: 1.2+local\nLicense-Expression: MIT\n"
    )
    (info / "licenses").mkdir()
    (info / "licenses" / "LICENSE.txt").write_text("MIT License\n\nPermission is hereby granted, <free> of charge")
    recorded = [*files, f"{info.name}/METADATA", f"{info.name}/licenses/LICENSE.txt", "../bin/mill"]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in recorded))
    monkeypatch.syspath_prepend(str(site))
    return site


def source(path: Path, code: str) -> ModuleSource:
    path.write_text(code)
    return ModuleSource("mill", "1.0", "mill.grind", path, ("mill.grind", "mill.sift"), "MIT\n\nuse <freely>")


def page(tmp_path: Path, code: str) -> str:
    html = render_module(source(tmp_path / "grind.py", code))
    assert html is not None
    return html


def test_list_modules_leaves_out_tests_and_what_cannot_be_imported(environment: Path) -> None:
    modules = list_modules(["mill_docs", "MILL.docs", "not-installed-anywhere"])
    parts = [f"mill.part{number}" for number in range(9)]
    assert [module.module for module in modules] == ["mill", "mill.bare", "mill.broken", *parts]
    assert modules[0].path == environment / "mill" / "__init__.py"
    assert modules[1].siblings == ("mill.bare", "mill.broken", *parts)
    assert modules[0].url == "https://docs.example/mill-docs/1.2%2Blocal/mill.html"
    assert modules[0].licence == "MIT\n\nMIT License\n\nPermission is hereby granted, <free> of charge"


@pytest.mark.parametrize(
    ("docstring", "html"),
    [
        ("Two\nlines & one <p>.", "<p>Two lines &amp; one &lt;p&gt;.</p>"),
        (
            "Reads:\n\n- a file,\n  or two\n* a folder",
            "<p>Reads:</p>\n<ul><li>a file, or two</li><li>a folder</li></ul>",
        ),
        (
            "Parameters\n----------\nx : int\n    How many.\ny : str\n    Which.",
            "<h4>Parameters</h4>\n<ul><li><strong>x : int</strong> – How many.</li>"
            "<li><strong>y : str</strong> – Which.</li></ul>",
        ),
        (
            "Runs.\n\nArgs:\n    x (int): How many,\n        at most.\n    **y: The rest.",
            "<p>Runs.</p>\n<h4>Args</h4>\n<ul><li><strong>x (int)</strong> – How many, at most.</li>"
            "<li><strong>**y</strong> – The rest.</li></ul>",
        ),
        (":param x: How many.", "<ul><li><strong>x</strong> – How many.</li></ul>"),
        (".. note:: Slow.\n   Very.", "<p>Note: Slow. Very.</p>"),
        ("See :class:`~a.B` and ``c < d``.", "<p>See <code>a.B</code> and <code>c &lt; d</code>.</p>"),
        ("Use `Request <mill.Request>`.", "<p>Use <code>Request</code>.</p>"),
        (
            "Thus::\n\n    if x:\n        y < 1\n\nAnd so on.",
            "<p>Thus:</p>\n<pre>if x:\n    y &lt; 1</pre>\n<p>And so on.</p>",
        ),
        ("So:\n\n.. code-block:: python\n\n    x = 1\n\n    y = 2", "<p>So:</p>\n<pre>x = 1</pre>\n<pre>y = 2</pre>"),
        ("So:\n\n>>> 1 + 1\n2", "<p>So:</p>\n<pre>&gt;&gt;&gt; 1 + 1\n2</pre>"),
        (":meth:`grind`\nis a role, no field.", "<p><code>grind</code> is a role, no field.</p>"),
    ],
)
def test_docstring_styles(tmp_path: Path, docstring: str, html: str) -> None:
    indented = docstring.replace("\n", "\n    ")
    body = page(tmp_path, f'"""{PROSE * 3}"""\ndef grind():\n    r"""{indented}"""\n')
    assert f'<section id="grind"><h2>grind</h2>\n<pre>def grind()</pre>\n{html}</section>' in body


def test_page_shows_public_members_with_signatures_and_parameter_table(tmp_path: Path) -> None:
    html = page(
        tmp_path,
        f'"""{PROSE * 3}"""\n'
        'class Mill(Base):\n    """Grinds."""\n    async def run(self, a: int, b: list[int], c: "X" = 1) -> str:\n'
        '        """Runs."""\n    def silent(self): ...\n    def _private(self):\n        """Hidden."""\n',
    )
    assert '<section id="Mill"><h2>Mill</h2>\n<pre>class Mill(Base)</pre>\n<p>Grinds.</p>' in html
    signature = "async def Mill.run(self, a: int, b: list[int], c: 'X'=1) -&gt; str"
    assert f'<section id="Mill.run"><h3>Mill.run</h3>\n<pre>{signature}</pre>\n<p>Runs.</p>' in html
    assert "<tr><td>a</td><td>int</td></tr><tr><td>b</td><td>list[int]</td></tr><tr><td>c</td><td>'X'</td></tr>" in html
    assert "silent" not in html
    assert "Hidden" not in html


def test_page_has_navigation_and_escaped_licence_around_the_prose(tmp_path: Path) -> None:
    html = page(tmp_path, f'"""{PROSE * 3}"""\n')
    assert '<li><a href="https://docs.example/mill/1.0/mill.sift.html">sift</a></li>' in html
    assert '<li><a href="https://docs.example/mill/1.0/mill.html">mill</a></li>' in html
    assert "<pre>MIT\n\nuse &lt;freely&gt;</pre></footer>" in html


@pytest.mark.parametrize(("chars", "has_page"), [(MIN_PROSE_CHARS - 1, False), (MIN_PROSE_CHARS, True)])
def test_page_needs_enough_prose(tmp_path: Path, chars: int, has_page: bool) -> None:
    # the string that is no docstring takes the module past the quick look, to the count of what is documented
    code = f'"""{"x" * chars}"""\nnot_documentation = """{"y" * 500}"""\n'
    assert (render_module(source(tmp_path / "a.py", code)) is not None) is has_page


@pytest.mark.parametrize("code", ["def (:", "x = 1\0", "{" * 5_000, "print 'old'"])
def test_what_does_not_parse_is_no_page(tmp_path: Path, code: str) -> None:
    assert render_module(source(tmp_path / "a.py", f'"""{PROSE * 3}"""\n{code}')) is None


def test_missing_or_oversized_file_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = source(tmp_path / "a.py", f'"""{PROSE * 3}"""')
    size = module.path.stat().st_size
    monkeypatch.setattr(environment_docs, "MAX_MODULE_BYTES", size)
    assert render_module(module) is not None
    monkeypatch.setattr(environment_docs, "MAX_MODULE_BYTES", size - 1)
    assert render_module(module) is None
    module.path.unlink()
    assert render_module(module) is None


def test_files_are_valid_warc_with_one_member_a_record(environment: Path, tmp_path: Path) -> None:
    docs = write_environment_docs(["Mill.Docs", "absent-one"], tmp_path / "out", num_pages=None, num_files=3)
    assert (docs.num_pages, docs.num_modules_seen, docs.num_distributions) == (10, 12, 1)
    assert docs.missing == ("absent-one",)
    assert docs.prose_chars == 10 * len(PROSE * 3) + 9 * len("Part 0. ")
    assert [file.name for file in docs.files] == [f"environment_docs-0{index}.warc.gz" for index in range(3)]
    assert sorted((tmp_path / "out").iterdir()) == list(docs.files)
    urls, ids = [], set()
    for file in docs.files:
        kinds = []
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream, verify_digests=True):
                kinds.append(record.record_type)
                ids.add(record.record_id)
                assert record.headers["WARC-Date"] == "2026-01-01T00:00:00Z"
                if record.record_type == WarcRecordType.response:
                    assert record.http_content_type == "text/html"
                    assert record.http_charset == "utf-8"
                    assert PROSE[:40] in record.reader.read().decode("utf-8")
                    urls.append(record.headers["WARC-Target-URI"])
        assert kinds == [WarcRecordType.warcinfo, *[WarcRecordType.response] * (len(kinds) - 1)]
        assert len(gzip_members(file)) == len(kinds)
    assert len(urls) == len(set(urls)) == 10
    assert len(ids) == 13


def gzip_members(file: Path) -> list[bytes]:
    members, rest = [], file.read_bytes()
    while rest:
        decompressor = zlib.decompressobj(31)
        members.append(decompressor.decompress(rest))
        rest = decompressor.unused_data
    return members


def responses(files: tuple[Path, ...]) -> list[bytes]:
    return [member for file in files for member in gzip_members(file) if b"WARC-Type: response" in member]


def test_same_packages_and_seed_write_the_same_bytes(environment: Path, tmp_path: Path) -> None:
    first, second, other = (
        write_environment_docs(["mill-docs"], tmp_path / name, num_pages=6, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert [file.read_bytes() for file in first.files] == [file.read_bytes() for file in second.files]
    assert set(responses(first.files)) != set(responses(other.files))


def test_a_smaller_sample_is_part_of_the_larger_one_however_many_files(environment: Path, tmp_path: Path) -> None:
    small = write_environment_docs(["mill-docs"], tmp_path / "small", num_pages=4, num_files=1)
    large = write_environment_docs(["mill-docs"], tmp_path / "large", num_pages=9, num_files=5)
    assert len(responses(small.files)) == 4
    assert set(responses(small.files)) < set(responses(large.files))


def test_progress_is_told_page_by_page(environment: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_environment_docs(["mill-docs"], tmp_path, num_pages=3, on_progress=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_write_leaves_nothing_behind(environment: Path, tmp_path: Path) -> None:
    def fail(done: int, wanted: int) -> None:
        if done == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_environment_docs(["mill-docs"], tmp_path / "out", num_pages=5, on_progress=fail)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_pages": 0}, "at least 1"), ({"num_pages": 1, "num_files": 0}, "at least 1")],
)
def test_counts_must_be_positive(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_environment_docs(["pytest"], tmp_path, **arguments)


def test_no_documentation_at_all_is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no documentation found in the 1 distributions"):
        write_environment_docs(["not-installed-anywhere"], tmp_path / "out", num_pages=5)
    assert list((tmp_path / "out").iterdir()) == []


def test_real_packages_are_read_without_importing_them(tmp_path: Path) -> None:
    loaded = set(sys.modules)
    docs = write_environment_docs(["hypothesis", "pytest", "pydantic"], tmp_path, num_pages=15)
    assert docs.num_pages == 15
    assert docs.num_distributions >= 2
    assert docs.prose_chars > 15 * MIN_PROSE_CHARS
    assert not [name for name in set(sys.modules) - loaded if name.startswith(("hypothesis.", "pydantic.", "_pytest."))]


def test_extraction_keeps_the_prose_and_loses_the_navigation(tmp_path: Path) -> None:
    html = page(
        tmp_path,
        f'"""{PROSE * 2}"""\ndef grind(x, y):\n    """Grind the grain between two stones.\n\n'
        '    Args:\n        x: The upper stone, which turns.\n    """\n',
    )
    text = trafilatura.extract(html, include_comments=False, deduplicate=False)
    assert text is not None
    for kept in (
        PROSE.strip(),
        "def grind(x, y)",
        "Grind the grain between two stones.",
        "x – The upper stone, which turns.",
    ):
        assert kept in text
    for lost in ("Home", "Modules", "sift", "Licence", "freely", "Search"):
        assert lost not in text
