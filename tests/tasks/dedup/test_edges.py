from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.edges import band_edges, equal_rows, exact_edges, read_edges
from tasks.dedup.signature import MinHash
from tasks.dedup.signature_file import SignatureFileError, open_signature_files, write_signatures

CONFIG = MinHash(num_bands=2, rows_per_band=1, shingle_words=1)


def keys(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.uint64).reshape(len(rows), -1)


def test_equal_rows_join_to_the_first_of_their_group() -> None:
    assert equal_rows(keys((7,), (5,), (7,), (9,), (5,), (7,))).tolist() == [[1, 4], [0, 2], [0, 5]]
    assert equal_rows(keys((1, 2), (2, 1), (1, 2), (1, 3))).tolist() == [[0, 2]]
    assert equal_rows(keys((2**64 - 1,), (0,), (2**64 - 1,))).tolist() == [[0, 2]]
    assert equal_rows(keys((1,))).tolist() == []
    assert equal_rows(np.empty((0, 4), dtype=np.uint64)).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_equal_rows_are_exactly_the_repetitions(rows: list[tuple[int, int]]) -> None:
    edges = equal_rows(keys(*rows)).tolist()
    assert sorted(edges) == sorted([rows.index(row), i] for i, row in enumerate(rows) if rows.index(row) != i)


@pytest.fixture
def signature_files(tmp_path: Path, shard_writer: Callable[..., Path]) -> list[Path]:
    paths = []
    for number, texts in enumerate([["x", "y", "X!"], ["x", "z"]]):
        rows = [(f"{number}-{index}", "", text) for index, text in enumerate(texts)]
        documents = shard_writer(rows, tmp_path / "documents.parquet")
        paths.append(tmp_path / f"signatures_{number}.parquet")
        write_signatures(documents, paths[-1], CONFIG)
    return paths


def test_edges_between_shards(tmp_path: Path, signature_files: list[Path]) -> None:
    assert band_edges(signature_files, 1, tmp_path / "band.parquet") == 2
    assert sorted(zip(*pq.read_table(tmp_path / "band.parquet").to_pydict().values(), strict=True)) == [(0, 2), (0, 3)]
    assert exact_edges(signature_files, tmp_path / "exact.parquet") == 1
    assert pq.read_table(tmp_path / "exact.parquet").to_pydict() == {"first": [0], "second": [3]}


def test_read_edges_keeps_each_pair_once(
    tmp_path: Path, signature_files: list[Path], edge_writer: Callable[..., list[Path]]
) -> None:
    edge_files = edge_writer(signature_files, tmp_path, 2)
    assert read_edges(edge_files, open_signature_files(signature_files)).tolist() == [[0, 2], [0, 3]]


@pytest.mark.parametrize("band", [-1, 2])
def test_refuses_a_band_that_is_not_there(tmp_path: Path, signature_files: list[Path], band: int) -> None:
    with pytest.raises(SignatureFileError, match="bands 0 to 1"):
        band_edges(signature_files, band, tmp_path / "edges.parquet")


def test_refuses_edges_of_other_files_and_missing_levels(
    tmp_path: Path, signature_files: list[Path], edge_writer: Callable[..., list[Path]]
) -> None:
    edge_files = edge_writer(signature_files, tmp_path, 2)
    for other in (signature_files[::-1], signature_files[:1]):
        with pytest.raises(SignatureFileError, match="make it again"):
            read_edges(edge_files, open_signature_files(other))
    files = open_signature_files(signature_files)
    for given_files in (edge_files[1:], edge_files[:-1], [*edge_files, edge_files[0]]):
        with pytest.raises(SignatureFileError, match="needed, once each"):
            read_edges(given_files, files)
    with pytest.raises(SignatureFileError, match="make it again"):  # any other Parquet file
        read_edges([*edge_files[:-1], signature_files[0]], files)
