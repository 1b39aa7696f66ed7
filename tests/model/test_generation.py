from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DecoderConfig
from model.decoder import Decoder
from model.generate import generate, generate_batch
from model.generation import Drawn, Generation, RowError, _num_together
from model.sampling import Sampling
from tests.model.reference_networks import random_decoder, reference_network

CONFIG = DecoderConfig(
    vocab_size=128,
    d_model=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    d_ff=96,
    max_seq_len=48,
    tie_embeddings=False,  # tied and untrained it would repeat the last token
)
PROMPTS = [[5, 9, 2], list(range(20, 40)), [7], [1, 2, 3, 4, 5, 6, 7, 8], [90, 91], list(range(60, 90)), [11] * 5]


@pytest.fixture(scope="module")
def model() -> Decoder:
    return random_decoder(CONFIG)


def greedy(num: int, **changes: Any) -> Sampling:
    return Sampling(**({"max_new_tokens": num, "temperature": 0.0} | changes))


def alone(model: Decoder, prompt: list[int], sampling: Sampling, eos_id: int | None = None) -> list[int]:
    return list(generate(model, prompt, eos_id=eos_id, **dataclasses.asdict(sampling)))


SAMPLINGS = [
    greedy(12),
    Sampling(max_new_tokens=9, temperature=1.5, seed=3),
    greedy(1),
    Sampling(max_new_tokens=15, temperature=1.0, top_k=None, top_p=0.9, seed=4),
    greedy(17, repetition_penalty=1.4),
    Sampling(max_new_tokens=18, temperature=2.0, top_k=None, seed=2**63),
    Sampling(max_new_tokens=20, temperature=0.7, top_k=7, repetition_penalty=1.2, seed=4),
]


@pytest.mark.parametrize("max_rows", [1, 2, 3, 8])
def test_a_row_says_what_it_says_alone(model: Decoder, max_rows: int) -> None:
    expected = [alone(model, prompt, sampling) for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True)]
    assert generate_batch(model, PROMPTS, SAMPLINGS, eos_id=None, max_rows=max_rows) == expected
    end = expected[4][8]
    cut = [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in expected]
    assert generate_batch(model, PROMPTS, SAMPLINGS, eos_id=end, max_rows=max_rows) == cut


@settings(max_examples=20)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(0, 12)),
        min_size=1,
        max_size=8,
    ),
    max_rows=st.integers(1, 4),
)
def test_whenever_rows_come_and_go(
    model: Decoder, arrivals: list[tuple[int, int, int, bool, int]], max_rows: int
) -> None:
    """Each arrival: how many steps after the one before, prompt, tokens, whether drawn at random, steps until removed
    (0 and what is beyond its end: never)."""
    batch = Generation(model, max_rows=max_rows, eos_id=17)
    waiting = list(enumerate(arrivals))
    texts: dict[int, list[int]] = {}
    ended: dict[int, str] = {}
    number_of: dict[int, int] = {}
    steps_of: dict[int, int] = {}
    removed: set[int] = set()
    pause = 0
    while waiting or batch.num_rows:
        while waiting and batch.num_free and pause >= waiting[0][1][0]:
            number, (_, length, num_new, at_random, _) = waiting.pop(0)
            pause = 0
            row_id = batch.add(prompt_of(number, length), sampling_of(number, num_new, at_random))
            number_of[row_id], texts[number], steps_of[row_id] = number, [], 0
        pause += 1
        before = batch.num_rows
        drawn_rows = batch.step()
        assert len(drawn_rows) == before
        assert batch.num_rows == before - sum(bool(drawn.ended) for drawn in drawn_rows)
        for drawn in drawn_rows:
            number = number_of[drawn.row_id]
            assert number not in ended and number not in removed
            steps_of[drawn.row_id] += 1
            if drawn.token is not None:
                texts[number].append(drawn.token)
            if drawn.ended:
                ended[number] = drawn.ended
            elif steps_of[drawn.row_id] == arrivals[number][4]:
                batch.remove(drawn.row_id)
                removed.add(number)
    for number, (_, length, num_new, at_random, steps) in enumerate(arrivals):
        expected = alone(model, prompt_of(number, length), sampling_of(number, num_new, at_random), eos_id=17)
        if number in removed:
            assert texts[number] == expected[:steps]
        else:
            assert texts[number] == expected
            assert ended[number] == ("length" if len(expected) == num_new else "stop")


def prompt_of(number: int, length: int) -> list[int]:
    return [(31 * number + 7 * place + 1) % 128 for place in range(length)]


def sampling_of(number: int, num_new: int, at_random: bool) -> Sampling:
    return Sampling(max_new_tokens=num_new, temperature=1.5 if at_random else 0.0, seed=number)


