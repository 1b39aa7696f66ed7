"""Networks at their beginning, and copies of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.decoder import Decoder
from model.parallel import Parallelism
from tasks.training.network import as_written, begin_anew, build_network, device_of, gathered, optimizer_of
from tests.tasks.training.training_runs import RECIPE

CPU = torch.device("cpu")


def step(model: Decoder, optimizer: torch.optim.Optimizer) -> float:
    tokens_BT = torch.arange(32).reshape(2, 16)
    optimizer.zero_grad()
    loss = model.loss(tokens_BT, tokens_BT.roll(-1, 1))
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_begun_anew_it_goes_the_same_way(kind: str):
    recipe = RECIPE.model_copy(update={"optimizer": kind})
    model = build_network(recipe, Parallelism(), None, CPU)
    optimizer = optimizer_of(recipe, recipe.hyper_parameters(1000), model)
    first = [step(model, optimizer) for _ in range(3)]
    begin_anew(recipe, model, optimizer)
    assert [step(model, optimizer) for _ in range(3)] == first
    assert first[0] > first[1] + 0.1


def test_another_seed_is_another_network():
    first, same, other = (
        build_network(RECIPE.model_copy(update={"seed": seed}), Parallelism(), None, CPU).embedding.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_gathered_copy_computes_the_same_and_takes_nothing_from_the_generator():
    model = build_network(RECIPE, Parallelism(), None, CPU)
    before = torch.get_rng_state()
    copy = gathered(model, keep=True)
    assert copy is not None and torch.equal(torch.get_rng_state(), before)
    tokens_BT = torch.arange(32).reshape(2, 16)
    assert torch.equal(copy(tokens_BT), model(tokens_BT))
    assert gathered(model, keep=False) is None


def test_the_optimizer_has_the_recipes_figures():
    recipe = RECIPE.model_copy(update={"beta1": 0.8, "weight_decay": 0.3})
    model = build_network(recipe, Parallelism(), None, CPU)
    decay, no_decay = optimizer_of(recipe, recipe.hyper_parameters(1000), model).param_groups
    assert (decay["betas"], decay["weight_decay"], no_decay["weight_decay"]) == ((0.8, 0.95), 0.3, 0.0)


def test_compiled_blocks_run_as_written_within(tmp_path: Path):
    calls: list[int] = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)  # traced once where it is compiled
        return x * 2

    compiled = torch.compile(double, backend="eager")
    with as_written(Parallelism(compile=True)):
        for size in (1, 2, 3):
            compiled(torch.ones(size))
    assert len(calls) == 3
    with as_written(Parallelism()):
        pass


def test_devices():
    assert device_of("cpu") == CPU
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no GPU: use auto or cpu"):
            device_of("cuda:1")
