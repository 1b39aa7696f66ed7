from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import MuonAdamW, OptimizerKind, build_adamw, build_optimizer


def decoder_of(*, tie_embeddings: bool) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocab_size=64,
            d_model=16,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            d_ff=24,
            max_seq_len=8,
            tie_embeddings=tie_embeddings,
        )
    )


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_groups(tie_embeddings: bool) -> None:
    model = decoder_of(tie_embeddings=tie_embeddings)
    optimizer = build_adamw(model, learning_rate=1e-3, weight_decay=0.3, betas=(0.8, 0.9))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    decayed, spared = ({names[id(parameter)] for parameter in groups[key]["params"]} for key in ("decay", "no_decay"))
    projections = ["attention.query", "attention.key", "attention.value", "attention.output"]
    projections += ["feed_forward.gate", "feed_forward.up", "feed_forward.down"]
    matrices = {f"blocks.{i}.{projection}.weight" for i in range(2) for projection in projections}
    assert decayed == matrices | (set() if tie_embeddings else {"head.weight"})
    assert decayed | spared == set(names.values())
    assert not decayed & spared
    assert groups["decay"]["weight_decay"] == 0.3
    assert groups["no_decay"]["weight_decay"] == 0.0
    assert all(group["lr"] == 1e-3 and group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_decay_shrinks_matrices_only() -> None:
    model = decoder_of(tie_embeddings=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_adamw(model, learning_rate=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_spared = name == "embedding.weight" or name.endswith("norm.weight")
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if is_spared else 1 - 0.01 * 0.1))


def test_one_step_against_the_published_algorithm() -> None:
    model = decoder_of(tie_embeddings=True)
    weight = model.final_norm.weight
    optimizer = build_adamw(model, learning_rate=0.01)
    tokens_BT = torch.arange(8)[None]
    model.loss(tokens_BT, tokens_BT).backward()
    assert weight.grad is not None
    before, gradient = weight.detach().double(), weight.grad.double()
    optimizer.step()
    # the first step's bias-corrected moments are the gradient and its square
    expected = before - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_fused_wherever_there_is_a_kernel_unless_told(fused: bool) -> None:
    model = decoder_of(tie_embeddings=True)
    assert [group["fused"] for group in build_adamw(model, learning_rate=1e-3).param_groups] == [True, True]
    told = build_adamw(model, learning_rate=1e-3, fused=fused)
    assert [group["fused"] for group in told.param_groups] == [fused, fused]


def test_without_a_kernel_not_fused() -> None:
    with torch.device("meta"):
        model = Decoder(decoder_of(tie_embeddings=True).config)
    assert [group["fused"] for group in build_adamw(model, learning_rate=1e-3).param_groups] == [False, False]


def test_frozen_parameters_are_left_out() -> None:
    model = decoder_of(tie_embeddings=True)
    model.embedding.weight.requires_grad_(False)
    optimizer = build_adamw(model, learning_rate=1e-3)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert id(model.embedding.weight) not in held
    assert len(held) == len(list(model.parameters())) - 1


def train(model: Decoder, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """The losses of these steps; a step's batch depends on its number alone."""
    losses = []
    for step in steps:
        tokens_BT = torch.randint(0, 64, (4, 9), generator=torch.Generator().manual_seed(step))
        loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_groups_of_muon(tie_embeddings: bool) -> None:
    model = decoder_of(tie_embeddings=tie_embeddings)
    optimizer = MuonAdamW(model, learning_rate=1e-3, weight_decay=0.3, betas=(0.8, 0.9), momentum=0.7)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    held = {key: {names[id(parameter)] for parameter in group["params"]} for key, group in groups.items()}
    norms = {name for name in names.values() if name.endswith("norm.weight")}
    assert held["no_decay"] == norms | {"embedding.weight"}
    assert held.get("decay", set()) == (set() if tie_embeddings else {"head.weight"})
    assert held["matrices"] == set(names.values()) - held["no_decay"] - held.get("decay", set())
    assert all("blocks." in name for name in held["matrices"])
    assert {key: group["weight_decay"] for key, group in groups.items()} == {
        key: 0.0 if key == "no_decay" else 0.3 for key in held
    }
    assert groups["matrices"]["momentum"] == 0.7
    assert groups["no_decay"]["betas"] == (0.8, 0.9)
    assert groups["no_decay"]["fused"]


def test_muons_step_against_the_published_algorithm() -> None:
    model = decoder_of(tie_embeddings=True)
    optimizer = MuonAdamW(model, learning_rate=0.01, weight_decay=0.2)
    weight = model.blocks[1].get_parameter("feed_forward.gate.weight")  # 24 x 16
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(24, 16, generator=generator, dtype=torch.float64) for _ in range(2)]
    momentum = torch.zeros(24, 16, dtype=torch.float64)
    for gradient in gradients:
        before = weight.detach().double().clone()
        weight.grad = gradient.float()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        nesterov = 0.05 * gradient + 0.95 * momentum
        update = (before * (1 - 0.01 * 0.2) - weight.detach().double()) / (0.01 * 0.2 * math.sqrt(24))
        # five steps of Newton and Schulz bring every singular value to .7-1.2 and keep the directions (Jordan 2024)
        left, _, right = torch.linalg.svd(nesterov, full_matrices=False)
        in_its_bases = left.T @ update @ right.T
        values = in_its_bases.diagonal()
        assert values.min() > 0.6 and values.max() < 1.3
        torch.testing.assert_close(in_its_bases, torch.diag(values), atol=0.05, rtol=0)


def test_beside_muon_embedding_norms_and_head_are_adamws() -> None:
    models = [decoder_of(tie_embeddings=False) for _ in range(2)]
    optimizers = [
        MuonAdamW(models[0], learning_rate=0.01),
        build_adamw(models[1], learning_rate=0.01),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(1))
    ours, theirs = (dict(model.named_parameters()) for model in models)
    for name in ours:
        is_matrix_of_block = "blocks" in name and "norm" not in name
        assert torch.equal(ours[name], theirs[name]) != is_matrix_of_block, name


def test_a_new_rate_reaches_both() -> None:
    model = decoder_of(tie_embeddings=False)
    before = copy.deepcopy(model.state_dict())
    optimizer = MuonAdamW(model, learning_rate=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_both_learn(kind: OptimizerKind) -> None:
    model = decoder_of(tie_embeddings=True)
    optimizer = build_optimizer(kind, model, learning_rate=0.01)
    losses = [train(model, optimizer, range(1))[0] for _ in range(40)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("through_torch_checkpoint", [False, True])
def test_a_restored_run_is_bitwise_the_same(kind: OptimizerKind, through_torch_checkpoint: bool) -> None:
    model = decoder_of(tie_embeddings=False)
    optimizer = build_optimizer(kind, model, learning_rate=0.01)
    train(model, optimizer, range(3))
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(
        get_optimizer_state_dict(model, optimizer) if through_torch_checkpoint else optimizer.state_dict()
    )
    expected = train(model, optimizer, range(3, 6))

    again = decoder_of(tie_embeddings=False)
    restored = build_optimizer(kind, again, learning_rate=0.5)
    again.load_state_dict(weights)
    if through_torch_checkpoint:
        set_optimizer_state_dict(again, restored, state)
    else:
        restored.load_state_dict(state)
    assert [group["lr"] for group in restored.param_groups] == [0.01] * len(optimizer.param_groups)
    assert train(again, restored, range(3, 6)) == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_state_of_another_kind_is_refused() -> None:
    model = decoder_of(tie_embeddings=False)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        build_optimizer("muon", model, learning_rate=0.01).load_state_dict(
            build_optimizer("adamw", model, learning_rate=0.01).state_dict()
        )


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer is 'sgd'; choose adamw or muon"):
        build_optimizer("sgd", decoder_of(tie_embeddings=True), learning_rate=0.01)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="here is none; choose adamw"):
        MuonAdamW(torch.nn.Linear(2, 2), learning_rate=0.01)


MOST_DIFFERENT = {"adamw": 0.0, "muon": 0.05}
"""Of what three steps changed. Muon's products are in bf16 (8 bits), and added up in another order where sharded;
orthogonalising each shard by itself would be off by about 1."""


def step_with_random_gradients(model: Decoder, optimizer: torch.optim.Optimizer) -> None:
    """Of full rank: what is left of a matrix' other directions is rounding, which Muon would blow up to full size."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        optimizer.step()


def sharded_worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for kind in ("adamw", "muon"):
        alone, sharded = decoder_of(tie_embeddings=True), decoder_of(tie_embeddings=True)
        for block in sharded.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        for model in (alone, sharded):
            step_with_random_gradients(model, build_optimizer(kind, model, learning_rate=0.01))
        start = decoder_of(tie_embeddings=True)
        for (name, parameter), reference, before in zip(
            sharded.named_parameters(), alone.parameters(), start.parameters(), strict=True
        ):
            assert isinstance(parameter, DTensor)
            difference = (parameter.full_tensor() - reference).norm() / (reference - before).norm()
            assert difference <= MOST_DIFFERENT[kind], f"{kind} {name}: {difference}"
    dist.destroy_process_group()


@pytest.mark.verify
def test_sharded_over_two_processes_they_train_the_same(tmp_path: Path) -> None:
    deadline = time.monotonic() + 120
    context = multiprocessing.spawn(sharded_worker, (tmp_path,), nprocs=2, join=False)
    try:
        while not context.join(timeout=1.0):  # true only when all have ended
            assert time.monotonic() < deadline, "the two workers did not end in time"
    finally:
        for process in context.processes:
            process.kill()