def test_greedy_is_what_transformers_says_of_a_padded_batch(model: Decoder) -> None:
    theirs: Any = reference_network(model)
    longest = max(len(prompt) for prompt in PROMPTS)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in PROMPTS])
    looked_at = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    continued = theirs.generate(
        padded, attention_mask=looked_at, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = generate_batch(model, PROMPTS, [greedy(16)] * len(PROMPTS), eos_id=None)
    assert ours == continued[:, longest:].tolist()


def test_the_ends_are_told_with_the_last_token(model: Decoder) -> None:
    prompt = next(prompt for prompt in PROMPTS if len(set(alone(model, prompt, greedy(4)))) == 4)
    tokens = alone(model, prompt, greedy(4))
    batch = Generation(model, max_rows=2, eos_id=tokens[3])
    first, second = batch.add(prompt, greedy(3)), batch.add(prompt, greedy(6))
    assert (batch.num_rows, batch.num_free) == (2, 0)
    assert batch.step() == [Drawn(first, tokens[0]), Drawn(second, tokens[0])]
    assert batch.step() == [Drawn(first, tokens[1]), Drawn(second, tokens[1])]
    assert batch.step() == [Drawn(first, tokens[2], "length"), Drawn(second, tokens[2])]
    assert (batch.num_rows, batch.num_free) == (1, 1)
    assert batch.step() == [Drawn(second, None, "stop")]
    assert (batch.num_rows, batch.num_free) == (0, 2)
    assert batch.step() == []


def test_a_row_may_leave_before_its_first_token_and_twice(model: Decoder) -> None:
    batch = Generation(model, max_rows=2, eos_id=None)
    first, second = batch.add([1], greedy(2)), batch.add([2], greedy(2))
    batch.remove(first)
    batch.remove(first)
    assert batch.num_free == 1
    assert [drawn.row_id for drawn in batch.step()] == [second]


def test_a_full_batch_refuses_and_goes_on(model: Decoder) -> None:
    batch = Generation(model, max_rows=1, eos_id=None)
    row_id = batch.add([1], greedy(2))
    with pytest.raises(ValueError, match="all 1 rows are in use; wait until one has ended"):
        batch.add([2], greedy(2))
    assert [drawn.row_id for drawn in batch.step()] == [row_id]


def diverged_after(token: int) -> Decoder:
    """Finite, unless a text holds this token."""
    model = random_decoder(CONFIG)
    with torch.no_grad():
        model.embedding.weight[token] = float("nan")
    return model


def test_a_row_that_is_not_finite_leaves_and_the_others_lose_nothing() -> None:
    model = diverged_after(100)
    good = [[5, 9, 2], [7, 8]]
    expected = [alone(model, prompt, greedy(4)) for prompt in good]
    assert all(100 not in tokens for tokens in expected)
    batch = Generation(model, max_rows=4, eos_id=None)
    ids = [batch.add(good[0], greedy(4)), batch.add([100, 3], greedy(4)), batch.add([3, 100], greedy(4))]
    ids.append(batch.add(good[1], greedy(4)))
    failed, texts = [], {ids[0]: list[int](), ids[3]: list[int]()}
    while batch.num_rows:
        try:
            for drawn in batch.step():
                assert drawn.token is not None
                texts[drawn.row_id].append(drawn.token)
        except RowError as error:
            assert "logits are not finite: its training diverged; take an earlier checkpoint" in str(error)
            failed.append(error.row_id)
            if len(failed) == 2:  # the places that they left are taken by others
                texts |= {batch.add(prompt, greedy(4)): [] for prompt in good}
    assert sorted(failed) == ids[1:3]
    assert list(texts.values()) == expected * 2


def test_the_last_tokens_of_others_come_after_a_failure() -> None:
    model = diverged_after(100)
    batch = Generation(model, max_rows=2, eos_id=None)
    good, bad = batch.add([5], greedy(1)), batch.add([100], greedy(1))
    with pytest.raises(RowError) as caught:
        batch.step()
    assert caught.value.row_id == bad
    assert (batch.num_rows, batch.num_free) == (1, 2)
    assert [(drawn.row_id, drawn.ended) for drawn in batch.step()] == [(good, "length")]
    assert batch.num_rows == 0


def test_a_batch_names_the_prompt(model: Decoder) -> None:
    with pytest.raises(ValueError, match="prompt 2: the prompt is empty"):
        generate_batch(model, [[1], []], [greedy(1)] * 2, eos_id=None)
    with pytest.raises(ValueError, match="prompt 2: the model's logits are not finite"):
        generate_batch(diverged_after(100), [[1], [100], [2]], [greedy(3)] * 3, eos_id=None)
    with pytest.raises(ValueError, match="2 prompts and 1 samplings"):
        generate_batch(model, [[1], [2]], [greedy(1)], eos_id=None)
    assert generate_batch(model, [], [], eos_id=None) == []


def test_rows_have_the_positions_that_were_asked_for(model: Decoder) -> None:
    batch = Generation(model, max_rows=1, eos_id=None, max_positions=10)
    batch.add([1] * 6, greedy(4))
    batch.check([1] * 9, greedy(1))
    with pytest.raises(ValueError, match="a prompt of 9 tokens and 2 new ones exceed a row's 10 positions; shorten"):
        batch.check([1] * 9, greedy(2))
    assert [len(batch.step()) for _ in range(4)] == [1] * 4
    with pytest.raises(ValueError, match="a cache of 49 positions; the model takes 1 to 48"):
        Generation(model, max_rows=1, eos_id=None, max_positions=49)
    with pytest.raises(ValueError, match="max_rows is 0"):
        Generation(model, max_rows=0, eos_id=None)


@pytest.mark.parametrize(
    ("lengths", "num_together"),
    [
        ([5], 1),
        ([1, 2, 60], 2),  # 3 x 60 tokens, of which 63 are real
        ([1] * 8, 8),
        ([8] * 8 + [9], 9),  # 81 tokens, 73 real
        ([100, 166], 2),  # 332 tokens, 1.25 x 266 are 332.5
        ([100, 167], 1),  # 334 tokens, 1.25 x 267 are 333.75
        ([200, 300, 300], 3),  # 900, 1.25 x 800 are 1,000
        ([1, 32, 32], 2),  # 64 tokens, then 96 of which 65 are real
    ],
)
def test_prompts_of_like_length_are_read_together(lengths: list[int], num_together: int) -> None:
    assert _num_together(lengths) == num_together


def test_training_is_undisturbed() -> None:
    """A network that is being trained is continued from, and trains on with the weights and the graph that it had."""
    model = random_decoder(CONFIG)
    list(generate(model, [1, 2], max_new_tokens=3, eos_id=None, seed=0))
    model.loss(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
