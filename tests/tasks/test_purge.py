"""A purge: nothing of the documents is left in any file, all else stays what it was, and a kill harms nothing."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import purge
from tasks.atomic import link_file, write_json
from tasks.manifest import MANIFEST
from tasks.ports import InProcessMap
from tasks.purge import (
    finish_swaps,
    holds,
    purge_leftovers,
    purge_reports,
    purge_stage_outputs,
    purge_tokens,
    purge_versions,
)
from tasks.recipes.pretraining import smoke
from tasks.store import Store
from tasks.takedown import KnownVersion, TakedownQuery, find_documents
from tasks.tokenization import tokenize
from tasks.version_facts import corpus_digest
from tests.data.prose import prose
from tests.tasks.page_store import add, near_copy, row, table, take_down

AUDIT = "20260101T000000Z-abc123"
QUERY = TakedownQuery(domains=("bad.example",))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """web@1 and web@2 hold two pages of bad.example and a near copy; web@3 is the takedown; shards of web@2."""
    root = tmp_path_factory.mktemp("purge")
    store = Store.open(root / "store")
    pages = [
        row(1, "https://bad.example/1"),
        row(2, "https://bad.example/2"),
        row(near_copy(1), "https://m.example/1", "2025-01-01T00:00:00Z"),
    ]
    add(store, "web", [*pages, *(row(seed, f"https://good.example/{seed}") for seed in range(10, 22))])
    add(store, "web", [row(30, "https://good.example/30", "2025-01-01T00:00:00Z")])
    tokenize(store, store.corpus("web@2"), smoke(), InProcessMap())
    take_down(store, "web", QUERY, audit=AUDIT)
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made, tmp_path / "copy")
    return Store.open(tmp_path / "copy" / "store")


def found(store: Store) -> tuple[list[KnownVersion], list[str]]:
    """The older versions, and what is to be purged from them."""
    search = find_documents(store, QUERY)
    return [version for version in search.versions if version.number < 3], list(search.targets("cluster"))


def mentions(store: Store) -> set[str]:
    """Files in which a sentence of the purged pages can be read, by their folder's kind."""
    wanted = [prose(seed).splitlines()[0].encode() for seed in (1, 2)]
    places = set()
    for file in store.root.rglob("*"):
        if file.suffix == ".parquet":
            values = [str(value).encode() for one in pq.read_table(file).to_pylist() for value in one.values()]
            content = b"\0".join(values)
        else:
            content = file.read_bytes() if file.is_file() else b""
        if any(text in content for text in wanted):
            places.add(file.relative_to(store.root).parts[0])
    return places


def others(store: Store, reference: str, kind: str, ids: list[str]) -> list[dict[str, Any]]:
    key = "record_id" if kind == "ledger" else "document_id"
    return [one for one in table(store, reference, kind) if one[key] not in ids]


def test_nothing_is_left_of_the_texts_and_the_rest_is_untouched(store: Store) -> None:
    versions, ids = found(store)
    assert len(ids) == 3 and all(holds(version, ids) for version in versions)
    assert mentions(store) == {"corpora", "work"}
    before = {(v.reference, kind): others(store, v.reference, kind, ids) for v in versions for kind in purge._HOLDING}
    digests = {digest for version in versions for digest in version.digests}
    assert purge_versions(store, versions, ids, AUDIT) == ["web@1", "web@2"]
    assert len(purge_tokens(store, digests, ids)) == 1
    assert purge_stage_outputs(store, ids)
    assert mentions(store) == set()
    after = {(v.reference, kind): others(store, v.reference, kind, ids) for v in versions for kind in purge._HOLDING}
    assert after == before
    assert all(one["document_id"] not in ids for v in versions for one in table(store, v.reference, "edits"))


