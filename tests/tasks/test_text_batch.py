"""Rows of text in one batch: they come, end and go without the others noticing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.generation import TextGenerator
from tasks.text_batch import Piece, TextBatch
from tests.infra.small_model import small_model


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    return TextGenerator.load(*small_model(tmp_path_factory.mktemp("model")))


def finished(batch: TextBatch) -> dict[int, tuple[str, str, int]]:
    """Text, end and tokens of each row, once all have ended."""
    pieces: dict[int, list[Piece]] = {}
    while batch.num_rows:
        for piece in batch.step():
            pieces.setdefault(piece.row_id, []).append(piece)
    return {
        row_id: ("".join(piece.text for piece in got), got[-1].ended, sum(piece.num_tokens for piece in got))
        for row_id, got in pieces.items()
    }


def test_rows_join_and_leave_and_the_others_go_on(generator: TextGenerator) -> None:
    batch = TextBatch(generator.model, generator.tokenizer, max_rows=2)
    first = batch.add(generator.request("The", max_new_tokens=20, seed=1))
    leaving = batch.add(generator.request("A walk", max_new_tokens=20, seed=2))
    before = "".join(piece.text for _ in range(5) for piece in batch.step() if piece.row_id == first)
    with pytest.raises(ValueError, match="all 2 rows are in use"):
        batch.add(generator.request("In", max_new_tokens=2))
    batch.remove(leaving)
    assert (batch.num_free, batch.num_rows) == (1, 1)
    late = batch.add(generator.request("In", max_new_tokens=10, seed=3))
    ends = finished(batch)
    assert before + ends[first][0] == generator.continuation("The", max_new_tokens=20, seed=1)
    assert ends[late][0] == generator.continuation("In", max_new_tokens=10, seed=3)
    assert leaving not in ends


def test_a_stop_string_frees_the_row_at_once(generator: TextGenerator) -> None:
    whole = generator.continuation("The", max_new_tokens=40, seed=3)
    stop = whole[6:9]
    batch = TextBatch(generator.model, generator.tokenizer, max_rows=2)
    stopped = batch.add(generator.request("The", max_new_tokens=40, seed=3, stop=[stop]))
    going_on = batch.add(generator.request("The", max_new_tokens=40, seed=3))
    ends = finished(batch)
    assert ends[stopped][:2] == (whole[: whole.index(stop)], "stop") and ends[stopped][2] < ends[going_on][2]
    assert ends[going_on][0] == whole


def test_what_can_not_work_is_known_before_it_is_added(generator: TextGenerator) -> None:
    batch = TextBatch(generator.model, generator.tokenizer, max_rows=1)
    good = generator.request("The", max_new_tokens=5)
    batch.check(good)
    for wrong in (
        replace(good, prompt_tokens=()),
        replace(good, prompt_tokens=(1, 320)),
        replace(good, prompt_tokens=(1,) * 60),
        replace(good, stop=("",)),
    ):
        with pytest.raises(ValueError):
            batch.check(wrong)
        with pytest.raises(ValueError):
            batch.add(wrong)
    assert batch.num_free == 1
