from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from model.generate import generate

CONFIG = DecoderConfig(
    vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_seq_len=24, init_std=0.2
)
PROMPT = [5, 9, 2]


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG)


def drawn(model: Decoder, **changes: Any) -> list[int]:
    arguments: dict[str, Any] = {"max_new_tokens": 12, "eos_id": None, "seed": 0} | changes
    return list(generate(model, arguments.pop("prompt", PROMPT), **arguments))


def greedy_without_cache(model: Decoder, prompt: list[int], num_new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_new):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def one_layer_of_fixed_logits(logits: list[float]) -> Decoder:
    """A model whose next-token logits are `logits` after any token: the blocks add nothing, embeddings are equal."""
    config = DecoderConfig(
        vocab_size=len(logits),
        d_model=2,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        d_ff=2,
        max_seq_len=4_096,
        tie_embeddings=False,
        norm_eps=1e-12,
    )
    model = Decoder(config)
    assert model.head is not None
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()
        model.embedding.weight.fill_(1.0)
        model.head.weight.copy_(torch.tensor(logits)[:, None].expand(-1, 2) / 2)
    return model


@pytest.mark.parametrize("prompt", [[1], PROMPT, [63, 0, 63, 0, 7, 7]])
def test_greedy_is_the_argmax_of_the_uncached_model(model: Decoder, prompt: list[int]) -> None:
    expected = greedy_without_cache(model, prompt, 12)
    assert drawn(model, prompt=prompt, temperature=0.0) == expected
    assert drawn(model, prompt=prompt, temperature=1e-300) == expected
    assert drawn(model, prompt=prompt, top_k=1) == expected
    assert drawn(model, prompt=prompt, top_k=None, top_p=1e-6) == expected


def test_the_seed_decides(model: Decoder) -> None:
    first = drawn(model, temperature=2.0)
    assert drawn(model, temperature=2.0) == first
    assert len({tuple(drawn(model, temperature=2.0, seed=seed)) for seed in range(5)}) == 5


def test_the_global_generator_is_left_alone(model: Decoder) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    drawn(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_consumer_is_not_in_inference_mode(model: Decoder) -> None:
    tokens = generate(model, PROMPT, max_new_tokens=3, eos_id=None, seed=0)
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_it_ends_before_the_end_token(model: Decoder) -> None:
    whole = drawn(model, temperature=0.0)
    end = whole[4]
    assert drawn(model, temperature=0.0, eos_id=end) == whole[: whole.index(end)]


def test_padding_rows_are_never_drawn() -> None:
    model = one_layer_of_fixed_logits([0.0] * 4 + [9.0] * 60)
    assert set(drawn(model, prompt=[0], max_new_tokens=200, num_tokens=4, temperature=1.0)) == {0, 1, 2, 3}
    assert set(drawn(model, prompt=[0], max_new_tokens=200, temperature=1.0)) - {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_diverged_model_is_named(temperature: float) -> None:
    model = one_layer_of_fixed_logits([0.0, float("nan"), 1.0])
    with pytest.raises(ValueError, match="logits are not finite: its training diverged; take an earlier checkpoint"):
        drawn(model, prompt=[0], temperature=temperature)


def test_frequencies_follow_temperature_and_top_k() -> None:
    model = one_layer_of_fixed_logits([0.0, 1.0, 2.0, 3.0])
    counts = Counter(drawn(model, prompt=[0], max_new_tokens=3_000, temperature=2.0, top_k=3))
    weights = torch.tensor([1.0, 2.0, 3.0]).div(2.0).softmax(-1)
    assert counts[0] == 0
    for token, weight in zip((1, 2, 3), weights.tolist(), strict=True):
        assert counts[token] / 3_000 == pytest.approx(weight, abs=0.04)  # over 4 standard deviations


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p: float, num_kept: int) -> None:
    model = one_layer_of_fixed_logits([0.0] * 4)  # each has a probability of exactly a quarter
    tokens = drawn(model, prompt=[0], max_new_tokens=100, temperature=1.0, top_k=None, top_p=top_p)
    assert len(set(tokens)) == num_kept


def test_top_k_above_the_vocabulary_is_all_of_it(model: Decoder) -> None:
    assert drawn(model, top_k=10_000) == drawn(model, top_k=None)


def test_the_positions_are_used_to_the_last(model: Decoder) -> None:
    assert len(drawn(model, max_new_tokens=21)) == 21
    with pytest.raises(
        ValueError, match="a prompt of 3 tokens and 22 new ones exceed the model's 24 positions; shorten"
    ):
        drawn(model, max_new_tokens=22)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "the prompt is empty; start it with at least one token"),
        ({"prompt": [1] * 30}, "a prompt of 30 tokens and 12 new ones exceed"),
        ({"prompt": [1, 64]}, "token 64 of a vocabulary of 64"),
        ({"prompt": [-1]}, "token -1 of a vocabulary of 64"),
        ({"prompt": [60], "num_tokens": 60}, "token 60 of a vocabulary of 60"),
        ({"num_tokens": 65}, "num_tokens is 65; the model's vocabulary has 64"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_misuse_is_refused_before_the_first_token(model: Decoder, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": 12, "eos_id": None, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        generate(model, arguments.pop("prompt"), **arguments)
