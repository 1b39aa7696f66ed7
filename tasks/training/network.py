"""A recipe's network and optimizer, laid out over the processes and seeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import build_optimizer
from model.parallel import Parallelism, parallelize
from model.scaling import HyperParameters
from tasks.checkpoints.pieces import Box, own_box, own_part
from tasks.recipes.pretraining import PretrainRecipe


def device_of(name: str) -> torch.device:
    """The device of this process. Raises ValueError for a GPU where there is none."""
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for and torch finds no GPU: use auto or cpu")
    return torch.device(name)


def build_network(
    recipe: PretrainRecipe, parallelism: Parallelism, mesh: DeviceMesh | None, device: torch.device
) -> Decoder:
    """The network at the beginning of a run: the recipe's seed gives every layout the same weights."""
    return parallelize(_fresh(recipe.decoder_config(), recipe.seed), parallelism, mesh, device)


def optimizer_of(recipe: PretrainRecipe, hyper: HyperParameters, model: Decoder) -> torch.optim.Optimizer:
    """For a network that is laid out already."""
    return build_optimizer(
        recipe.optimizer,
        model,
        learning_rate=hyper.learning_rate,
        betas=hyper.betas,
        weight_decay=hyper.weight_decay,
    )


def begin_anew(recipe: PretrainRecipe, model: Decoder, optimizer: torch.optim.Optimizer) -> None:
    """Put network and optimizer back to the beginning of the run. All processes must call it."""
    weights = _fresh(recipe.decoder_config(), recipe.seed).state_dict()
    for name, tensor in model.state_dict().items():
        own_part(tensor).copy_(weights[name][own_box(tensor).slices_in(Box.whole(tensor.shape))])
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()


def _fresh(config: DecoderConfig, seed: int) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(config)


def gathered(model: Decoder, *, keep: bool) -> Decoder | None:
    """A copy in this process' main memory of a network that is spread over several; None where it is not to `keep` it.

    All processes must call it. The copy has the whole network, and computes on the CPU.
    """
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not keep:
        return None
    with torch.device("meta"):  # takes no memory, and nothing from the generator
        copy = Decoder(model.config)
    copy.load_state_dict(weights, assign=True)
    return copy


@contextmanager
def as_written(parallelism: Parallelism) -> Iterator[None]:
    """Run compiled blocks uncompiled: evaluation and samples have shapes of their own, each a compilation."""
    if not parallelism.compile:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
