"""Moves sorted in files are the moves sorted in memory, and pages are paired within one URL only."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tasks.diff_moves import Move, SortedMoves, with_changed_urls


def move(number: int, domain: str = "a.com", url_key: bytes = b"", **others: object) -> Move:
    facts = {"direction": 1, "kind": "added", "stage": "input", "reason": "new_record", "survivor_id": ""} | others
    return Move(
        domain=domain,
        url_key=url_key,
        document_id=f"{number:04x}-0",
        url="https://a.com/ä",
        language="en",
        text_sha256=str(number % 3),
        bytes_out=0,
        bytes_in=number,
        **facts,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("max_moves", "max_runs"), [(10_000, 512), (100, 512), (7, 3), (1, 2)])
def test_sorting_in_files_is_sorting(max_moves: int, max_runs: int, tmp_path: Path) -> None:
    chance = random.Random(max_moves)
    moves = [
        move(number, chance.choice(["a.com", "b.com", "(none)"]), chance.choice([b"", b"\xff\x00", b"\x00"]))
        for number in chance.sample(range(1 << 16), 700)
    ]
    with SortedMoves(max_moves, max_runs) as sorter:
        sorter.add(moves[:300])
        sorter.add(moves[300:])
        assert list(sorter) == sorted(moves)
        assert len(sorter._runs) <= max_runs


def paired(moves: list[Move]) -> list[tuple[str, str, str]]:
    return [(each.document_id, each.kind, each.survivor_id) for each in with_changed_urls(sorted(moves))]


def test_what_leaves_and_what_comes_are_paired_within_one_url() -> None:
    gone = {"direction": 0, "kind": "removed", "stage": "input", "reason": "no_longer_there"}
    moves = [
        move(1, url_key=b"k", **gone),
        move(2, url_key=b"k", **gone),
        move(3, url_key=b"k"),
        move(4, url_key=b"l"),
        move(5, url_key=b"l"),
        move(6, url_key=b"m", **gone),
        move(7, "b.com", url_key=b"m"),
        move(8, **gone),
        move(9),
        move(10, url_key=b"n", **gone | {"kind": "taken_down"}),
        move(11, url_key=b"n"),
    ]
    assert sorted(paired(moves)) == [
        *(("0002-0", "removed", ""), ("0003-0", "changed", "0001-0"), ("0004-0", "added", ""), ("0005-0", "added", "")),
        *(("0006-0", "removed", ""), ("0007-0", "added", ""), ("0008-0", "removed", ""), ("0009-0", "added", "")),
        *(("000a-0", "taken_down", ""), ("000b-0", "added", "")),
    ]
