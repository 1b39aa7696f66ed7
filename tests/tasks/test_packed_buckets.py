"""Which buckets of a published folder another version may link."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.pack
from tasks.manifest import MANIFEST
from tasks.pack import write_token_manifest
from tasks.packed_buckets import BucketToPack, bucket_files, pack_shard, packed_buckets, read_shard
from tasks.store import Store
from tasks.tokenizer import (
    TOKENIZER_FILE,
    HeldOutSplit,
    TokenizerConfig,
    bucket_split,
    corpus_files,
    save_tokenizer,
    train_tokenizer,
)
from tests.tasks.token_corpora import NUM_BUCKETS, TEXTS, make_corpus

EXCEPTION = next(iter(TEXTS))
SPLIT = HeldOutSplit(fraction=1e-9, always_held_out=(EXCEPTION,))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A published folder of all buckets."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    tokenizer_file = folder / TOKENIZER_FILE
    save_tokenizer(train_tokenizer(TEXTS.values(), TokenizerConfig(vocab_size=300)), tokenizer_file)
    reports = []
    for file in corpus_files(make_corpus(Store.open(tmp_path / "store"))):
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        report = pack_shard(
            BucketToPack(file, sha256, bucket_split(file, SPLIT)), folder, tokenizer_file=tokenizer_file
        )
        assert report.records_in == report.kept == 10
        packed, was_linked = read_shard(folder)
        assert not was_linked
        reports.append(packed.report)
    write_token_manifest(folder, reports, tokenizer_file=tokenizer_file, corpus_digest="c0ffee", split=SPLIT)
    return folder


def tokenizer_of(tokens: Path) -> str:
    return hashlib.sha256((tokens / TOKENIZER_FILE).read_bytes()).hexdigest()


def found(tokens: Path, fraction: float = SPLIT.fraction) -> list[str]:
    return [packed.report.bucket for packed in packed_buckets(tokens, tokenizer_of(tokens), fraction)]


def test_all_that_were_packed_just_so(tokens: Path) -> None:
    reports = [packed.report for packed in packed_buckets(tokens, tokenizer_of(tokens), SPLIT.fraction)]
    assert len(reports) == NUM_BUCKETS and len({report.documents_sha256 for report in reports}) == NUM_BUCKETS
    assert [report.exceptions for report in reports] == [(EXCEPTION,), (), (), ()]
    assert all((tokens / name).is_file() for report in reports for name in bucket_files(report.bucket))


def test_none_of_another_tokenizer_share_or_code(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tokens, 0.5) == []
    assert packed_buckets(tokens, "0" * 64, SPLIT.fraction) == []
    monkeypatch.setattr(tasks.pack, "code_version", lambda *modules: "other code")
    assert found(tokens) == []


@pytest.mark.parametrize(("changed", "is_linked"), [("", True), ("a text", False), ("a URL", False)])
def test_a_bucket_with_the_same_rows_is_linked(tokens: Path, tmp_path: Path, changed: str, is_linked: bool) -> None:
    others = tuple(packed_buckets(tokens, tokenizer_of(tokens), SPLIT.fraction))
    texts = {**TEXTS, EXCEPTION: "other"} if changed == "a text" else TEXTS
    file = corpus_files(make_corpus(Store.open(tmp_path / "next"), 1, texts, cluster_size=3))[0]
    if changed == "a URL":
        table = pq.read_table(file)
        urls = pa.array(["http://example.com/"] * len(table))
        pq.write_table(table.set_column(table.schema.get_field_index("url"), "url", urls), file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert sha256 not in {other.report.documents_sha256 for other in others}
    directory = tmp_path / "shard"
    directory.mkdir()
    bucket = BucketToPack(file, sha256, bucket_split(file, SPLIT), others[:1])
    pack_shard(bucket, directory, tokenizer_file=tokens / TOKENIZER_FILE)
    packed, was_linked = read_shard(directory)
    assert was_linked is is_linked
    assert packed.report.documents_sha256 == sha256
    name = "bucket-000.train.parquet"
    assert (directory / name).samefile(tokens / name) is is_linked


def test_none_whose_files_are_cut_or_gone(tokens: Path) -> None:
    (tokens / "bucket-001.train.parquet").unlink()
    file = tokens / "bucket-002.train.bin"
    file.write_bytes(file.read_bytes()[:-2])
    assert found(tokens) == ["bucket-000", "bucket-003"]


def test_none_of_an_unfinished_folder_and_a_damaged_one_is_named(tokens: Path) -> None:
    sha256 = tokenizer_of(tokens)
    (tokens / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON .* remove that folder"):
        packed_buckets(tokens, sha256, SPLIT.fraction)
    (tokens / MANIFEST).unlink()
    assert packed_buckets(tokens, sha256, SPLIT.fraction) == []
