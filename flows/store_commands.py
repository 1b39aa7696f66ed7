"""The commands that look at a store, serve it, use a model of it, or clear it; no flow runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flows.arguments import print_json
from tasks.source_names import source_name
from tasks.store import Store

_QUARANTINED = ("document_id", "url", "source_file", "source_offset", "reason", "num_bytes", "sha256")


def _generate(options: argparse.Namespace, store: Store) -> int:
    from flows.generate_command import generate

    return generate(options, store)


def _serve(options: argparse.Namespace, store: Store) -> int:
    from flows.serve_command import serve

    return serve(options, store)


def _export(options: argparse.Namespace, store: Store) -> int:
    from flows.export_command import export

    return export(options, store)


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
    for line in (*_descent(manifest), *_wiped_out(manifest)):
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


def _wiped_out(manifest: Mapping[str, Any]) -> list[str]:
    """What the guard found, and somebody allowed; nothing of versions of programs without the guard."""
    from tasks.diff_report import printable

    return [
        f"allowed {each['stage']} removed {each['removed']:,} of {each['documents_in']:,} documents of {each['kind']}"
        f" {printable(each['group'])} ({manifest['name']}@{each['version']})"
        for each in manifest.get("wipe_outs", ())
    ]


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


def _quarantine(options: argparse.Namespace, store: Store) -> int:
    from tasks.diff_report import printable
    from tasks.manifest import read_manifest
    from tasks.quarantine import quarantined_bytes
    from tasks.tables import read_rows

    folder = store.corpus(options.corpus)
    if options.sha256:
        manifest = read_manifest(folder)
        assert manifest is not None
        content = quarantined_bytes(folder, manifest["parts"], options.sha256)
        if options.output:
            options.output.write_bytes(content)
            print(f"{len(content):,} bytes  {options.output}")
            return print_json(options, {"num_bytes": len(content), "file": str(options.output)})
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return 0
    rows = [row for file in sorted((folder / "quarantine").glob("*.parquet")) for row in read_rows(file, _QUARANTINED)]
    for row in rows:
        where = printable(f"{row['source_file']} at {row['source_offset']:,}")
        print(f"{row['sha256'][:16]}  {row['num_bytes']:>12,} bytes  {row['reason']:<20}{where}")
    if not rows:
        print(f"nothing of {folder.parent.name}@{folder.name} could not be read")
    return print_json(options, rows)


def _thresholds(options: argparse.Namespace, store: Store) -> int:
    from datetime import UTC, datetime

    from flows.console import console
    from tasks.atomic import write_file
    from tasks.curation import extract
    from tasks.ports import InProcessMap
    from tasks.preview.sample import plan_sample, read_sample
    from tasks.recipes.curation import resolve_curation_recipe
    from tasks.screen import DOCUMENTS_FILE
    from tasks.tables import read_rows
    from tasks.thresholds import measure_thresholds

    recipe = resolve_curation_recipe("fineweb", {"language.rough_check": "false"})  # all languages
    sample = plan_sample(store, options.source, recipe, pages=options.pages, progress=console.progress)
    records, sampling = read_sample(sample, InProcessMap(), console.progress)
    extracted = extract(sample, records, InProcessMap(), console.progress)
    texts = (row["text"] for shard in extracted.shards for row in read_rows(shard / DOCUMENTS_FILE, ["text"]))
    today = datetime.now(UTC).date().isoformat()
    reference = ", ".join(sorted({source_name(source) for source in options.source}))
    thresholds = measure_thresholds(texts, options.languages, reference=reference, measured=today)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_file(options.output, thresholds.model_dump_json(indent=1).encode())
    for each in thresholds.languages:
        print(f"{each.language:<8}{each.num_documents:>8,} documents{each.num_words:>12,} words")
    print(f"of {sampling.records:,} records; {options.output}")
    return print_json(options, thresholds.model_dump(mode="json"))


def _up(options: argparse.Namespace, store: Store) -> int:
    from infra.local_stack import serve_until_interrupted

    return serve_until_interrupted(store, prefect_port=options.prefect_port, mlflow_port=options.mlflow_port)


def _doctor(options: argparse.Namespace, store: Store) -> int:
    from flows.doctor import doctor

    return doctor(options, store)


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
    "serve": _serve,
    "export": _export,
    "corpora": _corpora,
    "show": _show,
    "diff": _diff,
    "quarantine": _quarantine,
    "thresholds": _thresholds,
    "up": _up,
    "doctor": _doctor,
    "gc": _gc,
}
