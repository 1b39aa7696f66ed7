"""Labelled rows: read from every format, mapped to two classes, and refused with file and row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from tasks.classifiers.labelled import (
    BackgroundSource,
    Example,
    LabelCount,
    LabelledSource,
    check_sources,
    gather,
    read_background,
    read_labelled,
)
from tasks.classifiers.table_rows import RowError, files_sha256, find_files

Row = dict[str, Any]
ROWS: list[Row] = [
    {"body": "Foul words", "mark": 1, "from": "here", "more": [1]},
    {"body": 'A calm "line",\nand one more', "mark": 0, "from": "there", "more": None},
    {"body": "Ünïcode", "mark": 0, "from": "", "more": []},
]
EXPECTED = [
    ("Foul words", "1", True, "here", ""),
    ('A calm "line",\nand one more', "0", False, "there", ""),
    ("Ünïcode", "0", False, "rows", ""),
]


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[Row]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, ["body", "mark", "from"], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def parquet(rows: list[Row]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    return content.getvalue()


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {".jsonl": jsonl, ".csv": as_csv, ".parquet": parquet}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def source(*paths: object, **changes: Any) -> LabelledSource:
    facts = {"text": "body", "label": "mark", "source": "from", "positive": ("1",), "negative": ("0",), **changes}
    return LabelledSource(name="rows", paths=tuple(map(str, paths)), **facts)


@pytest.mark.parametrize(
    ("suffix", "compression"),
    [pair for pair in itertools.product(FORMATS, COMPRESSIONS) if pair[0] != ".parquet" or not pair[1]],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str, compression: str) -> None:
    path = tmp_path / f"rows{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](FORMATS[suffix](ROWS)))
    assert list(read_labelled(source(path))) == EXPECTED
    assert list(read_background(BackgroundSource(name="b", paths=(str(path),), text="body"))) == [
        (text, "") for text, *_ in EXPECTED
    ]
    check_sources([source(path)], [])


def test_labels_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([{"text": "a", "label": label} for label in (True, "true", 1.5, " x ", 0)]))
    of_all = LabelledSource(name="s", paths=(str(path),), positive=("true", "1.5", "x"))
    assert [row.positive for row in read_labelled(of_all)] == [True, True, True, True, False]


def test_an_empty_label_counts_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,\nb,x\n")
    named = LabelledSource(name="s", paths=(str(path),), positive=("x",), negative=("",))
    assert [row.positive for row in read_labelled(named)] == [False, True]


def test_without_a_column_of_sources_the_name_stands_for_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS))
    assert {row.source for row in read_labelled(source(path, source=""))} == {"rows"}


def test_a_column_of_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS))
    of_groups = source(path, group="from")
    assert [row.group for row in read_labelled(of_groups)] == ["here", "there", ""]
    by_line = {example.line: example for example in gather([of_groups], [], "plain_line").examples}
    assert by_line["Foul words"].group == "here"
    shas = {gather([source(path, group=group)], [], "plain_line").sha256 for group in ("", "from", "mark")}
    assert len(shas) == 3  # a trial of other sides is another one
    with pytest.raises(RowError, match="there is no column 'page'"):
        check_sources([source(path, group="page")], [])


def broken_line(rows: list[Row]) -> bytes:
    return jsonl(rows[:1]) + b'{"body": \n' + jsonl(rows[1:])


@pytest.mark.parametrize(
    ("name", "content", "changes", "message"),
    [
        ("x.jsonl", broken_line(ROWS), {}, r"x\.jsonl, row 2: not JSON"),
        ("x.jsonl", b"[1]\n", {}, r"x\.jsonl, row 1: not a JSON object"),
        ("x.jsonl", b'{"body": "a", "mark": 1}\n', {}, r"row 1: there is no column 'from', but body, mark"),
        ("x.csv", b"body,mark\na,1\n", {}, r"x\.csv: there is no column 'from', but body, mark"),
        ("x.parquet", parquet([{"body": "a"}]), {}, r"x\.parquet: there is no column 'mark', but body"),
        ("x.jsonl", jsonl([*ROWS, {**ROWS[0], "body": " \t"}]), {}, "row 4: the text in 'body' is empty"),
        ("x.jsonl", jsonl([{**ROWS[0], "body": None}]), {}, "row 1: the text in 'body' is empty"),
        ("x.jsonl", jsonl([{**ROWS[0], "body": 7}]), {}, "row 1: the text in 'body' is no text but int"),
        (
            "x.jsonl",
            jsonl([*ROWS, {**ROWS[0], "mark": 2}]),
            {},
            "row 4: the label '2' is .*'1', '0', '2'",
        ),
        (
            "x.jsonl",
            jsonl([{**ROWS[0], "mark": None}]),
            {"negative": ()},
            "row 1: the label in 'mark' is empty: fill it",
        ),
        ("x.jsonl", jsonl([{**ROWS[0], "mark": " "}]), {}, "row 1: the label in 'mark' is empty: fill it"),
        ("x.jsonl", jsonl(ROWS).replace(b"Foul", b"\xff"), {}, r"line 1 is no UTF-8"),
        ("x.csv", as_csv(ROWS).replace(b"calm", b"\xff"), {}, r"line 3 is no UTF-8"),
        ("x.csv", b"body,mark,from\na,1\n", {}, r"row 1: more or fewer values than the 3 columns"),
        ("x.csv", b"body,mark,from\na,1,x,y\n", {}, r"row 1: more or fewer values than the 3 columns"),
        ("x.csv", b'body,mark,from\n"a,1,x\n', {}, r"row 1: not CSV"),
        ("x.csv", b"body,mark,from,mark\na,1,x,0\n", {}, "there are several columns 'mark': leave one"),
        ("x.parquet", b"PAR1 and nothing", {}, "no intact Parquet footer"),
        ("x.jsonl.gz", gzip.compress(jsonl(ROWS))[:-9], {}, "cut off; copy the file again"),
        ("x.jsonl.zst", COMPRESSIONS[".zst"](jsonl(ROWS))[:-2], {}, "cut off; copy the file again"),
        ("x.warc.gz", b"", {}, "its name says no format"),
        *(
            (
                "x.jsonl",
                jsonl([{**ROWS[0], column: "s\ud83d"}]),
                {"negative": ()},
                f"row 1: '{column}' holds half a char",
            )
            for column in ("mark", "from")
        ),
        ("x.parquet", parquet([{**ROWS[0], "mark": b"\xff"}]), {}, "row 1: the text in 'mark' is no UTF-8"),
    ],
)
def test_what_can_not_be_used_is_named(
    tmp_path: Path, name: str, content: bytes, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RowError, match=message) as refused:
        list(read_labelled(source(tmp_path / name, **changes)))
    assert "\n" not in str(refused.value)


def test_what_is_missing_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    for path, message in (
        (tmp_path / "absent.csv", "No such file"),
        (tmp_path / "absent*.csv", "no file has such a name"),
        (tmp_path / "empty.jsonl", "it has no rows"),
    ):
        with pytest.raises(RowError, match=message):
            check_sources([], [BackgroundSource(name="b", paths=(str(path),))])


def test_a_value_can_not_mean_both() -> None:
    with pytest.raises(ValidationError, match="'1' of rows is given for both classes"):
        source("x.csv", negative=("0", "1"))


def test_globs_are_taken_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        (tmp_path / name).write_bytes(b"")
    names = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert find_files([str(tmp_path / "*.jsonl"), names[0]]) == tuple(names)


def test_hashes_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_bytes(path.name.encode())
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert files_sha256([str(paths[0])]) == digests[0]
    assert files_sha256(list(map(str, paths))) == hashlib.sha256("\n".join(digests).encode()).hexdigest()


def write(path: Path, rows: list[tuple[str, int]]) -> str:
    path.write_bytes(jsonl([{"text": text, "label": label} for text, label in rows]))
    return str(path)


MIXED = [("One", 1), ("one!", 0), ("ONE", 1), ("two", 1), ("Two", 0), ("two", 1), ("three", 0), ("@you", 1)]


def test_gathering_leaves_out_repetitions_and_contradictions(tmp_path: Path) -> None:
    labelled = LabelledSource(name="l", paths=(write(tmp_path / "l.jsonl", MIXED),), positive=("1",), licence="CC0")
    ordinary = BackgroundSource(name="b", paths=(write(tmp_path / "b.jsonl", [("B b", 0), ("b  B", 0), ("C", 0)]),))
    gathered = gather([labelled], [ordinary], "words_and_marks")
    by_line = {example.line: example for example in gathered.examples}
    assert by_line == {
        "one": Example("ONE", "one", True, "l"),
        "one !": Example("one!", "one !", False, "l"),
        "three": Example("three", "three", False, "l"),
    }
    assert (gathered.num_repeated, gathered.num_contradicting, gathered.num_empty) == (3, 1, 1)
    assert sorted(document.text for document in gathered.background) == ["B b", "C"]
    assert gathered.labels == (LabelCount("l", "1", True, 5), LabelCount("l", "0", False, 3))
    facts = {fact.name: fact for fact in gathered.data}
    assert (facts["l"].num_texts, facts["l"].licence, facts["b"].num_texts) == (8, "CC0", 3)
    assert facts["l"].sha256 == hashlib.sha256((tmp_path / "l.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize("seed", range(3))
def test_order_and_number_of_files_change_nothing(tmp_path: Path, seed: int) -> None:
    rows = MIXED.copy()
    random.Random(seed).shuffle(rows)
    whole = LabelledSource(name="l", paths=(write(tmp_path / "whole.jsonl", MIXED),), positive=("1",))
    write(tmp_path / "part-1.jsonl", rows[:3])
    write(tmp_path / "part-2.jsonl", rows[3:])
    parts = LabelledSource(name="l", paths=(str(tmp_path / "part-*.jsonl"),), positive=("1",))
    first, second = (gather([each], [], "words_and_marks") for each in (whole, parts))
    assert first.examples == second.examples
    assert first.sha256 == second.sha256
    assert first.num_repeated == second.num_repeated


@pytest.mark.parametrize(("rows", "what"), [([("a", 1)], "negative"), ([("a", 1), ("a", 0), ("b", 0)], "positive")])
def test_a_class_without_texts_is_named(tmp_path: Path, rows: list[tuple[str, int]], what: str) -> None:
    only = LabelledSource(name="l", paths=(write(tmp_path / "l.jsonl", rows),), positive=("1",))
    with pytest.raises(ValueError, match=rf"none of \d distinct labelled texts is {what} .*\(rows: '"):
        gather([only], [], "words_and_marks")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positive": ("rude", "insult")}, "no row has the label 'insult', which is given as positive"),
        ({"positive": ("rude",), "negative": ("fine", "0")}, "no row has the label '0', which is given as negative"),
    ],
)
def test_a_value_that_no_row_has_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "l.jsonl", [("a", "rude"), ("b", "fine"), ("c", "fine")])
    with pytest.raises(ValueError, match=rf"{message}.*\(rows: 'fine' negative 2, 'rude' positive 1\)$"):
        gather([LabelledSource(name="l", paths=(path,), **values)], [], "plain_line")


def test_a_value_of_one_table_is_enough(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{label}.jsonl", [("a " + label, label), ("b", "fine")]) for label in ("rude", "insult")]
    sources = [LabelledSource(name="l", paths=(path,), positive=("rude", "insult")) for path in paths]
    assert sum(example.positive for example in gather(sources, [], "plain_line").examples) == 2


def test_many_values_of_a_label_are_not_all_told(tmp_path: Path) -> None:
    """A label's column of scores."""
    rows = [(f"text {number}", number) for number in range(30)]
    scores = LabelledSource(name="l", paths=(write(tmp_path / "l.jsonl", rows),), positive=("1.0",))
    with pytest.raises(ValueError, match=r"'0' negative 1, .*, and 20 other values\)$"):
        gather([scores], [], "words_and_marks")
