"""The default source: the documentation inside the installed Python packages, written as a small web crawl.

A first run needs real prose without a download. Module, class and function docstrings are read with `ast` (nothing is
ever imported), rendered as HTML pages with what surrounds text on real sites (navigation, sidebar, signatures,
parameter tables, licence footer), and written as WARC files, so that they take the same way as any other crawl.

Content depends on the packages' files and on `seed` only: dates are constant, record ids are derived from URLs, and
modules are taken in the order of a hash.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import os
import re
import uuid
import warnings
from base64 import b32encode
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import Message
from html import escape
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from tasks.read.docstring_html import docstring_html

SITE = "https://docs.example"  # RFC 2606 reserves .example: no such host can exist
WARC_DATE = "2026-01-01T00:00:00Z"  # constant: the records say nothing of when or where they were written
MAX_MODULE_BYTES = 2_000_000  # larger modules are generated tables
MIN_PROSE_CHARS = 200  # a page with less is only a signature list
MAX_LICENCE_CHARS = 1_500
MAX_SIDEBAR_LINKS = 40

_TEST_PARTS = frozenset({"test", "tests", "conftest"})
_TRIPLE_QUOTED = re.compile(rb'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)
_LICENCE_FILE = re.compile(r"(?:^|/)(?:LICEN[CS]E|COPYING)[^/.]*(?:\.txt|\.md|\.rst)?$", re.IGNORECASE)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """One module of an installed distribution, not yet read."""

    distribution: str
    version: str
    module: str  # dotted name
    path: Path
    siblings: tuple[str, ...]  # dotted names of the modules of the same package, this one included
    licence: str  # licence expression and the first lines of the licence's text, empty where unknown

    @property
    def url(self) -> str:
        return _module_url(self.distribution, self.version, self.module)


@dataclass(frozen=True, slots=True)
class EnvironmentDocs:
    """What `write_environment_docs` wrote."""

    files: tuple[Path, ...]
    num_pages: int
    num_modules_seen: int  # modules taken in hash order until there were enough pages
    num_distributions: int  # distributions with at least one page
    prose_chars: int  # characters of the docstrings on the pages
    missing: tuple[str, ...]  # distributions asked for that are not installed


def list_modules(distributions: Sequence[str]) -> list[ModuleSource]:
    """Modules of those distributions that are installed, by distribution and name. Reads no source file."""
    modules: list[ModuleSource] = []
    for name in sorted({_normalised(name) for name in distributions}):
        with contextlib.suppress(metadata.PackageNotFoundError):  # `missing` in the report names them
            modules.extend(_distribution_modules(name, metadata.distribution(name)))
    return modules


def render_module(source: ModuleSource) -> str | None:
    """The module's page as HTML, or None where it holds too little documentation, or is not Python of this version."""
    page = _read_page(source)
    return None if page is None else page[0]


def write_environment_docs(
    distributions: Sequence[str],
    destination: Path,
    *,
    num_pages: int | None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    num_files: int = 4,
) -> EnvironmentDocs:
    """Write at most `num_pages` pages (None: all there are) to `num_files` files `environment_docs-NN.warc.gz`.

    Modules are taken in the order of a hash of `seed` and their name, and only as many are parsed as are needed; page
    i goes to file i mod `num_files`. Each file appears under its name only when all are complete.
    `on_progress(pages, pages_wanted)` is called after every page.

    Raises ValueError if a count is not positive, or if not one page can be made from the installed distributions.
    """
    if num_files < 1 or (num_pages is not None and num_pages < 1):
        raise ValueError(f"num_pages ({num_pages}) and num_files ({num_files}) must be at least 1")
    modules = sorted(list_modules(distributions), key=lambda source: _sampling_key(seed, source))
    wanted = len(modules) if num_pages is None else min(num_pages, len(modules))
    destination.mkdir(parents=True, exist_ok=True)
    files = tuple(destination / f"environment_docs-{index:02d}.warc.gz" for index in range(num_files))
    pages = seen = prose_chars = 0
    documented: set[str] = set()
    with _published_together(files) as streams:
        for stream, file in zip(streams, files, strict=True):
            stream.write(_warcinfo_member(file.name))
        for source in modules:
            if pages == wanted:
                break
            seen += 1
            page = _read_page(source)
            if page is None:
                continue
            streams[pages % num_files].write(_response_member(source.url, page[0].encode("utf-8")))
            pages, prose_chars = pages + 1, prose_chars + page[1]
            documented.add(source.distribution)
            if on_progress is not None:
                on_progress(pages, wanted)
        if pages == 0:
            raise ValueError(
                f"no documentation found in the {len(set(distributions))} distributions asked for; "
                "name distributions that are installed in this environment and have docstrings"
            )
    return EnvironmentDocs(files, pages, seen, len(documented), prose_chars, _missing(distributions))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _missing(distributions: Iterable[str]) -> tuple[str, ...]:
    installed = {_normalised(found.name) for found in metadata.distributions()}
    return tuple(sorted({_normalised(name) for name in distributions} - installed))


