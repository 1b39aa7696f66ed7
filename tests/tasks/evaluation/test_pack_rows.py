"""What a row may not be: said with file, line and field."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluation.pack_rows import Example, Kind, RowError, checked_bytes, read_examples

GOOD: dict[Kind, dict[str, Any]] = {
    "multiple_choice": {"query": "Q?", "choices": ["one", "two"], "gold": 1},
    "last_word": {"context": "The end of the", "word": "day"},
    "minimal_pairs": {"good": "We are.", "bad": "We is."},
    "perplexity": {"text": " A text.\n"},
}


def read(folder: Path, content: bytes, kind: Kind, name: str = "rows.jsonl", **keys: str) -> list[Example]:
    file = folder / name
    file.write_bytes(content)
    return list(read_examples([(file, hashlib.sha256(content).hexdigest())], kind, keys))


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("kind", GOOD)
def test_reads_each_kind_and_names_a_missing_field_with_its_line(tmp_path: Path, kind: Kind):
    for field in GOOD[kind]:
        broken = {key: value for key, value in GOOD[kind].items() if key != field}
        with pytest.raises(RowError, match=rf"rows\.jsonl, line 3: the field '{field}' \({field} of a {kind} task\)"):
            read(tmp_path, lines(GOOD[kind]) + b"\n" + lines(broken), kind)
    (example,) = read(tmp_path, lines(GOOD[kind]), kind)
    assert example.line == 1
    assert example.part == "rows"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"gold": 2}, "gold is 2; it has to be the number of a choice, 0 to 1"),
        ({"gold": -1}, "gold is -1"),
        ({"gold": True}, "gold is True"),
        ({"gold": "1"}, "gold is '1'"),
        ({"choices": ["one"]}, "at least two"),
        ({"choices": "one"}, "at least two"),
        ({"choices": ["one", 2]}, "a choice is int, not a text"),
        ({"choices": ["one", " "]}, "a choice is empty"),
        ({"query": " \n"}, "query is empty"),
        ({"query": None}, "query is NoneType, not a text"),
        ({"query": "half \ud800"}, "character 5 of query is half a character"),
    ],
)
def test_refuses_values_that_are_no_question(tmp_path: Path, change: dict[str, Any], problem: str):
    with pytest.raises(RowError, match=f"line 1: .*{problem}"):
        read(tmp_path, lines(GOOD["multiple_choice"] | change), "multiple_choice")


@pytest.mark.parametrize("kind", ["last_word", "minimal_pairs", "perplexity"])
def test_refuses_an_empty_text(tmp_path: Path, kind: Kind):
    field = next(iter(GOOD[kind]))
    with pytest.raises(RowError, match=f"line 1: {field} is empty"):
        read(tmp_path, lines(GOOD[kind] | {field: "\n"}), kind)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2: it is no JSON"),
        (b'{"text": "a"}\n["text"]\n', "line 2: a row has to be a JSON object, not list"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: byte 10 is no UTF-8"),
        (b"[" * 100_000, "line 1: it is no JSON"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "line 1: it is no JSON .Exceeds the limit"),
        (b"\n\n", "holds no rows"),
    ],
)
def test_refuses_what_is_no_file_of_rows(tmp_path: Path, content: bytes, problem: str):
    with pytest.raises(ValueError, match=problem):
        read(tmp_path, content, "perplexity")


def test_refuses_a_truncated_gzip_file(tmp_path: Path):
    rows = lines(*({"text": f"text {number} {hashlib.sha256(bytes(number)).hexdigest()}"} for number in range(99)))
    stored = gzip.compress(rows, mtime=0)
    assert len(read(tmp_path, stored, "perplexity", "rows.jsonl.gz")) == 99
    with pytest.raises(ValueError, match=r"rows\.jsonl\.gz is damaged behind line"):
        read(tmp_path, stored[:-9], "perplexity", "rows.jsonl.gz")
    with pytest.raises(ValueError, match="damaged behind line 0"):
        read(tmp_path, rows, "perplexity", "rows.jsonl.gz")


def test_a_changed_file_is_refused_with_both_hashes(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"a")
    before, after = (hashlib.sha256(content).hexdigest() for content in (b"a", b"b"))
    assert checked_bytes(file, before) == b"a"
    file.write_bytes(b"b")
    with pytest.raises(ValueError, match=f"its SHA-256 is {after}, the pack says {before}"):
        checked_bytes(file, before)
    with pytest.raises(ValueError, match="there is no file"):
        checked_bytes(tmp_path / "absent.jsonl", before)


def test_texts_lose_the_space_around_them_but_for_what_perplexity_is_measured_on(tmp_path: Path):
    (question,) = read(tmp_path, lines({"query": " Q?\n", "choices": [" a", "b "], "gold": 0}), "multiple_choice")
    assert question.row == {"query": "Q?", "choices": ["a", "b"], "gold": 0}
    assert question.text == "Q?\na\nb"
    (text,) = read(tmp_path, lines({"body": " A text.\n"}), "perplexity", text="body")
    assert text.text == text.row["text"] == " A text.\n"
    (word,) = read(tmp_path, lines(GOOD["last_word"]), "last_word")
    assert word.text == "The end of the day"


def test_ids_are_of_the_content_and_unique(tmp_path: Path):
    row = {"text": "twice", "extra": 1}
    shuffled = {"extra": 1, "text": "twice"}
    examples = read(tmp_path, lines(row, {"text": "once"}, shuffled, row), "perplexity")
    canonical = hashlib.sha256(b'{"extra":1,"text":"twice"}').hexdigest()[:16]
    assert [example.id for example in examples][::2] == [canonical, f"{canonical}-2"]
    assert examples[3].id == f"{canonical}-3"
    assert len({example.id for example in examples}) == 4


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    rows = [{"text": text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")} for text in texts]
    examples = read(tmp_path_factory.mktemp("rows"), lines(*rows), "perplexity")
    assert [example.row for example in examples] == rows
