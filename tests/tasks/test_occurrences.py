"""Occurrence numbers: whatever comes first, n records of one base id are its ids 0 to n - 1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.bucket import Bucket
from tasks.occurrences import number_occurrences, occurrences_by_shard
from tasks.read.shard import RECORDS_FILE
from tasks.tables import LEDGER, RECORDS

BASE_IDS = [f"{prefix}{'0' * 27}{digit}" for prefix, digit in itertools.product(("0000", "7fff", "8000", "ffff"), "12")]


def write_shards(folder: Path, shards: Sequence[Sequence[str]]) -> list[Path]:
    paths = [folder / f"shard-{index}" for index in range(len(shards))]
    for path, base_ids in zip(paths, shards, strict=True):
        path.mkdir(parents=True)
        rows = [dict.fromkeys(RECORDS.names) | {"base_id": base_id} for base_id in base_ids]
        pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), path / RECORDS_FILE, row_group_size=2)
    return paths


def write_ledgers(folder: Path, record_ids: Sequence[str], num_buckets: int) -> list[Path]:
    """The ledger parts of a version with these records."""
    folder.mkdir()
    paths = []
    for index in range(num_buckets):
        low, high = Bucket(index, num_buckets).bounds()
        rows = [dict.fromkeys(LEDGER.names) | {"record_id": each} for each in sorted(record_ids) if low <= each < high]
        paths.append(folder / f"{index}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER), paths[-1], row_group_size=2)
    return paths


def numbered(shards: list[Path], destination: Path, ledgers: Sequence[Path] = (), **options: int) -> list[str]:
    """The ids that the records of `shards` get, in their order."""
    num_repeated = number_occurrences(shards, destination, ledgers, **options)
    by_shard = occurrences_by_shard(destination)
    assert sum(map(len, by_shard.values())) == num_repeated
    assert all(number > 0 for pairs in by_shard.values() for _, number in pairs)
    return [
        f"{base_id}-{dict(by_shard.get(index, ())).get(row, 0)}"
        for index, shard in enumerate(shards)
        for row, base_id in enumerate(pq.read_table(shard / RECORDS_FILE)["base_id"].to_pylist())
    ]


@settings(max_examples=60)
@given(
    batches=st.lists(st.lists(st.lists(st.sampled_from(BASE_IDS), max_size=4), max_size=3), min_size=1, max_size=4),
    num_buckets=st.sampled_from([1, 2, 16]),
    max_ids=st.sampled_from([1, 3, 1000]),
)
def test_any_order_of_arrival_ends_with_the_same_ids(
    batches: list[list[list[str]]], num_buckets: int, max_ids: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        known: list[str] = []
        for batch, shards in enumerate(batches):
            ledgers = write_ledgers(folder / f"ledgers{batch}", known, num_buckets)
            paths = write_shards(folder / f"batch{batch}", shards)
            known += numbered(paths, folder / "numbers.parquet", ledgers, max_ids=max_ids)
        base_ids = [base_id for shards in batches for base_ids in shards for base_id in base_ids]
        expected = [f"{base_id}-{n}" for base_id in set(base_ids) for n in range(base_ids.count(base_id))]
        assert sorted(known) == sorted(expected)
        at_once = write_shards(folder / "at-once", [base_ids])
        assert sorted(numbered(at_once, folder / "numbers.parquet")) == sorted(expected)


def test_earlier_shards_and_rows_have_the_lower_numbers(tmp_path: Path) -> None:
    one, two = BASE_IDS[:2]
    shards = write_shards(tmp_path, [[two, one, two], [], [one, two]])
    assert numbered(shards, tmp_path / "numbers") == [f"{two}-0", f"{one}-0", f"{two}-1", f"{one}-1", f"{two}-2"]
    ledgers = write_ledgers(tmp_path / "ledger", [f"{two}-{n}" for n in range(12)], 4)
    assert numbered(shards, tmp_path / "numbers", ledgers) == [
        f"{two}-12",
        f"{one}-0",
        f"{two}-13",
        f"{one}-1",
        f"{two}-14",
    ]


@pytest.mark.parametrize("shards", [[], [[]]])
def test_of_nothing_nothing_is_numbered(tmp_path: Path, shards: list[list[str]]) -> None:
    ledgers = write_ledgers(tmp_path / "ledger", [f"{BASE_IDS[0]}-0"], 1)
    assert numbered(write_shards(tmp_path, shards), tmp_path / "numbers", ledgers) == []
