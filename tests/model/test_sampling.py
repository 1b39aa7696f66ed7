from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.sampling import Sampler, Sampling, draw_rows


def sampler(prompt: list[int] | None = None, **changes: Any) -> Sampler:
    plain: dict[str, Any] = {"max_new_tokens": 1, "temperature": 1.0, "top_k": None}
    return Sampler(Sampling(**(plain | changes)), prompt or [])


def frequencies(row: Sampler, logits_V: Tensor, num: int) -> Tensor:
    counts = Counter(row.draw(logits_V) for _ in range(num))
    return torch.tensor([counts[token] / num for token in range(len(logits_V))])


def reference_probabilities(logits_V: Tensor, prompt: list[int], sampling: Sampling) -> Tensor:
    """What transformers' processors leave, in the order in which its `generate` calls them."""
    from transformers.generation import logits_process as theirs

    processors: list[Any] = [theirs.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.repetition_penalty != 1.0:
        processors.insert(0, theirs.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k is not None:
        processors.append(theirs.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        processors.append(theirs.TopPLogitsWarper(sampling.top_p))
    scores = logits_V[None]
    for processor in processors:
        scores = processor(torch.tensor([prompt]), scores)
    return scores[0].softmax(-1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.6},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.5},
        {"temperature": 1.3, "top_k": 5, "top_p": 0.8, "repetition_penalty": 1.3},
    ],
)
def test_frequencies_are_those_of_transformers(changes: dict[str, Any]) -> None:
    torch.manual_seed(3)
    logits_V, prompt, num = torch.randn(8) * 2, [1, 4, 4, 6], 4_000
    row = sampler(prompt, **changes)
    expected = reference_probabilities(logits_V, prompt, row.sampling)
    # each draw as the first one: what was drawn is penalised too
    generator = row._generator
    counts: Counter[int] = Counter()
    for _ in range(num):
        fresh = sampler(prompt, **changes)
        fresh._generator = generator
        counts[fresh.draw(logits_V)] += 1
    found = torch.tensor([counts[token] / num for token in range(8)])
    assert found[expected == 0].sum() == 0
    assert (found - expected).abs().max() < 4 * math.sqrt(0.25 / num)  # four standard deviations at most


def test_the_penalty_divides_what_is_positive_and_multiplies_the_rest() -> None:
    logits_V = torch.tensor([4.0, 3.0, -1.0, -2.0])
    assert [sampler([0], temperature=0, repetition_penalty=penalty).draw(logits_V) for penalty in (1.3, 1.4)] == [0, 1]
    below = torch.tensor([-1.0, -1.5])
    assert [sampler([0, 0], temperature=0, repetition_penalty=penalty).draw(below) for penalty in (1.4, 1.6)] == [0, 1]


def test_what_was_drawn_is_penalised_too() -> None:
    row = sampler([3], temperature=0, repetition_penalty=2.0)
    logits_V = torch.tensor([4.0, 3.0, 2.5, 5.0])
    before = logits_V.clone()
    assert [row.draw(logits_V) for _ in range(4)] == [0, 1, 2, 3]
    assert torch.equal(logits_V, before)


def test_a_whole_vocabulary_is_drawn_in_proportion() -> None:
    logits_V = torch.tensor([0.1, 0.2, 0.0, 0.7]).log()
    found = frequencies(sampler(), logits_V, 4_000)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.0, 0.7]), atol=0.03, rtol=0)
    assert found[2] == 0


@pytest.mark.parametrize("num_kept", [1_024, 1_025, 9_000])
def test_a_nucleus_may_be_larger_than_what_is_looked_at_first(num_kept: int) -> None:
    """`num_kept` equal tokens among 10,000 hold all but nothing; `top_p` a little below their sum takes them all."""
    logits_V = torch.full((10_000,), -40.0)
    kept = torch.randperm(10_000, generator=torch.Generator().manual_seed(1))[:num_kept]
    logits_V[kept] = 0.0
    row = sampler(top_p=1 - 0.5 / num_kept)
    drawn = {row.draw(logits_V) for _ in range(500)}
    assert drawn <= set(kept.tolist())
    assert len(drawn) > 350
    everything = sampler(top_p=1.0)
    assert everything.draw(torch.zeros(10_000)) in range(10_000)


@settings(max_examples=60)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 1e6]),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.01, 1.0),
    penalty=st.sampled_from([0.5, 1.0, 1.5]),
    seed=st.integers(0, 2**64 - 1),
)
def test_whatever_is_drawn_may_be_drawn(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None, penalty: float, seed: int
) -> None:
    logits_V = torch.tensor(logits)
    changes = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": penalty, "seed": seed}
    token = sampler([0], **changes).draw(logits_V)
    assert sampler([0], **changes).draw(logits_V) == token
    penalised = logits_V.clone()
    penalised[0] = penalised[0] * penalty if penalised[0] < 0 else penalised[0] / penalty
    num_greater = int((penalised > penalised[token]).sum())
    if temperature in (0.0, 1e-300):
        assert num_greater == 0
    assert num_greater < (top_k or len(logits))


def test_rows_that_are_not_finite_are_told_apart() -> None:
    logits_NV = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [math.inf, 0.0], [0.0, -math.inf], [3.0, -1e38]])
    for row in (sampler(temperature=0), sampler(seed=2)):
        tokens = draw_rows(logits_NV, [row] * 5)
        assert [token is None for token in tokens] == [False, True, True, True, False]
        assert tokens[4] == 0


def test_each_row_is_drawn_with_its_own() -> None:
    logits_NV = torch.tensor([[0.0, 5.0, 9.0]] * 4)
    rows = [sampler(temperature=0), sampler([2], temperature=0, repetition_penalty=3.0), sampler(top_k=1)]
    assert draw_rows(logits_NV, [*rows, sampler(seed=9)])[:3] == [2, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"repetition_penalty": 0.0099}, "it must be from 0.01 to 100"),
        ({"repetition_penalty": 100.1}, "it must be from 0.01 to 100"),
        ({"repetition_penalty": math.nan}, "repetition_penalty is nan"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, f"seed is {2**64}"),
    ],
)
def test_figures_out_of_bounds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**({"max_new_tokens": 1} | changes))
    Sampling(max_new_tokens=1, temperature=0.0, top_k=1, top_p=1.0, repetition_penalty=0.01, seed=2**64 - 1)
    Sampling(max_new_tokens=1, repetition_penalty=100)
