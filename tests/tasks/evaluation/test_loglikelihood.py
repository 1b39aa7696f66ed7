"""Log-likelihoods against a loop that could not be simpler, with all that a decoder can have."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from model.config import DecoderConfig, RopeScaling
from model.decoder import Decoder
from tasks.evaluation.loglikelihood import LocalScorer, Pair, is_truncated, read_and_scored
from tasks.tokenizer import END_OF_TEXT_ID

MAX_POSITIONS = 24
VOCAB_SIZE = 64


def decoder(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48, "init_std": 0.3}
    return Decoder(DecoderConfig(vocab_size=VOCAB_SIZE, max_seq_len=MAX_POSITIONS, **(sizes | changes)))


def questions(seed: int = 0, num: int = 12) -> list[Pair]:
    """Contexts of all lengths, some longer than the network, each with choices that share some tokens."""
    chance = random.Random(seed)
    pairs: list[Pair] = []
    for _ in range(num):
        context = [END_OF_TEXT_ID, *(chance.randrange(3, VOCAB_SIZE) for _ in range(chance.randrange(30)))]
        pairs += [
            (context, [chance.randrange(3, 7) for _ in range(chance.randrange(1, 8))])
            for _ in range(chance.randrange(1, 5))
        ]
    return pairs


def naive(model: Decoder, pair: Pair) -> tuple[float, bool]:
    """Each token of the continuation from those before it, one by one, in float64."""
    tokens = [*pair[0], *pair[1]][-(MAX_POSITIONS + 1) :]
    nats, greedy = 0.0, True
    for place in range(len(tokens) - len(pair[1]), len(tokens)):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[:place]]))[0, -1].double()
        nats += float(logits.log_softmax(-1)[tokens[place]])
        greedy &= int(logits.argmax()) == tokens[place]
    return nats, greedy


VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one head each": {"num_kv_heads": 4},
    "QK-norm": {"qk_norm": True},
    "a head of its own": {"tie_embeddings": False},
    "slowed rotation": {"rope_scaling": RopeScaling(kind="yarn", factor=2.0, original_max_seq_len=12)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("share_context", [True, False])
def test_agrees_with_a_loop_over_tokens(variant: str, share_context: bool):
    model, pairs = decoder(**VARIANTS[variant]), questions()
    expected = [naive(model, pair) for pair in pairs]
    found = LocalScorer(model, batch_tokens=200, share_context=share_context).loglikelihoods(pairs)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_neither_batches_nor_order_matter(batch_tokens: int):
    model, pairs = decoder(), questions(1)
    expected = LocalScorer(model).loglikelihoods(pairs)
    places = list(range(len(pairs)))
    random.Random(2).shuffle(places)
    found = LocalScorer(model, batch_tokens=batch_tokens).loglikelihoods([pairs[place] for place in places])
    for place, (nats, greedy) in zip(places, found, strict=True):
        assert nats == pytest.approx(expected[place][0], rel=1e-5)
        assert greedy == expected[place][1]


def test_the_greedy_continuation_is_known_as_such():
    model = decoder()
    tokens = [END_OF_TEXT_ID, 5, 9]
    for _ in range(6):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    other = [*tokens[3:8], (tokens[8] + 1) % VOCAB_SIZE]
    found = LocalScorer(model).loglikelihoods([(tokens[:3], tokens[3:]), (tokens[:3], other), (tokens[:3], other[:5])])
    assert [greedy for _, greedy in found] == [True, False, True]


def test_the_uniform_model_has_the_exact_value():
    model = decoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = LocalScorer(model).loglikelihoods([([1], [3, 4, 5]), ([1, 3], [4])])
    log_of_vocabulary = torch.tensor(float(VOCAB_SIZE)).log().item()
    assert [nats for nats, _ in found] == pytest.approx([-3 * log_of_vocabulary, -log_of_vocabulary])


def test_what_is_too_long_loses_its_beginning():
    pair = ([1, *range(10, 10 + 20)], [40, 41, 42, 43])
    assert read_and_scored(pair, 24) == ([1, *range(10, 30), 40, 41, 42], [40, 41, 42, 43])
    assert not is_truncated(pair, 24)
    assert read_and_scored(pair, 23) == (read_and_scored(pair, 24)[0][-23:], [40, 41, 42, 43]) != pair
    assert [is_truncated(pair, max_positions) for max_positions in (23, 24)] == [True, False]
    assert read_and_scored(pair, 4) == ([29, 40, 41, 42], [40, 41, 42, 43])
    assert read_and_scored(pair, 3) == ([40, 41, 42], [41, 42, 43])


def test_says_how_many_pairs_are_done():
    pairs, told = questions(3), []
    LocalScorer(decoder(), batch_tokens=50).loglikelihoods(pairs, on_done=told.append)
    assert len(told) > 3
    assert sum(told) == len(pairs)
    assert LocalScorer(decoder()).loglikelihoods([]) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_refused(value: float):
    model = decoder()
    with torch.no_grad():
        model.final_norm.weight[3] = value
    with pytest.raises(ValueError, match="logits are not finite: its training diverged"):
        LocalScorer(model).loglikelihoods(questions())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_agrees_with_the_cpu():
    pairs = questions(4)
    expected = LocalScorer(decoder()).loglikelihoods(pairs)
    found = LocalScorer(decoder().to("cuda")).loglikelihoods(pairs)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-3)