def test_the_manifest_of_a_purged_version_tells_what_is_there_now(store: Store) -> None:
    versions, ids = found(store)
    purge_versions(store, versions, ids, AUDIT)
    for version in versions:
        manifest = store.corpus_manifest(version.reference)
        folder = version.folder
        for part in manifest["parts"]:
            content = (folder / part["path"]).read_bytes()
            assert part["sha256"] == hashlib.sha256(content).hexdigest() and part["bytes"] == len(content)
        documents = sorted((folder / "documents").glob("*.parquet"))
        assert manifest["digest"] == corpus_digest(documents) != version.manifest["digest"]
        rows = table(store, version.reference, "documents")
        assert manifest["documents_kept"] == len(rows) == version.manifest["documents_kept"] - 2
        assert manifest["text_bytes"] == sum(len(one["text"].encode()) for one in rows)
        removed = sum(count for reasons in manifest["removed"].values() for count in reasons.values())
        assert removed + len(rows) == manifest["records_in"] == len(table(store, version.reference, "ledger"))
        assert manifest["removed"]["takedown"] == {"taken_down": 3} and "near_dedup" not in manifest["removed"]
        [purged] = manifest["purged"]
        assert purged["audit"] == AUDIT and purged["digest_before"] == version.manifest["digest"]
        assert purged["documents"] == 3
        hashes = {part["path"]: part["sha256"] for part in version.manifest["parts"]}
        now = {part["path"]: part["sha256"] for part in manifest["parts"]}
        assert {p["path"]: (p["sha256_before"], p["sha256"]) for p in purged["parts"]} == {
            path: (hashes[path], now[path]) for path in hashes if hashes[path] != now[path]
        }


def test_the_ledger_says_what_was_purged_and_the_search_still_knows_it(store: Store) -> None:
    versions, ids = found(store)
    purge_versions(store, versions, ids, AUDIT)
    details = {one["url"]: one["detail"] for one in table(store, "web@1", "ledger") if one["record_id"] in ids}
    assert details["https://bad.example/1"] == f"kept until purged: {AUDIT}"
    assert details["https://m.example/1"].startswith("near_duplicate of ")
    search = find_documents(store, QUERY)
    assert {record.url for record in search.copies} == {"https://m.example/1"}
    states = {record.url: record.versions["web@1"] for record in search.asked}
    assert {state.state for state in states.values()} == {"taken_down"}
    assert all(state.was_kept for state in states.values())
    assert [version for version in search.versions if holds(version, ids)] == []


def test_parts_that_nothing_was_purged_from_stay_one_file(store: Store) -> None:
    versions, ids = found(store)
    names = {v.reference: {part["path"]: part["sha256"] for part in v.manifest["parts"]} for v in versions}
    same = [path for path, sha256 in names["web@1"].items() if names["web@2"][path] == sha256]
    for path in same:  # copying the fixture has broken the links: tie them again
        (versions[1].folder / path).unlink()
        link_file(versions[0].folder / path, versions[1].folder / path)
    purge_versions(store, versions, ids, AUDIT)
    assert same
    for path in same:
        assert (versions[0].folder / path).samefile(versions[1].folder / path), path


def test_a_second_purge_finds_nothing_to_do(store: Store) -> None:
    versions, ids = found(store)
    purge_versions(store, versions, ids, AUDIT)
    manifests = [(version.folder / MANIFEST).read_bytes() for version in versions]
    versions, _ = found(store)
    assert purge_versions(store, versions, ids, "another") == []
    assert purge_versions(store, versions, ids, AUDIT) == ["web@1", "web@2"]  # it did that before
    assert [(version.folder / MANIFEST).read_bytes() for version in versions] == manifests


@pytest.mark.parametrize("at", ["building", "built", "between", "swapped"])
def test_a_killed_purge_leaves_the_old_or_the_new_and_the_next_one_ends_it(
    store: Store, tmp_path: Path, at: str
) -> None:
    """The states in which a kill can leave the folders, made by hand."""
    versions, ids = found(store)
    clean = tmp_path / "clean"
    shutil.copytree(store.root, clean)
    done = Store.open(clean)
    purge_versions(done, found(done)[0], ids, AUDIT)
    staged = store.root / "purge" / "web-1"
    staged.parent.mkdir()
    if at == "building":
        staged = staged.with_name(".tmp-web-1-12345678")
    shutil.copytree(clean / "corpora" / "web" / "1", staged)
    if at == "between":  # without RENAME_EXCHANGE: the old one is out of the way, the new one not there
        versions[0].folder.rename(staged.with_name("web-1.before"))
    if at == "swapped":
        purge._exchanged(staged, versions[0].folder)
    finish_swaps(store)
    assert list((store.root / "purge").iterdir()) == []
    assert store.versions("web") == [1, 2, 3]
    purge_versions(store, found(store)[0], ids, AUDIT)
    for reference in ("web@1", "web@2"):
        ours, theirs = store.corpus_manifest(reference), done.corpus_manifest(reference)
        assert ours["digest"] == theirs["digest"] and ours["parts"] == theirs["parts"]


