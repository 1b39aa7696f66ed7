"""What a version's manifest says of its parts and size, and that a broken-off copy to the remote is made up for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.bucket import buckets
from tasks.dedup.index import INDEX_FILE, KEYS_FILE
from tasks.publish import publish_version
from tasks.refresh import Refresh
from tasks.remote import TakenError
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.seal import SealBucket, seal_bucket
from tasks.settle import ORIGINALS_FILE, LedgerError
from tasks.store import Store
from tasks.tables import DOCUMENTS, EDITS, LEDGER, ORIGINALS
from tests.data.prose import corpus_members
from tests.tasks.test_curation import refresh_in_process, rows, small_recipe


def sealed(folder: Path, texts: dict[str, str]) -> list[tuple[SealBucket, Path]]:
    """Two finished buckets that hold these texts by document id, and their seals."""
    result = []
    for bucket in buckets(2):
        low, high = bucket.bounds()
        documents = [{"document_id": key, "text": text} for key, text in sorted(texts.items()) if low <= key < high]
        tables, seal = folder / f"tables-{bucket.index}", folder / f"seal-{bucket.index}"
        for each in (tables, seal):
            each.mkdir(parents=True)
        contents = {
            DOCUMENTS_FILE: (DOCUMENTS, documents),
            ORIGINALS_FILE: (ORIGINALS, []),
            LEDGER_FILE: (LEDGER, [{"record_id": row["document_id"], "outcome": "kept"} for row in documents]),
            EDITS_FILE: (EDITS, []),
            INDEX_FILE: (pa.schema([("document_id", pa.string())]), []),
        }
        for name, (schema, entries) in contents.items():
            pq.write_table(pa.Table.from_pylist(entries, schema=schema), tables / name)
        np.save(tables / KEYS_FILE, np.empty(0), allow_pickle=False)
        item = SealBucket(bucket, tables, tables, None, {})
        seal_bucket(item, seal)
        result.append((item, seal))
    return result


def test_text_is_counted_in_bytes_and_a_token_is_four(tmp_path: Path) -> None:
    low, middle, high = (f"{digits:032x}-0" for digits in (1, 2, 2**127))
    versions = ({low: "ä" * 5, high: "b" * 93}, {low: "c"}, {low: "c", middle: "d" * 99})
    store, manifests = Store.open(tmp_path / "store"), []
    for version, texts in enumerate(versions, start=1):
        manifests.append(publish_version(store, "small", version, sealed(tmp_path / str(version), texts), {})[1])
    assert [manifest["text_bytes"] for manifest in manifests] == [103, 1, 100]
    assert [manifest["estimated_tokens"] for manifest in manifests] == [25, 0, 25]
    assert [manifest["new_estimated_tokens"] for manifest in manifests] == [25, 0, 25]


def test_a_version_that_another_machine_has_published_is_not_published_over(tmp_path: Path) -> None:
    """What was planned onto version 1 lacks what that machine's version 2 has brought."""
    remote = f"memory://{tmp_path.name}"
    here, there = (Store.open(tmp_path / name, remote) for name in ("here", "there"))
    for store, version in ((here, 1), (there, 2)):
        publish_version(store, "small", version, sealed(tmp_path / str(version), {f"{version:032x}-0": "text"}), {})
    with pytest.raises(TakenError, match="small@2 has been published by another machine meanwhile: run the same again"):
        publish_version(here, "small", 2, sealed(tmp_path / "again", {f"{3:032x}-0": "text"}), {})
    assert [path.name for path in (here.corpora / "small").iterdir()] == ["1"]


def test_documents_that_are_not_the_kept_ledger_rows_are_a_fault(tmp_path: Path) -> None:
    (item, _), _ = sealed(tmp_path, {f"{1:032x}-0": "text"})
    pq.write_table(LEDGER.empty_table(), item.tables / LEDGER_FILE)
    with pytest.raises(LedgerError, match="bucket 0: the kept ledger rows are not the documents"):
        seal_bucket(item, tmp_path)


def test_every_part_is_described_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "1.warc.gz").write_bytes(b"".join(corpus_members(24)))
    path, manifest, _ = refresh_in_process(tmp_path / "store", tmp_path / "1.warc.gz")
    parts = {part["path"]: part for part in manifest["parts"]}
    assert set(parts) == {name for bucket in buckets(4) for name in bucket.paths()}
    assert set(parts) == {str(file.relative_to(path)) for file in path.glob("*/*")}
    for name, part in parts.items():
        file = path / name
        assert part["bytes"] == file.stat().st_size
        assert part["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert part["rows"] == (len(np.load(file)) if file.suffix == ".npy" else pq.read_metadata(file).num_rows)
        if name.startswith("documents"):
            assert part["text_bytes"] == sum(len(text.encode()) for text in pq.read_table(file)["text"].to_pylist())
    assert manifest["clusters"]["num_documents"] == sum(
        part["rows"] for name, part in parts.items() if name.startswith("index") and name.endswith(".parquet")
    )


def test_the_figures_are_those_of_the_published_documents(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "1.warc.gz").write_bytes(b"".join(corpus_members(8)))
    _, first, _ = refresh_in_process(tmp_path / "store", tmp_path / "watched")
    (tmp_path / "watched" / "2.warc.gz").write_bytes(b"".join(corpus_members(14)[8:]))
    path, second, _ = refresh_in_process(tmp_path / "store", tmp_path / "watched")
    assert second["text_bytes"] == sum(len(row["text"].encode()) for row in rows(path, "documents")) > 0
    assert second["new_estimated_tokens"] == second["estimated_tokens"] - first["estimated_tokens"] > 0


def test_a_version_is_copied_to_the_remote_and_a_broken_off_copy_is_completed(tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    store = Store.open(tmp_path / "store", f"memory://{tmp_path.name}")
    (tmp_path / "1.warc.gz").write_bytes(b"".join(corpus_members(4)))
    refresh_in_process(store.root, tmp_path / "1.warc.gz")
    sources = [str(tmp_path / "1.warc.gz")]
    # published without a remote, as if the copy was cut off; an estimate writes nothing there either
    Refresh.plan(store, "small", sources, small_recipe(), write=False)
    assert not remote.glob(f"/{tmp_path.name}/**/manifest.json")
    refresh = Refresh.plan(store, "small", sources, small_recipe())
    assert refresh.published() is not None
    assert len(remote.glob(f"/{tmp_path.name}/**/manifest.json")) == 1
