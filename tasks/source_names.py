"""What the name of a source says by itself. Imports nothing heavy: the command line asks before anything else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

EMBEDDED = "environment-docs"
COMMON_CRAWL = "commoncrawl"
LATEST = "latest"
MAX_CRAWL_FILES = 10_000
"""Of one source: a crawl has about 90,000 WARC files of 1 GB, and each file taken costs a request for its size."""

_CRAWL_SOURCE = re.compile(
    rf"{COMMON_CRAWL}:(?P<crawl>{LATEST}|CC-MAIN-\d{{4}}-\d\d)(:(?P<kind>warc|wet))?(:(?P<number>\d{{1,9}}))?", re.ASCII
)


def is_embedded(source: str) -> bool:
    """Whether it is the documentation of the installed packages, `environment-docs[:N|:all]`."""
    return source == EMBEDDED or source.startswith(f"{EMBEDDED}:")


def is_common_crawl(source: str) -> bool:
    """Whether it is files of Common Crawl, `commoncrawl:CC-MAIN-YYYY-WW[:warc|:wet][:N]` or `commoncrawl:latest...`."""
    return source == COMMON_CRAWL or source.startswith(f"{COMMON_CRAWL}:")


def is_local_path(source: str) -> bool:
    """Whether it is a path on this machine, which the folder that it is named in belongs to."""
    return "://" not in source and not is_embedded(source) and not is_common_crawl(source)


@dataclass(frozen=True, slots=True)
class CrawlAddresses:
    """Where Common Crawl is, or a mirror with its layout: any addresses or folders that fsspec knows."""

    data: str = "https://data.commoncrawl.org"
    """Above `crawl-data/`; s3://commoncrawl is the same, for those with AWS credentials."""
    index: str = "https://index.commoncrawl.org"
    """Above `collinfo.json`, which says which crawls there are."""


PUBLIC_CRAWLS = CrawlAddresses()


@dataclass(frozen=True, slots=True)
class CrawlSource:
    """`commoncrawl:...`, taken apart."""

    crawl: str
    """Such as CC-MAIN-2025-38: year and ISO week; or latest."""
    kind: Literal["warc", "wet"]
    """WARC: the pages as received. WET: the text that Common Crawl took out of the same pages."""
    num_files: int


def common_crawl_source(source: str) -> CrawlSource:
    """What `commoncrawl:CRAWL[:KIND][:N]` asks for. Raises ValueError where it is something else."""
    parts = _CRAWL_SOURCE.fullmatch(source)
    if parts is None:
        raise ValueError(
            f"{source!r} is no source of Common Crawl: write {COMMON_CRAWL}:CC-MAIN-YYYY-WW or {COMMON_CRAWL}:{LATEST},"
            " then, if wanted, :wet (texts instead of pages) and a number of files, such as"
            f" {COMMON_CRAWL}:CC-MAIN-2025-38:wet:3"
        )
    num_files = int(parts["number"] or 1)
    if not 1 <= num_files <= MAX_CRAWL_FILES:
        raise ValueError(f"{source!r}: a source has 1 to {MAX_CRAWL_FILES:,} files of a crawl, not {num_files:,}")
    return CrawlSource(parts["crawl"], "wet" if parts["kind"] == "wet" else "warc", num_files)


def source_name(source: str) -> str:
    """The source's logical name, part of each document: the embedded default's, a crawl's id, else the last part of the
    path. A source that follows the latest crawl is called commoncrawl; its records carry the id of theirs."""
    if is_embedded(source):
        return EMBEDDED
    if is_common_crawl(source):
        crawl = common_crawl_source(source).crawl
        return COMMON_CRAWL if crawl == LATEST else crawl
    parts = [part for part in source.split("?")[0].split("/") if part and not set("*?[") & set(part)]
    return parts[-1].split(".")[0] or parts[-1] if parts else source


def is_model_path(reference: str) -> bool:
    """Whether what names a model is a path: it holds a slash, or begins with a dot or a tilde.

    A folder of the current folder is `./name`, so that none hides the registered model of its name.
    """
    if "://" in reference or reference.startswith("models:/"):
        return False
    return "/" in reference or reference.startswith((".", "~"))