def test_without_exchange_two_renames_do_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, ids = found(store)
    monkeypatch.setattr(purge, "_exchanged", lambda one, other: False)  # as on NFS
    assert purge_versions(store, versions, ids, AUDIT) == ["web@1", "web@2"]
    assert list((store.root / "purge").iterdir()) == []
    assert not any(holds(version, ids) for version in found(store)[0])


def test_shards_of_tokens_without_them_stay(store: Store) -> None:
    versions, ids = found(store)
    tokenize(store, store.corpus("web@3"), smoke(), InProcessMap())
    folders = {folder.name for folder in store.tokens.iterdir()}
    [removed] = purge_tokens(store, {versions[1].manifest["digest"]}, ids)
    assert {folder.name for folder in store.tokens.iterdir()} == folders - {removed}
    assert removed.startswith(versions[1].manifest["digest"][:16])


def test_stage_outputs_that_list_a_purged_shard_go_and_a_refresh_still_works(store: Store) -> None:
    _, ids = found(store)
    removed = purge_stage_outputs(store, ids)
    assert {name.split("/")[1] for name in removed} >= {"read", "extract", "quality", "gather", "tokens"}
    assert purge_stage_outputs(store, ids) == []
    manifest = add(store, "web", [row(40, "https://good.example/40", "2026-01-01T00:00:00Z")])
    assert manifest["base"] == 3 and manifest["version"] == 4


def test_the_remote_becomes_what_the_store_is(made: Path, tmp_path: Path) -> None:
    """Also what only the remote has, and also after a kill between the swap here and the upload."""
    address = f"memory://{uuid.uuid4().hex}"
    shutil.copytree(made, tmp_path / "copy")
    store = Store.open(tmp_path / "copy" / "store", address)
    for folder in [*(store.corpora / "web").iterdir(), *store.tokens.iterdir()]:
        store.upload(folder)
    store = Store.open(tmp_path / "another", address)  # a machine that has nothing yet
    versions, ids = found(store)
    digests = {digest for version in versions for digest in version.digests}
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "replace", _interrupted)
        purge_versions(store, versions, ids, AUDIT)
    assert _remote_digest(tmp_path, address) == versions[0].manifest["digest"]
    assert purge_versions(store, found(store)[0], ids, AUDIT) == ["web@1", "web@2"]
    assert len(purge_tokens(store, digests, ids)) == 1 and store.remote_folders(store.tokens) == []
    assert _remote_digest(tmp_path, address) == store.corpus_manifest("web@1")["digest"]
    fetched = Store.open(tmp_path / "third", address)
    assert not any(holds(version, ids) for version in found(fetched)[0])


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _remote_digest(tmp_path: Path, address: str) -> str:
    digest: str = Store.open(tmp_path / uuid.uuid4().hex, address).corpus_manifest("web@1")["digest"]
    return digest


def test_what_killed_writers_left_goes_whatever_it_holds(store: Store) -> None:
    left = [
        store.work / "extract" / "shards" / ".tmp-abc-1",
        store.corpora / "web" / ".tmp-4-1",
        store.tokens / ".tmp-x",
    ]
    for folder in left:
        folder.mkdir()
        (folder / ".tmp-documents.parquet").write_bytes(b"PAR1")
    (store.work / ".tmp-manifest.json-1").write_bytes(b"{")
    purge_leftovers(store)
    assert not list(store.root.rglob(".tmp-*")) and store.versions("web") == [1, 2, 3]


def test_reports_that_show_a_document_go(store: Store) -> None:
    _, ids = found(store)
    reports = store.root / "reports"
    reports.mkdir()
    (reports / "web@1--web@2.html").write_text(f"<p>{ids[0]}</p>")
    (reports / "other@1--other@2.html").write_text(f"<p>{'0' * 32}-0</p>")
    assert purge_reports(store, ids) == ["web@1--web@2.html"]
    assert [file.name for file in reports.iterdir()] == ["other@1--other@2.html"]


def test_a_folder_of_another_program_does_not_stop_a_purge(store: Store) -> None:
    _, ids = found(store)
    strange = store.work / "read" / ("a" * 20)
    strange.mkdir()
    write_json(strange / MANIFEST, {"schema_version": 99})
    assert purge_stage_outputs(store, ids)
    assert strange.is_dir()
