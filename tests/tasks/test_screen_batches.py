"""A rule that decides many documents at once changes nothing but the time: not the order of rules, nor that of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from tasks.document import Decision, Document, Drop, Edit, Keep, Rewrite
from tasks.rule import Rule
from tasks.screen import CHARS_AT_ONCE, DOCUMENTS_FILE, EDITS_FILE, LEDGER_FILE, built_batch, rules_shard
from tasks.tables import TEXTS, TableWriter, text_row


def take(letter: str, text: str) -> Decision:
    """Drops a text that ends with the letter, else takes its first one out."""
    if text.endswith(letter):
        return Drop(f"ends_with_{letter}", 1.0, 0.0, text)
    start = text.find(letter)
    if start < 0:
        return Keep()
    return Rewrite(text[:start] + text[start + 1 :], (Edit("span_removed", letter, start, letter),))


class Alone(Rule):
    kind: Literal["alone"] = "alone"
    letter: str

    def build(self) -> Callable[[Document], Decision]:
        return lambda document: take(self.letter, document.text)


class Together(Alone):
    def build_batch(self) -> Callable[[Sequence[Document]], list[Decision]]:
        def decide(documents: Sequence[Document]) -> list[Decision]:
            GIVEN.append([document.text for document in documents])
            return [take(self.letter, document.text) for document in documents]

        return decide


GIVEN: list[list[str]] = []


def screened(folder: Path, texts: Sequence[str], rules: tuple[Rule, ...]) -> list[list[dict[str, Any]]]:
    folder.mkdir()
    with TableWriter(folder / DOCUMENTS_FILE, TEXTS) as table:
        for number, text in enumerate(texts):
            table.write(text_row(Document(f"{number:032x}-0", text, "web")))
    (folder / "out").mkdir()
    report = rules_shard(folder, folder / "out", stage="letters", rules=rules)
    assert report.records_in == len(texts)
    return [pq.read_table(folder / "out" / name).to_pylist() for name in (DOCUMENTS_FILE, LEDGER_FILE, EDITS_FILE)]


@given(
    texts=st.lists(st.text("abcd", min_size=1, max_size=5), max_size=150),
    letters=st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=5),
)
def test_rules_together_and_alone(tmp_path_factory: Any, texts: list[str], letters: list[tuple[str, bool]]) -> None:
    folder = tmp_path_factory.mktemp("stage")
    alone = screened(folder / "alone", texts, tuple(Alone(letter=letter) for letter, _ in letters))
    mixed = screened(
        folder / "mixed", texts, tuple((Together if at_once else Alone)(letter=letter) for letter, at_once in letters)
    )
    assert mixed == alone


def test_only_documents_that_are_left_are_given_and_in_their_order(tmp_path: Path) -> None:
    rules = (Alone(letter="a"), Together(letter="b"), Together(letter="c"))
    assert built_batch(rules[0]) is None
    GIVEN.clear()
    documents, ledger, edits = screened(tmp_path / "shard", ["cab", "dca", "acd", "d"], rules)
    assert GIVEN == [["cb", "cd", "d"], ["cd", "d"]]
    assert [row["text"] for row in documents] == ["d", "d"]
    assert [(row["record_id"][31], row["reason"]) for row in ledger] == [("0", "ends_with_b"), ("1", "ends_with_a")]
    assert [(row["document_id"][31], row["reason"]) for row in edits] == [("0", "a"), ("2", "a"), ("2", "c")]


def test_no_more_text_is_given_together_than_is_faster(tmp_path: Path) -> None:
    half = "a" * (CHARS_AT_ONCE // 2 - 1)
    GIVEN.clear()
    screened(tmp_path / "shard", [half, half, "aa", "a", half * 2 + "a", half * 2 + "aa"], (Together(letter="b"),))
    assert [[len(text) for text in texts] for texts in GIVEN] == [
        [len(half), len(half), 2],
        [1, CHARS_AT_ONCE - 1],
        [CHARS_AT_ONCE],
    ]
