"""The tensors that a training goes on from, by name: the network's, the optimizer's, and the random generators.

The network's have the names of its state_dict; the optimizer's are called <parameter>/<key>, such as
embedding.weight/exp_avg, whatever groups it keeps them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.decoder import Decoder
from tasks.checkpoints.pieces import StoredTensors, own_box, own_part

_CPU_GENERATOR, _GPU_GENERATOR = "random/cpu", "random/cuda"


def network_tensors(model: Decoder) -> dict[str, Tensor]:
    """Weights by name. Sharded networks are put back into their shards by this, if they were gathered."""
    return dict(model.state_dict())


def optimizer_tensors(model: Decoder, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter and key. Call it after `network_tensors`."""
    names = _names_by_index(model, optimizer)
    per_parameter: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    found = {f"{names[index]}/{key}": value for index, state in per_parameter.items() for key, value in state.items()}
    assert all(isinstance(value, Tensor) for value in found.values()), "the state of AdamW and Muon is all tensors"
    return found


def generator_states() -> dict[str, Tensor]:
    """Of this process' random generators."""
    states = {_CPU_GENERATOR: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[_GPU_GENERATOR] = torch.cuda.get_rng_state()
    return states


def restore_network(stored: StoredTensors, model: Decoder, address: str) -> None:
    """Put the stored weights into `model`. Raises ValueError naming the first parameter that differs."""
    weights = network_tensors(model)
    _check_shapes(address, {name: tuple(tensor.shape) for name, tensor in weights.items()}, stored.shapes)
    for name, tensor in weights.items():
        stored.read(name, own_box(tensor), own_part(tensor))


def restore_optimizer(stored: StoredTensors, model: Decoder, optimizer: torch.optim.Optimizer, address: str) -> None:
    """Give `optimizer` the stored state; call it after `restore_network`. Raises ValueError where it is another's."""
    parameters = dict(model.named_parameters())
    indices = {name: index for index, name in _names_by_index(model, optimizer).items()}
    per_parameter: dict[int, dict[str, Tensor]] = {index: {} for index in indices.values()}
    for full_name, shape in stored.shapes.items():
        if full_name in (_CPU_GENERATOR, _GPU_GENERATOR):
            continue
        name, _, key = full_name.rpartition("/")
        if name not in indices:
            raise ValueError(f"{address}: the optimizer state of {name} belongs to no parameter of the network")
        parameter = parameters[name].detach()
        if shape not in ((), tuple(parameter.shape)):
            raise ValueError(f"{address}: the optimizer's {key} of {name} has the shape {shape}, not the parameter's")
        # laid out as its parameter is now; a single number, such as Adam's count of steps, is everybody's
        value = torch.empty_like(parameter) if shape else torch.zeros(())
        stored.read(full_name, own_box(value), own_part(value))
        per_parameter[indices[name]][key] = value
    # the groups' settings (betas, decay, learning rate) follow from the recipe and the step, not from the file
    optimizer.load_state_dict({"state": per_parameter, "param_groups": optimizer.state_dict()["param_groups"]})


def restore_generators(stored: StoredTensors, file: str) -> None:
    """Have this process' random generators go on from where they were; `file` is the one that it wrote."""

    def state(name: str) -> Tensor:
        into = torch.empty(stored.shapes[name], dtype=torch.uint8)
        stored.read(name, own_box(into), into, only=file)
        return into

    torch.set_rng_state(state(_CPU_GENERATOR))
    if torch.cuda.is_available() and _GPU_GENERATOR in stored.shapes:
        torch.cuda.set_rng_state(state(_GPU_GENERATOR))


def _check_shapes(address: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{address} has no parameter {name}: it was made for another network")
        if found[name] != shape:
            raise ValueError(
                f"{address}: parameter {name} has the shape {found[name]}, the network's has {shape}: use the recipe "
                "that the checkpoint was made with"
            )
    if surplus := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{address}: parameter {surplus[0]} is not part of the network: it was made for another one")


def _names_by_index(model: Decoder, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """The optimizer's number of each parameter, to its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: names[id(parameter)] for index, parameter in enumerate(in_order)}
