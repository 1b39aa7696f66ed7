"""Prompts become text: alone, in a batch, and up to where they are to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.generation import DEFAULT_NEW_TOKENS, TextGenerator
from tasks.tokenizer import END_OF_TEXT_ID, TokenizerConfig, save_tokenizer, train_tokenizer
from tests.data.prose import prose
from tests.infra.small_model import small_model

PROMPTS = ["The", "A long walk through the town", "", "né 😀", "The"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    return TextGenerator.load(*small_model(tmp_path_factory.mktemp("model")))


def test_pieces_together_are_the_continuation_and_a_seed_repeats_it(generator: TextGenerator) -> None:
    first = generator.continuation("The", max_new_tokens=20, seed=3)
    assert "".join(generator.stream("The", max_new_tokens=20, seed=3)) == first
    assert generator.continuation("The", max_new_tokens=20, seed=4) != first
    assert generator.continuation("The", max_new_tokens=20, seed=3, top_k=None, top_p=0.9) != first
    greedy = generator.continuation("The", max_new_tokens=20, temperature=0)
    assert generator.continuation("The", max_new_tokens=20, temperature=0, repetition_penalty=50.0) != greedy


@pytest.mark.parametrize("max_rows", [1, 2, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_batch_gives_each_prompt_what_it_gets_alone(
    generator: TextGenerator, max_rows: int, temperature: float
) -> None:
    alone = [generator.continuation(each, max_new_tokens=12, seed=5, temperature=temperature) for each in PROMPTS]
    together = generator.continuations(PROMPTS, max_rows=max_rows, max_new_tokens=12, seed=5, temperature=temperature)
    assert together == alone


def test_the_text_ends_before_the_first_stop_string(generator: TextGenerator) -> None:
    whole = generator.continuation("The", max_new_tokens=40, seed=3)
    stop = whole[8:11]
    ends_at = whole.index(stop)
    shown = list(generator.stream("The", max_new_tokens=40, seed=3, stop=["never there", stop]))
    assert "".join(shown) == whole[:ends_at] and len(whole) > ends_at
    assert generator.continuations(["The", "A"], max_new_tokens=40, seed=3, stop=[stop])[0] == whole[:ends_at]


def test_no_prompts_give_no_texts(generator: TextGenerator) -> None:
    assert generator.continuations([]) == []


def test_a_prompt_is_the_beginning_of_a_document(generator: TextGenerator) -> None:
    assert generator.prompt_tokens("") == (END_OF_TEXT_ID,)
    tokens = generator.prompt_tokens("a <|end_of_text|>\ud800")
    assert tokens.count(END_OF_TEXT_ID) == 1 and generator.tokenizer.decode(tokens[1:]) == "a <|end_of_text|>\ufffd"


def test_a_prompt_that_just_fits_and_one_that_does_not(generator: TextGenerator) -> None:
    room = generator.model.config.max_seq_len - len(generator.prompt_tokens("The"))
    assert generator.continuation("The", max_new_tokens=room, temperature=0)
    with pytest.raises(ValueError, match=f"tokens and {room + 1} new ones exceed the model's 64 positions"):
        generator.stream("The", max_new_tokens=room + 1)
    with pytest.raises(ValueError, match=f"and {DEFAULT_NEW_TOKENS} new ones exceed the model's 64 positions"):
        generator.continuations(["The", "A"])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}),
        *({"top_p": 1.5}, {"repetition_penalty": 0.0}, {"stop": [""]}, {"stop": ["a"] * 17}),
    ],
)
def test_what_can_not_work_is_refused_at_once(generator: TextGenerator, wrong: dict[str, object]) -> None:
    options = {"max_new_tokens": 4, **wrong}
    with pytest.raises(ValueError):
        generator.stream("The", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        generator.continuations(["The"], **options)  # type: ignore[arg-type]


def test_a_model_that_is_not_finite_is_said_to_be(tmp_path: Path) -> None:
    broken = TextGenerator.load(*small_model(tmp_path))
    with torch.no_grad():
        broken.model.embedding.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        broken.continuation("The", max_new_tokens=4)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    checkpoint, _ = small_model(tmp_path / "model")
    other = tmp_path / "other.json"
    save_tokenizer(train_tokenizer([prose(99)], TokenizerConfig(vocab_size=290)), other)
    with pytest.raises(ValueError, match="is not the tokenizer that the model"):
        TextGenerator.load(checkpoint, other)
