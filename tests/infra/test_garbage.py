"""`tokenmill gc` on real stores and a real registry: what it decides it does, and not beside a run that is alive."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import infra.garbage as module
from infra.garbage import collect_garbage
from infra.settings import environment
from infra.tracking_client import client
from tasks.atomic import write_json
from tasks.manifest import SCHEMA_VERSION, read_manifest
from tasks.store import Store

DAYS_S = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three old versions of one corpus, each made of one stage output, and a model of the first."""
    opened = Store.open(tmp_path / "store")
    environment(opened)  # makes the folders of the databases
    for number in (1, 2, 3):
        fingerprint = str(number) * 64
        output = opened.work / "read" / fingerprint[:20]
        output.mkdir(parents=True)
        stage = {"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint, "shards": [], "identity": {}}
        write_json(output / "manifest.json", stage)
        version = opened.corpora / "web" / str(number)
        version.mkdir(parents=True)
        (version / "documents").write_bytes(b"x" * 1000)
        body = {"schema_version": SCHEMA_VERSION, "digest": f"d{number}", "fingerprints": {"read": fingerprint}}
        write_json(version / "manifest.json", body | {"inputs": []})
    for path in opened.root.rglob("*"):
        os.utime(path, (time.time() - 30 * DAYS_S,) * 2)
    registry = client(opened)
    registry.create_registered_model("m")
    registry.create_model_version(
        "m",
        source=(opened.root / "mlflow" / "artifacts" / "m").as_uri(),
        tags={"corpus": "web@1", "corpus_digest": "d1"},
    )
    yield opened


def gone(report: dict[str, object], store: Store) -> set[str]:
    removed = report["removed"]
    assert isinstance(removed, list)
    return {str(Path(row["path"]).relative_to(store.root)) for row in removed}


def test_a_dry_run_decides_the_same_and_changes_nothing(store: Store) -> None:
    before = {path: path.stat().st_mtime_ns for path in (store.root / "corpora").rglob("*")}
    would = collect_garbage(store, dry_run=True, keep_versions=1)
    assert gone(would, store) == {"corpora/web/2", f"work/read/{'2' * 20}"}
    assert would["dry_run"] and would["freed_bytes"] > 1000
    assert {path: path.stat().st_mtime_ns for path in (store.root / "corpora").rglob("*")} == before
    done = collect_garbage(store, dry_run=False, keep_versions=1)
    assert {key: done[key] for key in ("removed", "kept", "freed_bytes")} == {
        key: would[key] for key in ("removed", "kept", "freed_bytes")
    }
    assert store.versions("web") == [1, 3]
    assert read_manifest(store.corpus("web@1")) and (store.work / "read" / ("1" * 20)).is_dir()
    assert not (store.work / "read" / ("2" * 20)).exists()
    assert collect_garbage(store, dry_run=False, keep_versions=1)["removed"] == []


def test_a_model_that_was_deleted_holds_its_corpus_no_more(store: Store) -> None:
    client(store).delete_model_version("m", "1")
    assert "corpora/web/1" in gone(collect_garbage(store, dry_run=True, keep_versions=1), store)


def test_beside_a_refresh_of_the_corpus_nothing_of_it_goes(store: Store) -> None:
    with store.lock("corpus-web"), store.lock("flow-1"):
        for dry_run in (True, False):
            report = collect_garbage(store, dry_run=dry_run, keep_versions=1)
            assert report["removed"] == []
            (kept,) = [row for row in report["kept"] if row["path"].endswith("web/2")]
            assert kept["why"].startswith("would go (not among the newest 1), but ")
    assert store.versions("web") == [1, 2, 3]


def test_beside_any_flow_what_is_shared_stays(store: Store) -> None:
    with store.lock("flow-1"):  # it may be training on any version, whose lock it need not hold
        assert not gone(collect_garbage(store, dry_run=False, keep_versions=1), store)
    assert (store.corpora / "web" / "2").is_dir() and (store.work / "read" / ("2" * 20)).is_dir()


def test_one_at_a_time(store: Store) -> None:
    with store.lock("gc"), pytest.raises(ValueError, match="'gc'"):
        collect_garbage(store, dry_run=False)


def test_a_kill_half_way_leaves_nothing_that_looks_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing behind it is run."""

    def killed(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module.shutil, "rmtree", killed)
        collect_garbage(store, dry_run=False, keep_versions=1)
    assert store.versions("web") == [1, 3]
    assert len(list((store.corpora / "web").glob(".tmp-gc-2-*"))) == 1  # reconcile removes it
