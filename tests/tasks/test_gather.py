"""Buckets of screened records: the same whatever shards and runs they came in."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import gather
from tasks.bucket import buckets
from tasks.gather import ScreenedShard, gather_bucket, run_shard, shard_groups
from tasks.screen import DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE
from tasks.tables import EDITS, LEDGER, TEXTS

Record = dict[str, Any]


def records(num_records: int) -> list[Record]:
    """Records with ids as hashes have them; every third is removed, every fourth edited."""
    chance = random.Random(1)
    return [
        {"id": f"{chance.getrandbits(128):032x}-0", "removed": index % 3 == 0, "edited": index % 4 == 0}
        for index in range(num_records)
    ]


def screened(folder: Path, shards: list[list[Record]]) -> list[ScreenedShard]:
    """Shards of two stages: the first removes and edits, the second only passes on."""
    result = []
    for index, shard in enumerate(shards):
        stages = (folder / f"first-{index}", folder / f"second-{index}")
        for number, stage in enumerate(stages):
            stage.mkdir(parents=True)
            known = {"source": "pages", "source_file": "pages.warc", "source_offset": 7, "url": "https://a.example/"}
            documents = [
                {"document_id": row["id"], "text": f"text of {row['id']}", "date": "", **known}
                for row in shard
                if not row["removed"]
            ]
            removed = [
                {"record_id": row["id"], "stage": "first", "outcome": "removed", "reason": "rule", **known}
                for row in shard
                if row["removed"] and number == 0
            ]
            edits = [
                {"document_id": row["id"], "stage": "first", "rule": "rule", "start": start}
                for row in shard
                if row["edited"] and number == 0
                for start in (30, 4)
            ]
            tables = {DOCUMENTS_FILE: (TEXTS, documents), LEDGER_FILE: (LEDGER, removed), EDITS_FILE: (EDITS, edits)}
            for name, (schema, rows) in tables.items():
                pq.write_table(pa.Table.from_pylist(rows, schema=schema), stage / name)
        result.append(ScreenedShard(stages[-1], stages))
    return result


def gathered(folder: Path, shards: list[list[Record]], num_slices: int) -> list[dict[str, bytes]]:
    """The files of four buckets."""
    runs = []
    for group in shard_groups(screened(folder / "screened", shards)):
        runs.append(folder / f"run-{len(runs)}")
        runs[-1].mkdir()
        run_shard(group, runs[-1])
    result = []
    for bucket in buckets(4):
        directory = folder / f"bucket-{bucket.index}"
        directory.mkdir()
        gather_bucket(bucket, directory, runs=runs, num_slices=num_slices)
        result.append({file.name: file.read_bytes() for file in sorted(directory.iterdir())})
    return result


def test_the_bytes_do_not_depend_on_shards_runs_or_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = records(2000)
    expected = gathered(tmp_path / "one", [rows], 1)
    shuffled = random.Random(2).sample(rows, len(rows))
    assert gathered(tmp_path / "many", [shuffled[index::7] for index in range(7)], 5) == expected
    monkeypatch.setattr(gather, "_MAX_RUN_SHARDS", 2)
    assert gathered(tmp_path / "runs", [shuffled[index::7] for index in range(7)], 3) == expected


def test_every_record_has_one_ledger_row_in_its_bucket_in_the_order_of_ids(tmp_path: Path) -> None:
    rows = records(300)
    gathered(tmp_path, [rows[:100], rows[100:]], 2)
    seen = []
    for bucket in buckets(4):
        folder, (low, high) = tmp_path / f"bucket-{bucket.index}", bucket.bounds()
        ledger = pq.read_table(folder / LEDGER_FILE)
        ids = ledger["record_id"].to_pylist()
        assert ids == sorted(ids) and all(low <= each < high for each in ids)
        kept = [row["record_id"] for row in ledger.to_pylist() if row["outcome"] == "kept"]
        assert kept == pq.read_table(folder / DOCUMENTS_FILE)["document_id"].to_pylist()
        edits = [(row["document_id"], row["start"]) for row in pq.read_table(folder / EDITS_FILE).to_pylist()]
        assert edits == sorted(edits)
        seen += ids
    assert sorted(seen) == sorted(row["id"] for row in rows)
    assert {row["source_offset"] for row in ledger.to_pylist()} == {7}


def test_buckets_are_there_where_nothing_was_read(tmp_path: Path) -> None:
    files = gathered(tmp_path, [], 1)
    assert [set(each) for each in files] == [{DOCUMENTS_FILE, LEDGER_FILE, EDITS_FILE}] * 4
    assert all(not len(pq.read_table(tmp_path / f"bucket-{index}" / LEDGER_FILE)) for index in range(4))


def test_a_run_ends_where_it_would_grow_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = screened(tmp_path, [records(3)] * 5)
    assert [len(group) for group in shard_groups(shards)] == [5]
    monkeypatch.setattr(gather, "_MAX_RUN_SHARDS", 2)
    assert [len(group) for group in shard_groups(shards)] == [2, 2, 1]
    monkeypatch.setattr(gather, "_MAX_RUN_BYTES", 1)
    assert [len(group) for group in shard_groups(shards)] == [1] * 5


@pytest.mark.parametrize("num_buckets", [1, 4, 4096])
def test_slices_cover_a_bucket_without_a_gap(num_buckets: int) -> None:
    for bucket in (buckets(num_buckets)[0], buckets(num_buckets)[-1]):
        for number in (1, 2, 7):
            slices = bucket.slices(number)
            assert len(slices) == number and (slices[0][0], slices[-1][1]) == bucket.bounds()
            assert all(low < high for low, high in slices)
            assert all(one[1] == two[0] for one, two in pairwise(slices))


def test_the_order_of_part_names_is_that_of_the_ids() -> None:
    for num_buckets in (1, 16, 1024, 4096):
        names = [bucket.part("documents") for bucket in buckets(num_buckets)]
        assert names == sorted(names) and len(set(names)) == num_buckets
    assert buckets(16)[3].part("keys") == "index/bucket-003.keys.npy"
