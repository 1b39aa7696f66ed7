"""What is withdrawn or replaced at the remote, and what must stay there meanwhile."""

from __future__ import annotations

import shutil

import fsspec
import pytest

from tasks.manifest import MANIFEST
from tasks.store import Store
from tests.tasks.remote.machines import NUM_BUCKETS, content, documents, make_version, object_of, run_killed
from tests.tasks.s3_server import objects


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