def _distribution_modules(name: str, distribution: metadata.Distribution) -> Iterator[ModuleSource]:
    files = sorted(map(str, distribution.files or ()), key=lambda file: file.split("/"))
    paths: dict[str, str] = {}
    for file in files:
        # `name/__init__.py` sorts before `name.py` and wins, as it does for `import`
        if file.endswith(".py") and (module := _module_name(file)) is not None:
            paths.setdefault(module, file)
    packages: dict[str, list[str]] = defaultdict(list)
    for module in sorted(paths):
        packages[module.rpartition(".")[0]].append(module)
    siblings = {package: tuple(members) for package, members in packages.items()}
    version, licence = distribution.version, _licence(distribution, files)  # each access parses the metadata again
    for module, file in sorted(paths.items()):
        path = Path(str(distribution.locate_file(file)))
        yield ModuleSource(name, version, module, path, siblings[module.rpartition(".")[0]], licence)


def _module_name(file: str) -> str | None:
    """Dotted name of a file inside the environment, None for tests and for what is no importable module."""
    names = file.removesuffix(".py").split("/")
    if any(not part.isidentifier() or part in _TEST_PARTS or part.startswith("test_") for part in names):
        return None
    if names[-1] == "__init__":
        names.pop()
    return ".".join(names) or None


def _licence(distribution: metadata.Distribution, files: Sequence[str]) -> str:
    metadata_of = cast(Message, distribution.metadata)  # its `[]` raises or not, depending on who made it; `get` never
    expression = str(metadata_of.get("License-Expression") or metadata_of.get("Name"))
    for file in sorted(files, key=lambda file: (file.count("/"), file)):
        if _LICENCE_FILE.search(file):
            path = Path(str(distribution.locate_file(file)))
            if path.is_file():
                return f"{expression}\n\n{path.read_text(encoding='utf-8', errors='replace')[:MAX_LICENCE_CHARS]}"
    return expression


def _sampling_key(seed: int, source: ModuleSource) -> bytes:
    # without the version: an upgrade changes the pages of a sample, not which modules are in it
    return hashlib.sha256(f"{seed}:{source.distribution}:{source.module}".encode()).digest()


def _module_url(distribution: str, version: str, module: str) -> str:
    return f"{SITE}/{quote(distribution)}/{quote(version)}/{quote(module)}.html"


def _read_page(source: ModuleSource) -> tuple[str, int] | None:
    """The page and its number of docstring characters; None where there is no page to make."""
    if not source.path.is_file() or source.path.stat().st_size > MAX_MODULE_BYTES:
        return None
    code = source.path.read_bytes()
    # Parsing costs some 7 ms: leave out the modules that cannot have enough prose first.
    if sum(len(match[0]) for match in _TRIPLE_QUOTED.finditer(code)) < MIN_PROSE_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):  # a template, another Python version, NUL bytes
        return None
    prose: list[str] = []
    body = "\n".join(_members_html(tree, prose))
    prose_chars = sum(map(len, prose))
    return (_page_html(source, body), prose_chars) if prose_chars >= MIN_PROSE_CHARS else None


