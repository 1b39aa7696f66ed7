"""Text comes out of tokens in whole characters, whatever the tokens are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.text_stream import TextStream
from tasks.tokenizer import END_OF_TEXT_ID, TokenizerConfig, train_tokenizer
from tests.data.prose import prose

VOCAB_SIZE = 400
TOKENIZER = train_tokenizer([prose(number) for number in range(20)], TokenizerConfig(vocab_size=VOCAB_SIZE))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return TOKENIZER


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=30), st.integers(0, 5))
def test_any_tokens_give_their_text_but_for_an_unfinished_character(ids: list[int], num_prompt: int) -> None:
    prompt, new = ids[:num_prompt], ids[num_prompt:]
    stream = TextStream(TOKENIZER, prompt)
    text = "".join(stream.feed(token) for token in new) + stream.rest()
    whole = TOKENIZER.decode(new, skip_special_tokens=True)
    if not num_prompt:
        assert whole.startswith(text) and not whole[len(text) :].strip("\ufffd")
    assert "\ud800" not in text and not stream.stopped


def test_characters_of_several_tokens_come_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("né 日本 😀!").ids
    stream = TextStream(tokenizer, [END_OF_TEXT_ID])
    pieces = [stream.feed(token) for token in ids]
    assert "".join(pieces) == "né 日本 😀!" and "" in pieces
    assert all(len(piece.encode()) in (0, len(piece), 2, 3, 4) for piece in pieces)


def test_a_character_that_the_prompt_began_is_finished(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("😀").ids
    assert len(ids) > 1
    stream = TextStream(tokenizer, ids[:-1])
    assert stream.feed(ids[-1]) == "😀"


def test_a_stop_string_across_tokens_ends_the_text(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, [END_OF_TEXT_ID], ["\n\n"])
    shown = [stream.feed(token) for token in tokenizer.encode("one\n").ids]
    assert "".join(shown) == "one" and not stream.stopped
    assert "".join(stream.feed(token) for token in tokenizer.encode("\ntwo").ids) == ""
    assert stream.stopped and stream.rest() == ""


def test_what_might_have_become_a_stop_string_comes_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, [END_OF_TEXT_ID], ["\n\n"])
    assert "".join(stream.feed(token) for token in tokenizer.encode("one\n").ids) + stream.rest() == "one\n"
