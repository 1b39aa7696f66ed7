"""What a version's manifest says of its size, and that a broken-off copy to the remote is made up for."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.publish import Bucket, publish_bucket, publish_version
from tasks.refresh import Refresh
from tasks.store import Store
from tasks.tables import DOCUMENTS, EDITS, LEDGER
from tests.data.prose import corpus_members
from tests.tasks.test_curation import refresh_in_process, rows, small_recipe


def settled(folder: Path, texts: dict[str, str]) -> Path:
    """A settled shard that keeps these texts, by document id."""
    folder.mkdir(parents=True)
    tables = {
        "documents": (DOCUMENTS, [{"document_id": key, "text": text} for key, text in texts.items()]),
        "ledger": (LEDGER, [{"record_id": key, "outcome": "kept"} for key in texts]),
        "edits": (EDITS, []),
    }
    for name, (schema, entries) in tables.items():
        pq.write_table(pa.Table.from_pylist(entries, schema=schema), folder / f"{name}.parquet")
    return folder


def test_text_is_counted_in_bytes_and_a_token_is_four(tmp_path: Path) -> None:
    low, middle, high = (f"{digits:032x}-0" for digits in (1, 2, 2**127))
    versions = ({low: "ä" * 5, high: "b" * 93}, {low: "c"}, {low: "c", middle: "d" * 99})
    store, manifests = Store.open(tmp_path / "store"), []
    for index, texts in enumerate(versions):
        shards = (settled(tmp_path / str(index) / "settled", texts),)
        buckets = [tmp_path / str(index) / f"bucket-{number}" for number in range(2)]
        for number, bucket in enumerate(buckets):
            bucket.mkdir()
            publish_bucket(Bucket(number, 2, shards), bucket)
        manifests.append(publish_version(store, "small", buckets, {})[1])
    assert [manifest["text_bytes"] for manifest in manifests] == [103, 1, 100]
    assert [manifest["estimated_tokens"] for manifest in manifests] == [25, 0, 25]
    assert [manifest["new_estimated_tokens"] for manifest in manifests] == [25, 0, 25]


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
