import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.store import InUseError, Store, checked_name


@pytest.mark.parametrize("name", ["web", "a", "Web-2.1_x", "9", "a" * 64])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", ".hidden", "-x", "a b", "a" * 65, "a\n", "ü", "a\x00"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="corpus name"):
        checked_name(name)


def _version(store: Store, name: str, version: int) -> Path:
    directory = store.corpora / name / str(version)
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return directory


def test_a_reference_finds_the_latest_or_the_named_version(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    with pytest.raises(ValueError, match="none yet"):
        store.corpus("web")
    for version in (1, 2, 10):
        _version(store, "web", version)
    (store.corpora / "web" / "11").mkdir()  # unfinished: no manifest
    assert store.corpus("web") == store.corpora / "web" / "10"
    assert store.corpus("web@2") == store.corpora / "web" / "2"
    assert store.versions("web") == [1, 2, 10]
    assert store.names() == ["web"]
    for wrong in ("web@3", "web@", "web@x", "web@11"):
        if wrong != "web@":
            with pytest.raises(ValueError, match="has no version"):
                store.corpus(wrong)


def test_a_lock_is_exclusive_between_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from tasks.store import Store\n"
            "with Store.open(sys.argv[1]).lock('corpus-web'): print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match=f"process {holder.pid}"), store.lock("corpus-web"):
            pass
        with store.lock("corpus-other"):
            pass
    finally:
        holder.kill()
        holder.wait()
    with store.lock("corpus-web"):
        pass


def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose another with --store"):
        Store.open(tmp_path / "file" / "store")


def test_whether_a_lock_is_held_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert not store.is_locked("up"), "nobody has ever taken it"
    with store.lock("up"):
        assert store.is_locked("up") and store.is_locked("up")
        assert not store.is_locked("other")
    assert not store.is_locked("up")
    with store.lock("up"):
        pass


def test_asking_never_disturbs_a_taker(tmp_path: Path) -> None:
    asker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tasks.store import Store; store = Store.open(sys.argv[1]); print('asking', flush=True)\n"
            "while True: store.is_locked('up')",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert asker.stdout is not None and asker.stdout.readline() == "asking\n"
        store = Store.open(tmp_path)
        for _ in range(5000):
            with store.lock("up"):
                pass
    finally:
        asker.kill()
        asker.wait()


def test_a_lock_of_another_process_is_seen_and_its_end_too(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from tasks.store import Store\n"
            "with Store.open(sys.argv[1]).lock('flow-1'): print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert store.is_locked("flow-1")
    finally:
        holder.kill()
        holder.wait()
    assert not store.is_locked("flow-1")
    assert (tmp_path / "locks" / "flow-1.lock").is_file(), "the file stays: it tells that somebody was there"
