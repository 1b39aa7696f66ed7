"""What can be a remote, and what is said of one that cannot be reached."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from tasks.recipes.curation import fineweb
from tasks.refresh import Refresh
from tasks.remote import TakenError
from tasks.store import Store
from tests.data.prose import write_jsonl
from tests.tasks.remote.machines import content, make_version
from tests.tasks.s3_server import objects


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
