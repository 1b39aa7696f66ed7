"""Machines that share an object store: a real S3 endpoint (moto), and stores in folders of their own."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest

import tasks.remote
from tasks.manifest import MANIFEST, SCHEMA_VERSION
from tasks.recipes.curation import fineweb
from tasks.refresh import Refresh
from tasks.remote import Remote, TakenError
from tasks.store import Store
from tests.data.prose import write_jsonl
from tests.tasks.s3_server import objects, s3_server

NUM_BUCKETS = 20


@pytest.fixture(scope="module", autouse=True)
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def address(bucket: str) -> str:
    """A remote of this test's own."""
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def machine_a(tmp_path: Path, address: str) -> Store:
    return Store.open(tmp_path / "a", address)


@pytest.fixture
def machine_b(tmp_path: Path, address: str) -> Store:
    return Store.open(tmp_path / "b", address)


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


def test_what_one_machine_publishes_another_reads(machine_a: Store, machine_b: Store, address: str) -> None:
    first = make_version(machine_a, 1, "first")
    machine_a.upload(first)
    assert machine_b.names() == ["web"] and machine_b.versions("web") == [1]
    assert machine_b.corpus_manifest("web")["digest"] == "first"
    assert not machine_b.corpora.exists(), "looking at a manifest fetches nothing"
    fetched = machine_b.corpus("web@1")
    assert fetched == machine_b.corpora / "web" / "1"
    assert content(fetched) == content(first)
    assert sorted(path.name for path in fetched.parent.iterdir()) == ["1"]
    assert json.loads(objects(address)["corpora/web/1/manifest.json"])["digest"] == "first"


def test_a_number_that_is_taken_there_is_not_free_here(machine_a: Store, machine_b: Store) -> None:
    for version in (1, 2):
        machine_a.upload(make_version(machine_a, version, str(version)))
    make_version(machine_b, 3, "only here so far")
    assert machine_b.versions("web") == [1, 2, 3]
    assert machine_a.versions("web") == [1, 2]
    with pytest.raises(ValueError, match=r"has no version '9'; it has 1, 2$"):
        machine_a.corpus("web@9")


def test_an_upload_is_no_version_before_its_manifest(machine_a: Store, machine_b: Store, address: str) -> None:
    machine_a.upload(make_version(machine_a, 1, "first"))
    fsspec.filesystem("s3").rm_file(f"{address.removeprefix('s3://')}/corpora/web/1/{MANIFEST}")
    assert machine_b.versions("web") == [] and machine_b.names() == []
    assert machine_b.fetch(machine_b.corpora / "web" / "1") is False
    with pytest.raises(ValueError, match=r"there is no corpus 'web' in .* or s3://"):
        machine_b.corpus("web")


