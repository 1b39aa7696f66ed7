"""Repeated paragraphs: against all pairs, by brute force, whatever the buckets and partitions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.config import Deduplication
from tasks.dedup.paragraphs import (
    REASON,
    paragraphs,
    repeated_in,
    repeated_paragraphs,
    shorten,
    write_paragraph_run,
)

Row = tuple[str, str, str]  # id, date, text


def found(rows: list[Row], config: Deduplication, num_buckets: int, num_partitions: int) -> dict[str, dict[int, str]]:
    """Lines that go by document, with their keepers, through files."""
    buckets = [sorted(row for row in rows if int(row[0], 16) % num_buckets == index) for index in range(num_buckets)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = []
        for index, bucket in enumerate(buckets):
            documents = folder / f"{index}.parquet"
            ids, dates, texts = ([row[column] for row in bucket] for column in range(3))
            strings = pa.string()
            pq.write_table(
                pa.table({"document_id": pa.array(ids, strings), "date": pa.array(dates, strings), "text": texts})
                if bucket
                else pa.schema([(key, strings) for key in ("document_id", "date", "text")]).empty_table(),
                documents,
            )
            runs.append(folder / f"{index}.run.npy")
            write_paragraph_run(documents, index, runs[-1], config)
        parts = [folder / f"{index}.repeated.npy" for index in range(num_partitions)]
        for index, part in enumerate(parts):
            repeated_paragraphs(runs, index, num_partitions, part, config)
        return {
            bucket[row][0]: lines
            for index, bucket in enumerate(buckets)
            for row, lines in repeated_in(parts, index).items()
        }


def expected(rows: list[Row], config: Deduplication) -> dict[str, dict[int, str]]:
    """The same, by the definition: documents in order, and a paragraph goes where its words were seen before."""
    longest = config.order == "longest"
    ordered = sorted(rows, key=lambda row: (-len(row[2]) if longest else 0, row[1], row[0]))
    seen: dict[str, str] = {}
    gone: dict[str, dict[int, str]] = {}
    for document_id, _, text in ordered:
        for number, line in enumerate(text.split("\n")):
            compared = " ".join(line.split())
            if len(compared) < config.min_paragraph_chars:
                continue
            if compared in seen:
                gone.setdefault(document_id, {})[number] = seen[compared]
            seen.setdefault(compared, document_id)
    return gone


lines = st.sampled_from(["one two three", "one  two\tthree", "One two three", "four five six", "x", "", "seven eight"])
texts = st.lists(lines, max_size=6).map("\n".join)
corpora = st.dictionaries(
    st.integers(0, 99).map("{:04x}".format), st.tuples(st.sampled_from(["", "2024", "2025"]), texts), max_size=8
).map(lambda found: [(key, date, text) for key, (date, text) in found.items()])


@given(corpora, st.sampled_from(["earliest", "longest"]), st.integers(1, 4), st.integers(1, 5), st.integers(1, 14))
def test_what_goes_is_what_the_definition_says(
    rows: list[Row], order: str, num_buckets: int, num_partitions: int, min_chars: int
) -> None:
    config = Deduplication.model_validate({"order": order, "min_paragraph_chars": min_chars})
    assert found(rows, config, num_buckets, num_partitions) == expected(rows, config)


@given(texts, st.sets(st.integers(0, 5)))
def test_the_edits_lead_from_the_old_text_to_the_new(text: str, chosen: set[int]) -> None:
    lines = text.split("\n")
    numbers = [number for number in chosen if number < len(lines)]
    rewrite = shorten(text, numbers)
    assert rewrite.text == "\n".join(line for number, line in enumerate(lines) if number not in numbers)
    rest, position = "", 0
    for edit in rewrite.edits:
        assert edit.reason == REASON and text[edit.start : edit.start + len(edit.removed)] == edit.removed
        rest += text[position : edit.start]
        position = edit.start + len(edit.removed)
    assert rest + text[position:] == rewrite.text


@pytest.mark.parametrize(("min_chars", "counts"), [(13, 1), (14, 0)])
def test_a_paragraph_counts_from_its_length_without_surplus_space_on(min_chars: int, counts: int) -> None:
    assert len(list(paragraphs("  one   two three  ", min_chars))) == counts


def test_white_space_is_no_difference_and_case_is_one() -> None:
    first, spaced, capital = paragraphs("one two three\none\u00a0 two three\nOne two three", 5)
    assert first.key == spaced.key != capital.key


def test_a_run_is_sorted_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    rows = {"document_id": ["a" * 32 + "-0"], "date": ["2024-05-01T12:00:00Z"], "text": ["b c\nd e\nb c"]}
    pq.write_table(pa.table(rows), tmp_path / "documents.parquet")
    config = Deduplication(min_paragraph_chars=2)
    assert write_paragraph_run(tmp_path / "documents.parquet", 3, tmp_path / "run.npy", config) == 3
    run = np.load(tmp_path / "run.npy", allow_pickle=False)
    assert run["high"].tolist() == sorted(run["high"].tolist()) and set(run["bucket"].tolist()) == {3}
    pq.write_table(pa.table(rows | {"date": ["a date that is no date"]}), tmp_path / "documents.parquet")
    with pytest.raises(ValueError, match="too long"):
        write_paragraph_run(tmp_path / "documents.parquet", 3, tmp_path / "run.npy", config)
