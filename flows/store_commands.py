"""The commands that look at a store, serve it, use a model of it, or clear it; no flow runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flows.arguments import print_json
from tasks.store import Store


def _generate(options: argparse.Namespace, store: Store) -> int:
    from infra.registry import find_model
    from tasks.generation import TextGenerator

    version = find_model(store, options.model)
    generator = TextGenerator.load(version.folder, version.tokenizer_file)
    sys.stdout.write(options.prompt)
    for piece in generator.stream(
        options.prompt,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=options.seed,
    ):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0


def _manifests(store: Store) -> list[dict[str, Any]]:
    return [store.corpus_manifest(f"{name}@{number}") for name in store.names() for number in store.versions(name)]


def _corpora(options: argparse.Namespace, store: Store) -> int:
    manifests = _manifests(store)
    for manifest in manifests:
        reference = f"{manifest['name']}@{manifest['version']}"
        print(
            f"{reference:<24}{manifest['created']:<22}{manifest['documents_kept']:>10,} of"
            f" {manifest['records_in']:>10,} records  {manifest['digest'][:16]}"
        )
    if not manifests:
        print(f"no corpus in {store.root} yet: make one with `tokenmill refresh` or `tokenmill pipeline`")
    keys = ("name", "version", "created", "records_in", "documents_kept", "digest")
    return print_json(options, [{key: manifest[key] for key in keys} for manifest in manifests])


def _show(options: argparse.Namespace, store: Store) -> int:
    from flows.console import funnel_lines
    from tasks.manifest import read_manifest

    path = store.corpus(options.corpus)
    manifest = read_manifest(path)
    assert manifest is not None
    sources = ", ".join(manifest["sources"])
    print(f"{manifest['name']}@{manifest['version']}  made {manifest['created']} from {sources}")
    print("\n".join(funnel_lines(manifest)))
    print(f"edits{manifest['edits']:>45,}")
    print(f"tokens, estimated{manifest['estimated_tokens']:>33,}")
    for line in _descent(manifest):
        print(line)
    print(f"recipe  {manifest['recipe']['name']}\ndigest  {manifest['digest']}\npath    {path}")
    return print_json(options, {**manifest, "path": str(path)})


def _descent(manifest: Mapping[str, Any]) -> list[str]:
    """How a version came from the one before it; nothing of one that came from none."""
    if not manifest.get("base"):
        return []
    changes = [f"{manifest[kind]:,} {kind.replace('_', ' ')}" for kind in ("superseded", "revived", "taken_down")]
    num_linked = manifest["parts_linked"]
    parts = f"{num_linked:,} of {num_linked + manifest['parts_written']:,} parts are the same files"
    return [f"onto    {manifest['name']}@{manifest['base']}: {', '.join(changes)}; {parts}"]


def _diff(options: argparse.Namespace, store: Store) -> int:
    from flows.console import console, diff_lines
    from tasks.diff import compare, two_versions
    from tasks.diff_report import report_file, write_report

    if options.html and options.html.is_dir():
        raise ValueError(f"{options.html} is a folder: name a file for the report")
    before, after = (options.first, options.second) if options.second else ("", options.first)
    folders = two_versions(store, before, after)
    diff = compare(*folders, samples=options.samples, tokens=store.tokens, progress=console.progress)
    report = write_report(diff, options.html or report_file(store.root, diff))
    print("\n".join(diff_lines(diff)))
    print(f"report  {report}")
    return print_json(options, {**diff.as_json(), "report": str(report)})


def _up(options: argparse.Namespace, store: Store) -> int:
    from infra.local_stack import serve_until_interrupted

    return serve_until_interrupted(store, prefect_port=options.prefect_port, mlflow_port=options.mlflow_port)


def _doctor(options: argparse.Namespace, store: Store) -> int:
    from infra.doctor import examine

    findings = examine(store)
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<18}{finding.detail}")
    print_json(options, [{"what": f.what, "ok": f.ok, "detail": f.detail} for f in findings])
    return 0 if all(finding.ok for finding in findings) else 2


def _gc(options: argparse.Namespace, store: Store) -> int:
    from infra.garbage import collect_garbage

    result = collect_garbage(
        store, dry_run=options.dry_run, keep_versions=options.keep_versions, min_age_days=options.min_age_days
    )
    for entry in result["kept"]:
        print(f"kept     {entry['bytes'] / 1e6:>12,.1f} MB  {entry['path']}  ({entry['why']})")
    verb = "would go" if options.dry_run else "removed"
    for entry in result["removed"]:
        print(f"{verb:<8} {entry['bytes'] / 1e6:>12,.1f} MB  {entry['path']}  ({entry['why']})")
    print(f"{'would free' if options.dry_run else 'freed'} {result['freed_bytes'] / 1e6:,.1f} MB")
    return print_json(options, result)


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Store], int]] = {
    "generate": _generate,
    "corpora": _corpora,
    "show": _show,
    "diff": _diff,
    "up": _up,
    "doctor": _doctor,
    "gc": _gc,
}