def test_uploading_again_changes_nothing(machine_a: Store, address: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_version(machine_a, 1, "first")
    machine_a.upload(folder)
    before = objects(address)
    caplog.set_level("INFO", "tasks.remote")
    machine_a.upload(folder)
    assert objects(address) == before
    assert "uploading" not in caplog.text


def test_of_two_publishers_one_wins_and_the_other_is_told(machine_a: Store, machine_b: Store, address: str) -> None:
    machine_a.upload(make_version(machine_a, 1, "first"))
    before = objects(address)
    loser = make_version(machine_b, 1, "second")
    with pytest.raises(TakenError, match=r"published corpora/web/1 in s3://.* first, with other content: run the same"):
        machine_b.upload(loser)
    assert objects(address) == before
    assert machine_b.corpus_manifest("web@1")["digest"] == "first", "the name means the winner's on every machine"
    assert content(machine_b.corpus("web@1")) == content(machine_a.corpus("web@1"))


def test_of_two_publishers_at_the_same_moment_one_wins(
    machine_a: Store, machine_b: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    winner, loser = make_version(machine_a, 1, "first"), make_version(machine_b, 1, "second")
    create = tasks.remote.create

    def be_overtaken(*arguments: object, **named: object) -> None:
        """Between the loser's parts, all sent, and its manifest, the other publishes."""
        monkeypatch.setattr(tasks.remote, "create", create)
        machine_a.upload(winner)
        create(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks.remote, "create", be_overtaken)
    with pytest.raises(TakenError):
        machine_b.upload(loser)
    assert content(machine_b.corpus("web")) == content(winner)
    there = objects(address)
    assert len([name for name in there if name.startswith("corpora/web/1/files-")]) == 1, "the winner's list"
    sent_in_vain = [name for name, data in there.items() if b"second" in data]
    assert len(sent_in_vain) == NUM_BUCKETS, "another machine may have counted on them"


def test_a_manifest_whose_put_was_tried_twice_is_no_conflict(machine_a: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create = tasks.remote.create

    def answer_lost(*arguments: object, **named: object) -> None:
        create(*arguments, **named)  # type: ignore[arg-type]
        create(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tasks.remote, "create", answer_lost)
    machine_a.upload(make_version(machine_a, 1, "first"))
    assert machine_a.versions("web") == [1]


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


def test_a_kill_in_the_middle_of_an_upload_publishes_nothing_and_is_taken_up(
    machine_a: Store, machine_b: Store, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_version(machine_a, 1, "first")
    run_killed(machine_a, "store.upload(store.corpora / 'web' / '1')", "tasks.remote, 'put'", 1)
    sent = {name for name in objects(address) if name.startswith("objects/")}
    assert 0 < len(sent) < NUM_BUCKETS
    assert machine_b.versions("web") == []
    caplog.set_level("INFO", "tasks.remote")
    machine_a.upload(folder)
    assert f"uploading {NUM_BUCKETS - len(sent)} of {NUM_BUCKETS} files" in caplog.text, "what was sent stays"
    assert content(machine_b.corpus("web")) == content(folder)


def test_a_kill_in_the_middle_of_a_download_leaves_no_version_and_is_taken_up(
    machine_a: Store, machine_b: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_version(machine_a, 1, "first")
    machine_a.upload(folder)
    run_killed(machine_b, "store.corpus('web')", "tasks.remote.Remote, '_fetch_file'", 7)
    (unfinished,) = (machine_b.corpora / "web").iterdir()
    assert unfinished.name.startswith(".tmp-") and len(content(unfinished)) == 7
    cut = unfinished / "documents" / "bucket-003.parquet"
    cut.write_bytes(cut.read_bytes()[:50])  # as a kill within a file would
    fetched: list[str] = []
    fetch_file = Remote._fetch_file
    monkeypatch.setattr(
        Remote,
        "_fetch_file",
        lambda self, there, file, target: (fetched.append(file.path), fetch_file(self, there, file, target)),
    )
    assert content(machine_b.corpus("web")) == content(folder)
    assert len(fetched) == NUM_BUCKETS - 7 + 1 and f"documents/{cut.name}" in fetched
    assert [path.name for path in (machine_b.corpora / "web").iterdir()] == ["1"]


def test_a_damaged_part_is_refused(machine_a: Store, machine_b: Store, address: str) -> None:
    folder = make_version(machine_a, 1, "first")
    machine_a.upload(folder)
    path = f"{address.removeprefix('s3://')}/{object_of(folder, 11)}"
    filesystem = fsspec.filesystem("s3")
    intact = filesystem.cat_file(path)
    filesystem.pipe_file(path, intact.replace(b"first", b"worse"))
    with pytest.raises(ValueError, match=r"bucket-011\.parquet of corpora/web/1, is damaged") as error:
        machine_b.corpus("web")
    assert "\n" not in str(error.value)
    assert not (machine_b.corpora / "web" / "1").exists()
    filesystem.pipe_file(path, intact)
    assert content(machine_b.corpus("web")) == content(folder)


def test_a_missing_part_is_refused(machine_a: Store, machine_b: Store, address: str) -> None:
    folder = make_version(machine_a, 1, "first")
    machine_a.upload(folder)
    name = object_of(folder, 11)
    fsspec.filesystem("s3").rm_file(f"{address.removeprefix('s3://')}/{name}")
    with pytest.raises(ValueError, match=rf"{name}.*does not exist"):
        machine_b.corpus("web")
    assert not (machine_b.corpora / "web" / "1").exists()


@pytest.mark.parametrize(
    "listing",
    [
        b"{",
        b'{"layout": 2, "files": [{"path": "../../evil", "num_bytes": 1, "sha256": "%s"}]}' % (b"0" * 64),
        b'{"files": [{"path": "documents/bucket-000.parquet", "num_bytes": 1, "sha256": "%s"}]}' % (b"0" * 64),
    ],
)
def test_a_damaged_list_of_files_is_refused(
    machine_a: Store, machine_b: Store, address: str, listing: bytes, tmp_path: Path
) -> None:
    machine_a.upload(make_version(machine_a, 1, "first"))
    name = next(name for name in objects(address) if "/files-" in name)
    fsspec.filesystem("s3").pipe_file(f"{address.removeprefix('s3://')}/{name}", listing)
    with pytest.raises(ValueError, match=r"files-[0-9a-f]{16}\.json is missing, damaged or of an earlier"):
        machine_b.corpus("web")
    assert not list(tmp_path.rglob("evil"))


def test_a_version_that_was_damaged_here_is_not_uploaded(machine_a: Store, address: str) -> None:
    folder = make_version(machine_a, 1, "first")
    (folder / "documents" / "bucket-002.parquet").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"bucket-002\.parquet is missing or damaged"):
        machine_a.upload(folder)
    assert objects(address) == {}


def sent_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are sent from now on."""
    sent: list[str] = []
    real = tasks.remote.put

    def counted(filesystem: object, *, sources: list[str], targets: list[str]) -> None:
        sent.extend(f"{Path(source).parents[1].name}/{Path(source).name}" for source in sources)
        real(filesystem, sources=sources, targets=targets)

    monkeypatch.setattr(tasks.remote, "put", counted)
    return sent


def test_what_two_versions_share_is_sent_once(
    machine_a: Store, machine_b: Store, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_version(machine_a, 1, "first")
    machine_a.upload(first)
    before = objects(address)
    sent = sent_files(monkeypatch)
    second = make_version(machine_b, 2, "first", changed={7: "another"})
    machine_b.upload(second)  # whichever machine has sent it
    assert sent == ["2/bucket-007.parquet"]
    new = {name for name in objects(address) if name not in before}
    assert {name for name in new if name.startswith("objects/")} == {object_of(second, 7)}
    assert len(new) == 3, "with the list and the manifest"
    for version, folder in ((1, first), (2, second)):
        other = Store.open(machine_a.root.parent / f"other-{version}", address)
        assert content(other.corpus(f"web@{version}")) == content(folder)


def test_what_another_version_has_here_is_not_fetched(
    machine_a: Store, machine_b: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_a.upload(make_version(machine_a, 1, "first"))
    first = machine_b.corpus("web@1")
    second = make_version(machine_a, 2, "first", changed={7: "another"})
    machine_a.upload(second)
    damaged = first / "documents" / "bucket-009.parquet"
    damaged.write_bytes(b"not what the manifest says")
    fetched: list[str] = []
    fetch_file = Remote._fetch_file
    monkeypatch.setattr(
        Remote,
        "_fetch_file",
        lambda self, there, file, target: (fetched.append(file.path), fetch_file(self, there, file, target)),
    )
    taken = machine_b.corpus("web@2")
    assert content(taken) == content(second)
    assert fetched == ["documents/bucket-007.parquet", f"documents/{damaged.name}"]
    assert (taken / "documents" / "bucket-008.parquet").samefile(first / "documents" / "bucket-008.parquet")


def test_the_same_content_in_one_version_is_sent_once(
    machine_a: Store, machine_b: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine_a.root / "tokens" / "some"
    folder.mkdir(parents=True)
    for name in ("bucket-000.bin", "bucket-001.bin", "bucket-002.bin"):
        (folder / name).write_bytes(b"")
    (folder / MANIFEST).write_text("{}")
    sent = sent_files(monkeypatch)
    machine_a.upload(folder)
    assert len(sent) == 1
    assert machine_b.fetch(machine_b.tokens / "some")
    assert content(machine_b.tokens / "some") == content(folder)


def documents(address: str) -> set[str]:
    return {name for name in objects(address) if name.startswith("objects/")}


def test_what_is_withdrawn_goes_with_what_it_alone_had(machine_a: Store, machine_b: Store, address: str) -> None:
    first = make_version(machine_a, 1, "first")
    second = make_version(machine_a, 2, "first", changed={3: "another"})
    for folder in (first, second):
        machine_a.upload(folder)
    machine_a.withdraw(first)
    machine_a.withdraw(first)
    assert machine_b.versions("web") == [2]
    assert not [name for name in objects(address) if name.startswith("corpora/web/1/")]
    assert documents(address) == {object_of(second, bucket) for bucket in range(NUM_BUCKETS)}
    assert content(machine_b.corpus("web@2")) == content(second)
    assert (first / MANIFEST).is_file(), "the folder here stays"
    machine_a.withdraw(second)
    assert objects(address) == {}
    machine_a.upload(first)
    assert machine_b.versions("web") == [1, 2], "the second is here"
    assert content(machine_b.corpus("web@1")) == content(first)


def test_what_an_unfinished_upload_counts_on_stays(machine_a: Store, machine_b: Store, address: str) -> None:
    first = make_version(machine_a, 1, "first")
    machine_a.upload(first)
    second = make_version(machine_b, 2, "first", changed={3: "another"})
    run_killed(machine_b, "store.upload(store.corpora / 'web' / '2')", "tasks.remote, 'put'", 1)
    machine_a.withdraw(first)
    machine_b.upload(second)
    assert content(machine_a.corpus("web@2")) == content(second)
    run_killed(machine_b, "store.withdraw(store.corpora / 'web' / '2')", "tasks.remote, 'remove'", 5)
    assert machine_a.remote_manifest(machine_a.corpora / "web" / "2") is None and documents(address)
    machine_b.withdraw(second)
    assert objects(address) == {}


def test_a_purged_version_takes_the_place_of_the_earlier(machine_a: Store, machine_b: Store, address: str) -> None:
    before = make_version(machine_a, 1, "first")
    other = make_version(machine_a, 2, "first", changed={5: "else"})
    for folder in (before, other):
        machine_a.upload(folder)
    gone, shared = object_of(before, 5), object_of(before, 4)
    shutil.rmtree(before)
    purged = make_version(machine_a, 1, "first", changed={5: "purged", 4: "purged"})
    machine_a.replace(purged)
    assert content(machine_b.corpus("web@1")) == content(purged)
    assert content(machine_b.corpus("web@2")) == content(other)
    assert gone not in documents(address) and shared in documents(address), "the other version still names it"
    after = objects(address)
    machine_a.replace(purged)
    machine_a.upload(purged)
    assert objects(address) == after


@pytest.mark.parametrize(("victim", "calls"), [("tasks.remote, 'put'", 1), ("tasks.remote, 'remove'", 3)])
def test_a_replacement_that_was_killed_is_completed(
    machine_a: Store, machine_b: Store, address: str, victim: str, calls: int
) -> None:
    before = make_version(machine_a, 1, "first")
    machine_a.upload(before)
    shutil.rmtree(before)
    purged = make_version(machine_a, 1, "purged")
    run_killed(machine_a, "store.replace(store.corpora / 'web' / '1')", victim, calls)
    assert machine_b.versions("web") == [1], "the name is never free"
    machine_a.replace(purged)
    assert content(machine_b.corpus("web@1")) == content(purged)
    assert documents(address) == {object_of(purged, bucket) for bucket in range(NUM_BUCKETS)}


def test_nothing_is_removed_while_a_list_cannot_be_read(machine_a: Store, address: str) -> None:
    first, second = make_version(machine_a, 1, "first"), make_version(machine_a, 2, "second")
    for folder in (first, second):
        machine_a.upload(folder)
    before = documents(address)
    name = next(name for name in objects(address) if name.startswith("corpora/web/2/files-"))
    fsspec.filesystem("s3").pipe_file(f"{address.removeprefix('s3://')}/{name}", b"{")
    with pytest.raises(ValueError, match=r"corpora/web/2/files-.*missing, damaged or of an earlier program"):
        machine_a.withdraw(first)
    assert documents(address) == before


def test_what_lies_under_a_version_without_a_manifest_gives_way(machine_a: Store, machine_b: Store) -> None:
    folder = make_version(machine_a, 1, "first")
    machine_a.upload(folder)
    shutil.copytree(folder, machine_b.corpora / "web" / "1", ignore=shutil.ignore_patterns(MANIFEST))
    (machine_b.corpora / "web" / "1" / "stray").write_text("no part of it")
    assert content(machine_b.corpus("web")) == content(folder)


def test_another_storage_of_fsspec_serves_too(tmp_path: Path) -> None:
    address = f"memory://{uuid.uuid4().hex}"
    one, two = (Store.open(tmp_path / name, address) for name in ("one", "two"))
    one.check_remote()
    folder = make_version(one, 1, "first")
    one.upload(folder)
    assert content(two.corpus("web")) == content(folder)
    with pytest.raises(TakenError):
        two.upload(make_version(Store.open(tmp_path / "two"), 1, "second"))
    one.replace(make_version(one, 1, "purged"))
    assert content(Store.open(tmp_path / "three", address).corpus("web")) == content(folder)
    one.withdraw(folder)
    assert objects(address) == {}


def test_an_empty_remote_is_fine_and_a_bucket_that_is_not_there_is_told(tmp_path: Path, machine_a: Store) -> None:
    machine_a.check_remote()
    assert machine_a.names() == [] and machine_a.versions("web") == []
    absent = Store.open(tmp_path / "c", "s3://no-such-bucket/prefix")
    with pytest.raises(ValueError, match=r"s3://no-such-bucket/prefix cannot be reached \(NoSuchBucket") as error:
        absent.check_remote()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="NoSuchBucket"):
        absent.versions("web")


def test_an_endpoint_where_nobody_answers_is_told_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    s3 = fsspec.get_filesystem_class("s3")
    s3.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"remote store s3://some/x cannot be reached .*127\.0\.0\.1") as error:
        Store.open(tmp_path / "a", "s3://some/x").check_remote()
    s3.clear_instance_cache()
    assert time.monotonic() - started < 10
    assert "\n" not in str(error.value) and "a-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("bucket/prefix", "no object store"),
        ("/a/folder", "no object store"),
        ("file:///a/folder", "no object store"),
        ("https://example.org/", "no object store"),
        ("s3://", "no object store"),
        ("nosuch://bucket", "nosuch"),
        ("s3://key:a-secret@bucket/prefix", "credentials"),
    ],
)
def test_what_can_be_no_remote_is_refused(tmp_path: Path, wrong: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        Store.open(tmp_path, wrong)
    assert "a-secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_store_without_a_remote_keeps_to_itself(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    folder = make_version(store, 1, "first")
    store.upload(folder)
    store.replace(folder)
    store.withdraw(folder)
    store.check_remote()
    assert store.corpus("web") == folder
    assert store.remote_folders(store.tokens) == [] and store.remote_manifest(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == ["corpora"]


def test_a_version_that_was_not_sent_is_sent_before_the_next_one_is_planned(
    machine_a: Store, machine_b: Store, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", 3)

    def plan(store: Store, *, write: bool = True) -> Refresh:
        return Refresh.plan(store, "web", [str(source)], fineweb(), write=write)

    make_version(machine_a, 1, "first")  # its upload has failed
    plan(machine_a, write=False)
    assert not machine_b.versions("web")
    assert plan(machine_a).version == 2 and machine_b.versions("web") == [1]

    make_version(machine_a, 2, "of a")
    machine_b.upload(make_version(machine_b, 2, "of b"))
    with pytest.raises(TakenError):  # rather than a third version made of another second one
        plan(machine_a)
