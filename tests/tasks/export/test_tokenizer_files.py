"""`AutoTokenizer` on what was exported: the ids of our tokenizer after one end-of-text, whatever the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.export.layout import model_configuration
from tasks.export.passages import PASSAGES
from tasks.export.tokenizer_files import exported_ids, write_tokenizer
from tasks.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, PAD_ID, SPECIAL_TOKENS, UNKNOWN_ID, load_tokenizer
from tests.tasks.export.exportable import SHAPE, tokenizer_file

BEGIN = END_OF_TEXT_ID


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Ours, and theirs as anybody loads it."""
    import transformers

    folder = tmp_path_factory.mktemp("tokenizer")
    file = tokenizer_file(folder / "ours")
    (folder / "out").mkdir()
    write_tokenizer(file, folder / "out", max_seq_len=96)
    (folder / "out" / "config.json").write_text(json.dumps(model_configuration(SHAPE, "float32")))
    return load_tokenizer(file), transformers.AutoTokenizer.from_pretrained(folder / "out", local_files_only=True)


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*PASSAGES, "", *SPECIAL_TOKENS]))
def test_any_text_has_the_same_ids_and_comes_back(both: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = both
    ids = theirs(text)["input_ids"]
    assert ids == theirs.encode(text) == exported_ids(ours, text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).ids
    assert theirs.decode(ids, skip_special_tokens=True) == text


def test_the_first_token_is_placed_once_and_is_a_token_of_the_vocabulary(both: tuple[Tokenizer, Any]) -> None:
    _, theirs = both
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (BEGIN, END_OF_TEXT_ID, PAD_ID)
    assert theirs.unk_token_id == UNKNOWN_ID
    assert len(theirs) == 300
    assert theirs("")["input_ids"] == [BEGIN]
    one, two = (
        theirs("one", add_special_tokens=False)["input_ids"],
        theirs("two", add_special_tokens=False)["input_ids"],
    )
    assert theirs("one", "two")["input_ids"] == [BEGIN, *one, BEGIN, *two]


def test_a_special_token_that_is_spelled_out_is_characters_unless_one_asks(both: tuple[Tokenizer, Any]) -> None:
    _, theirs = both
    assert END_OF_TEXT_ID not in theirs(END_OF_TEXT)["input_ids"][1:]
    assert theirs(END_OF_TEXT, split_special_tokens=False)["input_ids"] == [BEGIN, END_OF_TEXT_ID]
    # and asking once changes nothing for the next who does not
    assert END_OF_TEXT_ID not in theirs(END_OF_TEXT)["input_ids"][1:]


def test_prompts_of_unequal_length_are_padded_on_the_left(both: tuple[Tokenizer, Any]) -> None:
    _, theirs = both
    short, long = theirs(["a", "a much longer prompt"], padding=True)["input_ids"]
    assert short[: -len(theirs("a")["input_ids"])] == [PAD_ID] * (len(long) - len(theirs("a")["input_ids"]))
    assert short[-2:] == theirs("a")["input_ids"]


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b"])
def test_a_lone_surrogate_is_refused(both: tuple[Tokenizer, Any], text: str) -> None:
    with pytest.raises((UnicodeEncodeError, TypeError, ValueError)):
        both[1](text)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="no tokenizer file"):
        write_tokenizer(tmp_path / "tokenizer.json", tmp_path, max_seq_len=96)
