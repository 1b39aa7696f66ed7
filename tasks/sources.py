"""What a source's name means: files somewhere, or the documentation of the installed packages."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tasks.atomic import new_directory
from tasks.manifest import code_version, fingerprint, library_versions
from tasks.read.environment_docs import write_environment_docs
from tasks.read.source import SourceFile, list_source, resolve_source
from tasks.stages import Progress, no_progress
from tasks.store import Store

EMBEDDED = "environment-docs"
DEFAULT_PAGES = MAX_SAMPLE_PAGES = 2500
_PROJECT = "tokenmill"


def runtime_distributions(project: str = _PROJECT) -> list[str]:
    """The project's requirements and theirs, as installed here: what the runtime constraints pin."""
    found: dict[str, None] = {}
    waiting = [project]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra or a platform marker that does not apply here
        found[name] = None
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    del found[canonicalize_name(project)]
    return sorted(found)


def is_embedded(source: str) -> bool:
    return source == EMBEDDED or source.startswith(f"{EMBEDDED}:")


def embedded_pages(source: str) -> int | None:
    """How many pages `environment-docs[:N|:all]` asks for; None is all there are. ValueError for anything else."""
    _, _, pages = source.partition(":")
    if not pages:
        return DEFAULT_PAGES
    if pages == "all":
        return None
    if not pages.isdecimal() or not 1 <= int(pages) <= MAX_SAMPLE_PAGES:
        raise ValueError(f"{source!r}: write a number of pages from 1 to {MAX_SAMPLE_PAGES}, or all, behind the colon")
    return int(pages)


def check_source(source: str) -> None:
    """ValueError where the source can't be read, before any work."""
    if is_embedded(source):
        embedded_pages(source)
    else:
        resolve_source(source)


def ignored_files(source: str) -> dict[str, int]:
    """How many files of a folder or glob are of no format we read, by suffix."""
    return {} if is_embedded(source) else list_source(source).ignored


def collect_source(store: Store, source: str, progress: Progress = no_progress) -> tuple[SourceFile, ...]:
    """The source's files. The embedded default is written to the store first, once for each set of package versions."""
    if not is_embedded(source):
        return resolve_source(source)
    num_pages = embedded_pages(source)
    distributions = runtime_distributions()
    identity = fingerprint(
        {
            "pages": num_pages,
            "versions": library_versions(tuple(distributions)),
            "code": code_version("tasks/read"),
        }
    )
    folder = store.root / "sources" / f"{EMBEDDED}-{num_pages or 'all'}-{identity[:12]}"
    if not folder.is_dir():
        with new_directory(folder) as directory:
            write_environment_docs(
                distributions,
                directory,
                num_pages=num_pages,
                on_progress=lambda done, total: progress("collect", done, total),
            )
    return resolve_source(str(folder))


def source_name(source: str) -> str:
    """The source's logical name, part of each document: the embedded default's, else the last part of the path."""
    if is_embedded(source):
        return EMBEDDED
    parts = [part for part in source.split("?")[0].split("/") if part and not set("*?[") & set(part)]
    return parts[-1].split(".")[0] or parts[-1] if parts else source
