from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.dedup import signature_file
from tasks.dedup.exact import text_sha256
from tasks.dedup.signature import MinHash, bands, signatures
from tasks.dedup.signature_file import (
    SignatureFileError,
    band_column,
    binary_to_hashes,
    open_signature_files,
    write_signatures,
)

CONFIG = MinHash(num_bands=3, rows_per_band=2, shingle_words=2)
TEXTS = ["a b c", "", "ünï cödé 漢字", "a b c d"]


def shard(*texts: str, prefix: str = "d") -> list[tuple[str, str, str]]:
    return [(f"{prefix}{number}", "2024-05-01T12:00:00Z", text) for number, text in enumerate(texts)]


def test_holds_what_the_functions_say(tmp_path: Path, shard_writer: Callable[..., Path]) -> None:
    documents = shard_writer(shard(*TEXTS), tmp_path / "documents.parquet")
    assert write_signatures(documents, tmp_path / "s.parquet", CONFIG) == 4
    table = pq.read_table(tmp_path / "s.parquet")
    assert table["document_id"].to_pylist() == ["d0", "d1", "d2", "d3"]
    assert table["text_sha256"].to_pylist() == [text_sha256(text) for text in TEXTS]
    expected = signatures(TEXTS, CONFIG)
    assert np.array_equal(binary_to_hashes(table["signature"]), expected)
    for band in range(3):
        assert table[band_column(band)].to_pylist() == bands(expected, CONFIG)[:, band].tolist()
    assert open_signature_files([tmp_path / "s.parquet"]).config == CONFIG


def test_batches_and_row_groups_do_not_show(
    tmp_path: Path, shard_writer: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = shard_writer(shard(*TEXTS * 5), tmp_path / "documents.parquet")
    write_signatures(documents, tmp_path / "one.parquet", CONFIG)
    monkeypatch.setattr(signature_file, "DOCUMENTS_PER_BATCH", 3)
    pq.write_table(pq.read_table(documents), documents, row_group_size=7)
    write_signatures(documents, tmp_path / "many.parquet", CONFIG)
    assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / "many.parquet"))
    one, many = (open_signature_files([tmp_path / name]).identity for name in ("one.parquet", "many.parquet"))
    assert one == many


def test_rows_of_several_files(tmp_path: Path, shard_writer: Callable[..., Path]) -> None:
    paths = []
    for number, texts in enumerate([TEXTS[:2], [], TEXTS[2:]]):
        documents = shard_writer(shard(*texts, prefix=f"{number}-"), tmp_path / "documents.parquet")
        paths.append(tmp_path / f"{number}.parquet")
        write_signatures(documents, paths[-1], CONFIG)
    files = open_signature_files(paths)
    assert files.starts.tolist() == [0, 2, 2, 4]
    assert files.column("document_id").to_pylist() == ["0-0", "0-1", "2-0", "2-1"]
    taken = [
        (part, table["document_id"].to_pylist()) for part, table in files.take(np.array([1, 2, 3]), ["document_id"])
    ]
    assert taken == [(slice(0, 1), ["0-1"]), (slice(1, 3), ["2-0", "2-1"])]
    assert list(files.take(np.array([], dtype=np.int64), ["document_id"])) == []
    assert open_signature_files(paths[::-1]).identity != files.identity


def test_binary_to_hashes_of_slices_and_chunks() -> None:
    column = pa.array([bytes([number] * 16) for number in range(4)], pa.binary(16))
    expected = [[int.from_bytes(bytes([number] * 8), "little")] * 2 for number in range(4)]
    assert binary_to_hashes(column.slice(1, 2)).tolist() == expected[1:3]
    assert binary_to_hashes(pa.chunked_array([column.slice(2), column.slice(0, 1)])).tolist() == [
        *expected[2:],
        expected[0],
    ]
    assert binary_to_hashes(column.slice(0, 0)).shape == (0, 2)


def test_refuses_other_columns_nulls_and_repeated_ids(tmp_path: Path, shard_writer: Callable[..., Path]) -> None:
    documents = tmp_path / "documents.parquet"
    pq.write_table(pa.table({"document_id": ["a"], "body": ["x"]}), documents)
    with pytest.raises(SignatureFileError, match="no column date, text"):
        write_signatures(documents, tmp_path / "s.parquet", CONFIG)
    pq.write_table(pa.table({"document_id": ["a", "b"], "text": ["x", None], "date": ["", ""]}), documents)
    with pytest.raises(SignatureFileError, match="column text has nulls"):
        write_signatures(documents, tmp_path / "s.parquet", CONFIG)
    shard_writer([("a", "", "x"), ("a", "", "y")], documents)
    with pytest.raises(SignatureFileError, match="document_id a occurs twice"):
        write_signatures(documents, tmp_path / "s.parquet", CONFIG)
    # what the failed write left behind is not taken for a signature file
    with pytest.raises(SignatureFileError, match="interrupted write"):
        open_signature_files([tmp_path / "s.parquet"])


def test_refuses_files_that_do_not_belong_together(tmp_path: Path, shard_writer: Callable[..., Path]) -> None:
    documents = shard_writer(shard(*TEXTS), tmp_path / "documents.parquet")
    write_signatures(documents, tmp_path / "one.parquet", CONFIG)
    write_signatures(documents, tmp_path / "two.parquet", CONFIG.model_copy(update={"seed": 2}))
    with pytest.raises(SignatureFileError, match=r"two\.parquet: written with .*\"seed\": 2.*write all shards again"):
        open_signature_files([tmp_path / "one.parquet", tmp_path / "two.parquet"])
    with pytest.raises(SignatureFileError, match="not a signature file"):
        open_signature_files([documents])
    with pytest.raises(SignatureFileError, match="no signature files"):
        open_signature_files([])
