"""What one machine publishes another reads: races, kills, damage, and nothing sent or fetched twice."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

import tasks.remote
from tasks.manifest import MANIFEST
from tasks.remote import Remote, TakenError
from tasks.store import Store
from tests.tasks.remote.machines import NUM_BUCKETS, content, make_version, object_of, run_killed
from tests.tasks.s3_server import objects


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
