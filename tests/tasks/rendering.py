"""Markdown as a page shows it, by a renderer that follows CommonMark and lets HTML through."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

_OURS = frozenset(
    "p h2 h3 h4 strong em ul ol li code pre blockquote table thead tbody tr th td hr br".split()  # what we write
)


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def harmful_tags(markdown: str) -> list[str]:
    """Opening tags that no Markdown of ours has: images, links, scripts."""
    tags = re.findall(r"<\s*([A-Za-z!][A-Za-z0-9]*)", rendered(markdown))
    return [tag for tag in tags if tag.lower() not in _OURS]
