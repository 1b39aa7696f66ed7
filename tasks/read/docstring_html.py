"""Docstrings as HTML: the usual styles (reST, NumPy, Google) as headings, paragraphs, lists and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from inspect import cleandoc
from itertools import groupby
from textwrap import dedent

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_UNDERLINE = re.compile(r"([-=~^*#])\1{2,}")
_SECTION = re.compile(r"([A-Z][a-z]+(?: [A-Za-z]+)?):")  # `Args:`, `Returns:` (Google style)
_CODE_DIRECTIVE = re.compile(r"\.\. (?:code|sourcecode|test|doctest|ipython|plot|math)")
_DIRECTIVE = re.compile(r'(?:\.\. ([\w-]+)::|!!! (\w+))[ "]*(.*?)"?')  # reST, and Markdown's admonition
_LITERAL = re.compile(r"(?::[\w:]+:)?`{1,2}~?([^`]+?)(?:\s&lt;[^`]*&gt;)?`{1,2}_{0,2}")
_ITEM = re.compile(r"(?:[-*+•]|\d+[.)])\s+(.*)")
_FIELD = re.compile(r":(?:(?:param|type|raises|ivar|cvar|var)\s+)?([^:`]+):(?:\s+(.*))?")  # `:param name: text` (reST)
_TERM = re.compile(r"(\*{0,2}[A-Za-z_][\w.]*(?:\s*\([^)]*\))?):\s+(.*)")  # `name (type): text` (Google style)


def docstring_html(docstring: str) -> str:
    """The docstring as an HTML fragment, everything in it escaped."""
    html: list[str] = []
    literal = False  # an indented block after `::` is code
    for block in _BLANK_LINES.split(cleandoc(docstring)):
        lines = block.split("\n")
        if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip()):
            heading, lines = lines[0], lines[2:]
        elif len(lines) > 1 and lines[1].startswith(" ") and (section := _SECTION.fullmatch(lines[0])):
            heading, lines = section[1], lines[1:]
        else:
            heading = ""
        if heading:
            html.append(f"<h4>{_inline_html(heading.strip())}</h4>")
        text = dedent("\n".join(lines))
        if not text:
            continue
        code = text.startswith(">>>") or (literal and lines[0].startswith(" "))
        literal = code or text.endswith("::") or _CODE_DIRECTIVE.match(text) is not None
        if code:
            html.append(f"<pre>{escape(text, quote=False)}</pre>")
        elif not (literal and "\n" not in text and _DIRECTIVE.fullmatch(text)):
            html.extend(_text_html(text.split("\n")))
    return "\n".join(html)


def _text_html(lines: list[str]) -> Iterator[str]:
    """Paragraphs, lists and parameter lists of one block of lines without empty ones."""
    entries: list[tuple[str, str, list[str]]] = []  # kind, term of a parameter list, text
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if item := _ITEM.fullmatch(line.strip()):
            entries.append(("item", "", [item[1]]))
        elif directive := _DIRECTIVE.fullmatch(line.strip()):
            entries.append(("paragraph", "", [f"{(directive[1] or directive[2]).capitalize()}:", directive[3]]))
        elif term := _FIELD.fullmatch(line) or _TERM.fullmatch(line):
            entries.append(("term", term[1], [term[2] or ""]))
        elif following.startswith(" ") and not line.startswith(" ") and (not entries or entries[-1][0] == "term"):
            entries.append(("term", line, []))  # NumPy style: the description is indented under the name
        elif entries and (line.startswith(" ") or entries[-1][0] == "paragraph"):
            entries[-1][2].append(line.strip())
        else:
            entries.append(("paragraph", "", [line]))
    for kind, group in groupby(entries, key=lambda entry: entry[0]):
        texts = [(_inline_html(term), _inline_html(" ".join(filter(None, text)))) for _, term, text in group]
        if kind == "paragraph":
            yield "\n".join(f"<p>{text}</p>" for _, text in texts)
        elif kind == "item":
            yield "<ul>" + "".join(f"<li>{text}</li>" for _, text in texts) + "</ul>"
        else:  # one line a parameter, as Sphinx renders field lists
            yield "<ul>" + "".join(f"<li><strong>{term}</strong> – {text}</li>" for term, text in texts) + "</ul>"


def _inline_html(text: str) -> str:
    """Escaped text with reST roles and literals as <code>; `::` at the end of a line is an ordinary colon."""
    return _LITERAL.sub(r"<code>\1</code>", escape(text.removesuffix("::") + ":" * text.endswith("::"), quote=False))