def _members_html(node: ast.Module | ast.ClassDef, prose: list[str], prefix: str = "") -> Iterator[str]:
    """HTML of a module's or class's docstring and public members in order; collects the docstrings in `prose`."""
    if (docstring := ast.get_docstring(node)) is not None:
        prose.append(docstring)
        yield docstring_html(docstring)
    for member in node.body:
        if not isinstance(member, _Function | ast.ClassDef) or member.name.startswith("_"):
            continue
        name = f"{prefix}{member.name}"
        inner = "\n".join(_function_html(member, prose) if isinstance(member, _Function) else ())
        if isinstance(member, ast.ClassDef):
            inner = "\n".join(_members_html(member, prose, f"{name}."))
        if inner:
            level = "h3" if prefix else "h2"
            signature = escape(_signature(member, name), quote=False)
            yield f'<section id="{name}"><{level}>{name}</{level}>\n<pre>{signature}</pre>\n{inner}</section>'


def _function_html(node: _Function, prose: list[str]) -> Iterator[str]:
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    prose.append(docstring)
    yield docstring_html(docstring)
    arguments = node.args
    typed = [
        (argument.arg, ast.unparse(argument.annotation))
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        if argument.annotation is not None
    ]
    if len(typed) >= 3:
        rows = "".join(f"<tr><td>{name}</td><td>{escape(type_, quote=False)}</td></tr>" for name, type_ in typed)
        yield f'<table class="parameters"><tr><th>Parameter</th><th>Type</th></tr>{rows}</table>'


def _signature(node: _Function | ast.ClassDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{keyword} {name}({ast.unparse(node.args)}){returns}"


def _page_html(source: ModuleSource, body: str) -> str:
    def link(module: str, text: str) -> str:
        url = _module_url(source.distribution, source.version, module)
        return f'<li><a href="{escape(url)}">{escape(text)}</a></li>'

    name = escape(source.module)
    title = f"{name} - {escape(source.distribution)} {escape(source.version)} documentation"
    parts = source.module.split(".")
    crumbs = "".join(link(".".join(parts[: end + 1]), part) for end, part in enumerate(parts))
    sidebar = "".join(link(module, module.rpartition(".")[2]) for module in source.siblings[:MAX_SIDEBAR_LINKS])
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<header><a href="{SITE}/">{escape(source.distribution)} {escape(source.version)}</a>
<form action="/search"><input name="q" placeholder="Search docs"></form></header>
<nav aria-label="breadcrumb"><ul><li><a href="{SITE}/">Home</a></li>{crumbs}</ul></nav>
<nav class="sidebar"><h3>Modules</h3><ul>{sidebar}</ul></nav>
<main><article>
<h1>{name}</h1>
{body}
</article></main>
<footer><p>{escape(source.distribution)} {escape(source.version)}. Licence:</p>
<pre>{escape(source.licence, quote=False)}</pre></footer>
</body>
</html>
"""


@contextlib.contextmanager
def _published_together(files: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Streams to temporary names that become `files` when the block ends well, and vanish when it does not."""
    temporary = [file.with_name(f".{file.name}.{os.getpid()}.partial") for file in files]
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(path.open("wb")) for path in temporary]
        for path, file in zip(temporary, files, strict=True):
            path.replace(file)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _member(headers: Sequence[tuple[str, str]], block: bytes) -> bytes:
    """One WARC/1.1 record (ISO 28500:2017) as one gzip member, without a time stamp of its own."""
    head = "".join(f"{name}: {value}\r\n" for name, value in (*headers, ("WARC-Block-Digest", _digest(block))))
    record = f"WARC/1.1\r\n{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    return gzip.compress(record, compresslevel=6, mtime=0)


def _record_id(name: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"


def _digest(data: bytes) -> str:
    return "sha1:" + b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def _warcinfo_member(file_name: str) -> bytes:
    headers = (
        ("WARC-Type", "warcinfo"),
        ("WARC-Record-ID", _record_id(f"{SITE}/{file_name}")),
        ("WARC-Date", WARC_DATE),
        ("WARC-Filename", file_name),
        ("Content-Type", "application/warc-fields"),
    )
    return _member(headers, b"software: tokenmill\r\nformat: WARC File Format 1.1\r\n")


def _response_member(url: str, page: bytes) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n\r\n".encode()
    headers = (
        ("WARC-Type", "response"),
        ("WARC-Record-ID", _record_id(url)),
        ("WARC-Date", WARC_DATE),
        ("WARC-Target-URI", url),
        ("WARC-Payload-Digest", _digest(page)),
        ("Content-Type", "application/http; msgtype=response"),
    )
    return _member(headers, http + page)
