"""`tokenmill doctor`: what is shown of the installation, and of what recipes need, on a terminal of 100 columns."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.arguments import print_json

if TYPE_CHECKING:
    from infra.doctor import Finding
    from tasks.needed_files import NeededFile
    from tasks.recipes.curation import CurationRecipe
    from tasks.store import Store

_COLUMNS = 100
_INDENT = " " * 6


def doctor(options: argparse.Namespace, store: Store) -> int:
    """Look at everything, and with `--fetch` bring the models that are missing. Exit code 0: all is well, else 1.

    Raises ValueError for a recipe, setting or model that cannot be.
    """
    recipes = _recipes(options)

    from flows.console import console
    from infra.doctor import examine
    from infra.needed_models import fetch_missing, needed_models
    from tasks.needed_files import trained_tokenizers

    files = needed_models(store, recipes, options.model)
    if options.fetch:
        files = fetch_missing(store, files, console.progress)
        console.close()
    findings = examine(store)
    tokenizers = trained_tokenizers(store)
    again = _fetch_command(options, store)
    for line in (*finding_lines(findings), "", *file_lines([*files, *tokenizers], again)):
        print(line)
    if not tokenizers:
        print(f"{_INDENT}No tokenizer for training is in the store: pretraining trains its own, none is fetched.")
    ok = all(finding.ok for finding in findings) and not any(file.problem for file in files)
    print_json(
        options,
        {
            "ok": ok,
            "checks": [asdict(finding) for finding in findings],
            "files": [asdict(file) for file in (*files, *tokenizers)],
        },
    )
    return 0 if ok else 1


def _recipes(options: argparse.Namespace) -> list[CurationRecipe]:
    """The recipes that were named, with the settings; without a name all there are, as they are. Models are checked."""
    from tasks.model_files import parse_model
    from tasks.recipes.curation import CURATION_RECIPES, resolve_curation_recipe

    for reference in options.model:
        parse_model(reference)
    if options.settings and not options.recipe:
        raise ValueError("--set changes a recipe: name it with --recipe")
    overrides = dict(setting.split("=", 1) for setting in options.settings)
    return [resolve_curation_recipe(name, overrides) for name in options.recipe or CURATION_RECIPES]


def _fetch_command(options: argparse.Namespace, store: Store) -> str:
    """The same command, bringing what is missing."""
    named = [word for option, values in _repeated(options) for value in values for word in (option, value)]
    return shlex.join(["tokenmill", "doctor", "--store", str(store.root), *named, "--fetch"])


def _repeated(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    return [("--recipe", options.recipe), ("--set", options.settings), ("--model", options.model)]


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """What was found of the installation, the store and the servers."""
    lines = []
    for finding in findings:
        head = f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<16}"
        lines += _wrapped(head, finding.detail, " " * len(head))
    return lines


def file_lines(files: Sequence[NeededFile], again: str) -> list[str]:
    """Every model, list and tokenizer, as a table; what is missing says what brings it."""
    lines = [f"{'':<6}{'':<11}{'name':<40}{'size':>11}"]
    for file in files:
        state = "FAIL" if file.problem else "ok  "
        size = "" if file.size_bytes is None else _size(file.size_bytes)
        lines.append(f"{state}  {file.kind:<11}{_cut(file.name, 38):<40}{size:>11}".rstrip())
        if file.sha256:
            lines.append(f"{_INDENT}SHA-256    {file.sha256}")
        if file.used_by:
            lines += _wrapped(f"{_INDENT}used by    ", _users(file.used_by), f"{_INDENT}           ")
        lines += _wrapped(f"{_INDENT}licence    ", file.licence, f"{_INDENT}           ")
        lines += _wrapped(f"{_INDENT}origin     ", file.origin, f"{_INDENT}           ")
        if file.reference:
            lines += _wrapped(f"{_INDENT}named as   ", file.reference, f"{_INDENT}           ")
        if file.problem:
            lines += _wrapped(f"{_INDENT}problem    ", file.problem, f"{_INDENT}           ")
    if any(file.fetchable for file in files):
        lines += ["", "Bring what is missing with", f"    {again}"]
    return lines


def _users(used_by: Sequence[str]) -> str:
    """`toxicity (fineweb, documentation)` in place of a user for each recipe."""
    recipes: dict[str, list[str]] = {}
    for user in used_by:
        recipe, _, part = user.partition(": ")
        recipes.setdefault(part, []).append(recipe)
    return "; ".join(f"{part} ({', '.join(names)})" if part else ", ".join(names) for part, names in recipes.items())


def _wrapped(head: str, text: str, indent: str) -> list[str]:
    """A line of text under its head; a long word, such as an address or a command, stays whole to be copied."""
    return textwrap.wrap(
        text, _COLUMNS, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [head.rstrip()]


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


def _size(num_bytes: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"
