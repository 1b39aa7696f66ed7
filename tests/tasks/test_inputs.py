from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.inputs import InputFile, last_inputs, read_shards, select_inputs
from tasks.read.inventory import RecordRange
from tasks.read.shard import ReadShard
from tasks.read.source import SourceFile
from tasks.sources import NamedFile

MAX_RECORDS = 16


def found(path: str, version: str = "1", size_bytes: int = 5, source: str = "crawl") -> NamedFile:
    return NamedFile(source, SourceFile(path=path, format="jsonl", size_bytes=size_bytes, version=version))


def known(path: str, batch: int = 1, version: str = "1", size_bytes: int = 5, source: str = "crawl") -> InputFile:
    return InputFile(path=path, format="jsonl", size_bytes=size_bytes, version=version, source=source, batch=batch)


def test_new_files_follow_the_known_ones_by_path() -> None:
    last = (known("/b"), known("/a"))
    selection = select_inputs(
        last, [found("/d"), found("/a"), found("/c"), found("/b")], version=7, profile="full", replace=False
    )
    assert selection.inputs == (*last, known("/c", 7), known("/d", 7)) and selection.waiting_files == 0


def test_a_file_is_known_by_path_size_and_version() -> None:
    last = (known("/a"), known("/b"), known("/c"))
    now = [found("/a", version="2"), found("/b", size_bytes=6), found("/c", source="another name")]
    selection = select_inputs(last, now, version=2, profile="full", replace=False)
    assert selection.inputs == (known("/c"), known("/a", 2, version="2"), known("/b", 2, size_bytes=6))


def test_a_changed_file_that_waits_keeps_its_old_self() -> None:
    last = (known("/b"),)
    now = [found("/a"), found("/b", version="2")]
    selection = select_inputs(last, now, version=2, profile="smoke", replace=False)
    assert selection.inputs == (known("/b"), known("/a", 2)) and selection.waiting_files == 1


def test_what_is_gone_stays_unless_it_is_replaced() -> None:
    last = (known("/a"), known("/b"))
    kept, replaced = (
        select_inputs(last, [found("/b"), found("/c")], version=2, profile="full", replace=replace)
        for replace in (False, True)
    )
    assert kept.inputs == (*last, known("/c", 2)) and replaced.inputs == (known("/b"), known("/c", 2))


def test_a_file_without_a_version_is_new_every_time() -> None:
    first, second = (
        select_inputs((), [found("https://h.example/x", version="")], version=1, profile="full", replace=False).inputs
        for _ in range(2)
    )
    assert first[0].version != second[0].version
    again = select_inputs(first, [found("https://h.example/x", version="")], version=2, profile="full", replace=False)
    assert len(again.inputs) == 1 and again.inputs[0].batch == 2


def test_inputs_come_back_from_a_manifest() -> None:
    inputs = (known("/a"), known("/b", 3))
    assert last_inputs({"inputs": [entry.model_dump(mode="json") for entry in inputs]}) == inputs
    assert last_inputs(None) == ()


def ranges_for(entry: InputFile, sizes: Sequence[int]) -> tuple[RecordRange, ...]:
    return tuple(
        RecordRange(file=entry.file, start=10 * index, end=10 * index + 10, num_records=size)
        for index, size in enumerate(sizes)
    )


files = st.dictionaries(
    st.integers(0, 400).map(lambda number: f"/data/{number:03d}"),
    st.lists(st.integers(1, MAX_RECORDS), max_size=3),
    max_size=60,
)


def grouped(sizes: dict[str, list[int]], batches: dict[str, int]) -> tuple[ReadShard, ...]:
    inputs = [known(path, batches.get(path, 1)) for path in sizes]
    return read_shards(inputs, {entry.path: ranges_for(entry, sizes[entry.path]) for entry in inputs}, MAX_RECORDS)


@given(files, files)
@settings(max_examples=150)
def test_later_files_leave_the_shards_of_earlier_ones_as_they_were(
    first: dict[str, list[int]], second: dict[str, list[int]]
) -> None:
    new = {path: sizes for path, sizes in second.items() if path not in first}
    before, after = grouped(first, {}), grouped(first | new, dict.fromkeys(new, 2))
    assert after[: len(before)] == before
    for shards, sizes in ((before, first), (after, first | new)):
        held = Counter((part.file.path, part.start) for shard in shards for part in shard.ranges)
        assert held == Counter((path, 10 * index) for path, parts in sizes.items() for index in range(len(parts)))
        assert all(sum(part.num_records for part in shard.ranges) <= MAX_RECORDS for shard in shards)


def test_a_file_that_goes_moves_few_shards() -> None:
    """Of 1,000 small files; were shards filled from the first on, half of them would move on average."""
    sizes = {f"/pages/{number}.html": [1] for number in range(1000)}
    whole = grouped(sizes, {})
    assert len(whole) <= 2.5 * 1000 / MAX_RECORDS
    moved = []
    for path in list(sizes)[::20]:
        without = grouped({other: one for other, one in sizes.items() if other != path}, {})
        moved.append(len(set(without) - set(whole)))
    assert max(moved) <= 6 and sum(moved) / len(moved) < 2


def test_sources_share_no_shard() -> None:
    inputs = [known("/a", source="one"), known("/b", source="two"), known("/c", source="one")]
    shards = read_shards(inputs, {entry.path: ranges_for(entry, [1]) for entry in inputs}, 100_000)
    assert [(shard.source, len(shard.ranges)) for shard in shards] == [("one", 2), ("two", 1)]
