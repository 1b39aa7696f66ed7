"""Corpus versions of made-up parts, and what may happen to a machine that shares them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.store import Store
from tests.tasks.s3_server import objects

NUM_BUCKETS = 20


def make_version(store: Store, version: int, text: str, name: str = "web", changed: Mapping[int, str] = {}) -> Path:
    """A corpus version in the shape that publishing gives it; `changed` has the texts of single buckets."""
    folder = store.corpora / name / str(version)
    parts = []
    for index in range(NUM_BUCKETS):
        part = folder / "documents" / f"bucket-{index:03d}.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(f"{changed.get(index, text)} {index}".encode() * 100)
        sha256 = hashlib.sha256(part.read_bytes()).hexdigest()
        parts.append({"path": f"documents/{part.name}", "sha256": sha256})
    digest = " ".join([text, *changed.values()])
    manifest = {"schema_version": SCHEMA_VERSION, "name": name, "version": version, "digest": digest, "parts": parts}
    manifest |= {"inputs": [], "fingerprint": digest}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def object_of(folder: Path, bucket: int) -> str:
    """Where the remote keeps the content of one bucket of `folder`."""
    sha256 = hashlib.sha256((folder / "documents" / f"bucket-{bucket:03d}.parquet").read_bytes()).hexdigest()
    return f"objects/{sha256[:2]}/{sha256}"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_killed(store: Store, action: str, victim: str, calls: int) -> None:
    """A process that is killed after `calls` calls of a function of tasks.remote, while it does `action`."""
    script = f"""
import os, signal, sys
import tasks.remote
from tasks.store import Store
owner, name = {victim}
real, done = getattr(owner, name), []
def counted(*arguments, **named):
    real(*arguments, **named)
    done.append(1)
    if len(done) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, counted)
store = Store.open(sys.argv[1], sys.argv[2])
{action}
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(store.root), store.remote]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def documents(address: str) -> set[str]:
    return {name for name in objects(address) if name.startswith("objects/")}
