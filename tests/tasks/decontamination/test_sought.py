"""The forms in which an example may stand in a corpus."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.decontamination.sought import passages, sought_in_packs, sought_in_texts
from tasks.evaluation.pack_rows import Example, Kind
from tasks.evaluation.task_pack import load_pack


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        (
            "multiple_choice",
            {"query": "Who rows", "choices": ["the baker", "a clerk"], "gold": 1},
            ("Who rows", "the baker", "a clerk", "Who rows the baker", "Who rows a clerk"),
        ),
        (
            "multiple_choice",
            {"query": "Passage: A lake: it froze.\nQuestion: Did it?", "choices": ["yes", "no"], "gold": 0},
            ("A lake: it froze.\n", "Did it?", "yes", "no", "Did it? yes", "Did it? no"),
        ),
        (
            "multiple_choice",
            {"query": "Question:", "choices": ["a", "b"], "gold": 0},
            ("Question:", "a", "b", "Question: a", "Question: b"),
        ),
        ("last_word", {"context": "He fed the", "word": "cat"}, ("He fed the cat",)),
        ("minimal_pairs", {"good": "They row.", "bad": "They rows."}, ("They row.", "They rows.")),
        ("perplexity", {"text": "All of it."}, ("All of it.",)),
    ],
)
def test_an_example_has_a_passage_for_each_of_its_forms(
    kind: Kind, row: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert passages(kind, Example("0", "", row, "", Path("rows.jsonl"), 1)) == expected


def test_every_example_of_a_pack_is_looked_for_by_task_and_id() -> None:
    pack = load_pack("basics")
    sought = list(sought_in_packs([pack]))
    assert len(sought) == sum(len(list(task.examples())) for task in pack.tasks)
    assert {each.task for each in sought} == {f"basics/{task.name}" for task in pack.tasks}
    first = next(pack.tasks[0].examples())
    assert (sought[0].example_id, sought[0].passages) == (first.id, passages(pack.tasks[0].kind, first))


def test_a_file_of_texts_is_a_task_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl.gz"
    file.write_bytes(gzip.compress(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in ("one", "two"))))
    sought = list(sought_in_texts([file]))
    assert [(each.task, each.passages) for each in sought] == [("mine.jsonl.gz", ("one",)), ("mine.jsonl.gz", ("two",))]
    assert len({each.example_id for each in sought}) == 2


def test_what_is_wrong_with_a_file_of_texts_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2: the field 'text'"):
        list(sought_in_texts([file]))
    with pytest.raises(ValueError, match=r"there is no file of texts .*absent\.jsonl"):
        list(sought_in_texts([tmp_path / "absent.jsonl"]))
