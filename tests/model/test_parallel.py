from __future__ import annotations

import dataclasses
import datetime
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from model.config import DecoderConfig
from model.decoder import Decoder
from model.kv_cache import KVCache
from model.loss import IGNORED_TARGET
from model.optimizer import MuonAdamW, build_adamw
from model.parallel import (
    ActivationCheckpointing,
    Parallelism,
    clip_grad_norm,
    data_rank,
    parallelize,
    without_exchange,
)

CONFIG = DecoderConfig(
    vocab_size=64,
    d_model=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    d_ff=48,
    max_seq_len=16,
    qk_norm=True,
    init_std=0.1,
)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False, qk_norm=False)
SEQUENCES = 4

DATA = Parallelism(data=2)
SHARDED = Parallelism(data=2, sharded=True)
TENSOR = Parallelism(tensor=2)
LAYOUTS = {"data": DATA, "sharded": SHARDED, "tensor": TENSOR}


def plain_network(config: DecoderConfig = CONFIG) -> Decoder:
    torch.manual_seed(0)
    return Decoder(config)


def laid_out(parallelism: Parallelism, config: DecoderConfig = CONFIG) -> tuple[Decoder, int]:
    """A network with the same weights, and the process's data rank."""
    mesh = parallelism.mesh("cpu")
    return parallelize(plain_network(config), parallelism, mesh, "cpu"), data_rank(mesh)


def batch(num_positions: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets of which some do not count, and documents; each data rank's share has as many that count."""
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, 64, (SEQUENCES, num_positions), generator=generator)
    targets_BT = torch.randint(0, 64, (SEQUENCES, num_positions), generator=generator)
    targets_BT[:, 3:5] = IGNORED_TARGET
    return tokens_BT, targets_BT, (torch.arange(num_positions) // 6).expand(SEQUENCES, -1)


def shares_of(parallelism: Parallelism, rank: int, num_positions: int = 16) -> tuple[Tensor, ...]:
    return tuple(each.chunk(parallelism.data)[rank] for each in batch(num_positions))


def backward(model: Decoder, share: tuple[Tensor, ...], parallelism: Parallelism = DATA) -> Tensor:
    """The mean loss of a share in two microbatches, and its gradients."""
    count = (share[1] != IGNORED_TARGET).sum()
    halves = list(zip(*(each.chunk(2) for each in share), strict=True))
    total = torch.zeros(())
    for number, (tokens_BT, targets_BT, ids_BT) in enumerate(halves):
        with parallelism.autocast("cpu"):
            trained, cross_entropy = model(
                tokens_BT, targets_BT=targets_BT, reduction="sum", z_loss=1e-3, document_ids_BT=ids_BT
            )
        if number == 0:
            with without_exchange(model):
                (trained / count).backward()
        else:
            (trained / count).backward()
        total += cross_entropy.detach() / count
    return total


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def mean_over_processes(value: Tensor) -> Tensor:
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def check_weights(parallelism: Parallelism) -> None:
    """Names, order and values are one process's, bit for bit; sharded, a process holds half."""
    for config in (CONFIG, UNTIED):
        plain, (model, _) = plain_network(config), laid_out(parallelism, config)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
        held = 0
        for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert isinstance(parameter, DTensor), name
            assert torch.equal(whole(parameter), expected), name
            held += parameter.to_local().numel()
        count = sum(parameter.numel() for parameter in plain.parameters())
        in_blocks = sum(parameter.numel() for parameter in plain.blocks.parameters() if parameter.ndim == 2)
        assert held == {DATA: count, SHARDED: count // 2, TENSOR: count - in_blocks // 2}[parallelism]


def check_step(parallelism: Parallelism) -> None:
    """Loss, gradients, their norm and the weights after a step of either optimizer."""
    for config in (CONFIG, UNTIED):
        for optimizer_class in (build_adamw, MuonAdamW):
            plain, (model, rank) = plain_network(config), laid_out(parallelism, config)
            expected, loss = backward(plain, batch()), backward(model, shares_of(parallelism, rank))
            torch.testing.assert_close(mean_over_processes(loss), expected, rtol=1e-6, atol=0)
            for (name, parameter), twin in zip(model.named_parameters(), plain.parameters(), strict=True):
                assert twin.grad is not None
                scale = float(twin.grad.abs().max())
                difference = float((whole(parameter.grad) - twin.grad).abs().max())
                assert difference < 1e-5 * scale, f"gradient of {name}: {difference} of {scale}"
            norms = clip_grad_norm(model.parameters(), 0.5), clip_grad_norm(plain.parameters(), 0.5)
            assert norms[0] == pytest.approx(norms[1], rel=1e-6)
            assert norms[1] > 0.5
            assert clip_grad_norm(model.parameters(), 100.0) == pytest.approx(0.5, rel=1e-4)
            for each in (plain, model):
                optimizer_class(each, learning_rate=1e-2).step()
            for (name, parameter), twin in zip(model.named_parameters(), plain.parameters(), strict=True):
                # Newton-Schulz runs in bf16
                tolerance = 1e-4 if optimizer_class is build_adamw else 5e-4
                difference = float((whole(parameter) - twin).abs().max())
                assert difference < tolerance, f"{name} after a step: {difference}"


def check_results(parallelism: Parallelism) -> None:
    """Logits and every reduction, at lengths that do not divide; too long a sequence is refused as ever."""
    for num_positions in (16, 15, 1):
        for config in (CONFIG, UNTIED):
            plain, (model, _) = plain_network(config), laid_out(parallelism, config)
            tokens_BT, targets_BT, ids_BT = batch(num_positions)
            with torch.no_grad():
                logits_BTV = model(tokens_BT, document_ids_BT=ids_BT)
                assert logits_BTV.shape == (SEQUENCES, num_positions, 64)
                torch.testing.assert_close(logits_BTV, plain(tokens_BT, document_ids_BT=ids_BT), atol=1e-5, rtol=1e-4)
                for reduction in ("mean", "sum", "none"):
                    losses = model.loss(tokens_BT, targets_BT, reduction=reduction)
                    expected = plain.loss(tokens_BT, targets_BT, reduction=reduction)
                    assert losses.shape == expected.shape
                    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
                both = model(tokens_BT, targets_BT=targets_BT, z_loss=0.1)
                for one, other in zip(both, plain(tokens_BT, targets_BT=targets_BT, z_loss=0.1), strict=True):
                    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    # the gradient of a mean, and of a loss that a caller makes of logits
    made_losses: tuple[Callable[[Decoder], Tensor], ...] = (
        lambda network: network.loss(*batch(15)[:2]),
        lambda network: network(batch(15)[0]).square().mean(),
    )
    for made in made_losses:
        plain, (model, _) = plain_network(), laid_out(parallelism)
        made(plain).backward()  # type: ignore[no-untyped-call]
        made(model).backward()  # type: ignore[no-untyped-call]
        for (name, parameter), twin in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(whole(parameter.grad), twin.grad, atol=1e-5, rtol=1e-4, msg=name)
    with pytest.raises(ValueError, match="for a model of max_seq_len 16; shorten it"):
        model(torch.zeros(1, 17, dtype=torch.long))


def check_no_cache(parallelism: Parallelism) -> None:
    model, _ = laid_out(parallelism)
    with pytest.raises(ValueError, match="takes no cache; generate from a gathered copy"):
        model(torch.zeros(1, 1, dtype=torch.long), cache=KVCache(CONFIG))


def check_alone(parallelism: Parallelism) -> None:
    """A process with whole weights may look at samples while the other does nothing; training goes on."""
    model, rank = laid_out(parallelism)
    tokens_BT, targets_BT, ids_BT = shares_of(parallelism, rank)
    if rank == 0:
        with torch.no_grad():
            logits_BTV = model(tokens_BT, cache=KVCache(CONFIG, batch_size=len(tokens_BT)))
            torch.testing.assert_close(logits_BTV, plain_network()(tokens_BT), atol=1e-5, rtol=1e-4)
    loss, expected = backward(model, (tokens_BT, targets_BT, ids_BT)), backward(plain_network(), batch())
    torch.testing.assert_close(mean_over_processes(loss), expected, rtol=1e-6, atol=0)


def check_recomputation(parallelism: Parallelism) -> None:
    """It changes no bit, and no name."""
    kept, rank = laid_out(parallelism)
    recomputed, _ = laid_out(dataclasses.replace(parallelism, activation_checkpointing="block"))
    assert list(recomputed.state_dict()) == list(kept.state_dict())
    losses = [backward(model, shares_of(parallelism, rank)) for model in (kept, recomputed)]
    assert torch.equal(*losses)
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(whole(one.grad), whole(other.grad))


def check_bf16(parallelism: Parallelism) -> None:
    """Near to one process in bf16, which is near to fp32; weights and gradients stay in fp32."""
    bf16 = dataclasses.replace(parallelism, bf16=True)
    plain, (model, rank) = plain_network(), laid_out(bf16)
    exact = backward(plain_network(), batch())
    expected, loss = backward(plain, batch(), bf16), backward(model, shares_of(parallelism, rank), bf16)
    torch.testing.assert_close(mean_over_processes(loss), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(expected, exact, rtol=1e-2, atol=0)
    assert not torch.equal(expected, exact)
    for (name, parameter), twin in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.dtype is torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.float32
        assert twin.grad is not None
        difference = float((whole(parameter.grad) - twin.grad).norm() / twin.grad.norm())
        assert difference < 0.02, f"gradient of {name}: {difference}"


def check_exchange(parallelism: Parallelism) -> None:
    """Nothing is exchanged inside `without_exchange`, and everything with the next backward pass outside."""
    model, rank = laid_out(parallelism)
    tokens_BT, targets_BT, _ = shares_of(parallelism, rank)
    with without_exchange(model):
        model.loss(tokens_BT, targets_BT).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.parameters())
    model.loss(tokens_BT, targets_BT).backward()  # type: ignore[no-untyped-call]
    expected = plain_network()
    (2 * expected.loss(*batch()[:2])).backward()  # type: ignore[no-untyped-call]
    for parameter, twin in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(whole(parameter.grad), twin.grad, atol=1e-5, rtol=1e-4)


def check_not_finite(parallelism: Parallelism) -> None:
    """One process's infinite gradient is every process's norm."""
    model, rank = laid_out(parallelism)
    backward(model, shares_of(parallelism, rank))
    if dist.get_rank() == 1:
        gradient = model.final_norm.weight.grad
        assert isinstance(gradient, DTensor)
        gradient.to_local().fill_(torch.inf)
    assert clip_grad_norm(model.parameters(), 1.0) == torch.inf


Check = Callable[[Parallelism], None]
CHECKS: Mapping[str, tuple[Check, Parallelism]] = {
    **{
        f"{check.__name__} {name}": (check, parallelism)
        for check in (check_weights, check_step, check_recomputation, check_bf16, check_exchange, check_not_finite)
        for name, parallelism in LAYOUTS.items()
    },
    "check_results tensor": (check_results, TENSOR),
    "check_no_cache tensor": (check_no_cache, TENSOR),
    "check_alone data": (check_alone, DATA),
}


def run_checks(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    for name, (check, parallelism) in CHECKS.items():
        try:
            check(parallelism)
            found = ""
        except Exception:  # told by the test of its name
            found = traceback.format_exc()
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("two_processes")
    context = spawn(run_checks, (folder,), 2, join=False)  # type: ignore[no-untyped-call]
    try:
        for _ in range(24):
            if context.join(timeout=5, grace_period=1):
                break
    finally:
        for process in context.processes:
            process.kill()
    yield folder


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_are_as_one(two_processes: Path, name: str) -> None:
    for rank in range(2):
        file = two_processes / f"{name}-{rank}.json"
        assert file.is_file(), f"process {rank} did not get to {name}"
        found = json.loads(file.read_bytes())
        assert found == "", f"process {rank}: {found}"


def test_one_process_needs_no_process_group() -> None:
    parallelism = Parallelism(activation_checkpointing="block", bf16=True)
    assert parallelism.mesh("cpu") is None
    assert data_rank(None) == 0
    plain, model = plain_network(), plain_network()
    assert parallelize(model, parallelism, None, "cpu") is model
    assert all(not isinstance(parameter, DTensor) for parameter in model.parameters())
    losses = [backward(each, batch(), parallelism) for each in (plain, model)]
    assert torch.equal(*losses)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_recomputation_keeps_a_blocks_input_alone() -> None:
    """Bytes that the backward pass waits for, counted where autograd packs them."""

    def kept_bytes(parallelism: Parallelism) -> int:
        model = parallelize(plain_network(), parallelism, None, "cpu")
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.loss(*batch()[:2])
        return sum(kept.values())

    everything = kept_bytes(Parallelism())
    inputs = kept_bytes(Parallelism(activation_checkpointing="block"))
    assert inputs < everything / 3


@pytest.mark.verify
@pytest.mark.parametrize("activation_checkpointing", ["none", "block"])
def test_one_compilation_serves_all_blocks(activation_checkpointing: ActivationCheckpointing) -> None:
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    config = dataclasses.replace(CONFIG, num_layers=10)  # more than dynamo would compile one by one
    parallelism = Parallelism(compile=True, activation_checkpointing=activation_checkpointing)
    plain, model = plain_network(config), parallelize(plain_network(config), parallelism, None, "cpu")
    losses = [backward(each, batch()) for each in (plain, model)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert list(model.state_dict()) == list(plain.state_dict())


def test_the_norm_before_clipping() -> None:
    weight, bias, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    weight.grad, bias.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert clip_grad_norm([weight, bias, unused], 5.0) == 5.0
    assert weight.grad.tolist() == pytest.approx([3.0, 0.0], rel=1e-6)
    assert clip_grad_norm([weight, bias, unused], 2.5) == pytest.approx(5.0, rel=1e-6)
    assert weight.grad.tolist() + bias.grad.tolist() == pytest.approx([1.5, 0.0, 0.0, 2.0], rel=1e-5)
    bias.grad[0] = torch.nan
    assert clip_grad_norm([weight, bias, unused], 2.5) != clip_grad_norm([weight, bias, unused], 2.5)


@pytest.mark.parametrize(
    ("parallelism", "world_size"),
    [
        (Parallelism(), 1),
        (Parallelism(data=3), 3),
        (Parallelism(data=2, tensor=2), 4),
        (Parallelism(tensor=2), 2),
    ],
)
def test_what_fits(parallelism: Parallelism, world_size: int) -> None:
    parallelism.validate(world_size, CONFIG, processes_per_node=world_size)
    assert parallelism.world_size == world_size


@pytest.mark.parametrize(
    ("parallelism", "world_size", "changes", "message"),
    [
        (Parallelism(tensor=2), 3, {}, r"3 processes do not .* groups of 2 that share a block: take 4 \(--workers\)"),
        (Parallelism(data=2), 4, {}, "data 2 x tensor 1 needs 2 processes and there are 4; choose data 4"),
        (Parallelism(data=4), 2, {}, "data 4 x tensor 1 needs 4 processes and there are 2; choose data 2"),
        (Parallelism(tensor=4), 4, {}, "num_kv_heads 2 does not divide into tensor 4 equal shares"),
        (Parallelism(tensor=4), 4, {"num_kv_heads": 1, "num_heads": 2}, "num_heads 2 does not divide into tensor 4"),
        (Parallelism(tensor=2), 2, {"d_ff": 47}, "d_ff 47 does not divide into tensor 2"),
        (Parallelism(tensor=2), 2, {"max_seq_len": 15}, "max_seq_len 15 does not divide into tensor 2"),
    ],
)
def test_what_does_not_fit(parallelism: Parallelism, world_size: int, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parallelism.validate(world_size, DecoderConfig.from_dict(CONFIG.to_dict() | changes))
    assert "\n" not in str(caught.value)


def test_a_tensor_group_lies_inside_a_node() -> None:
    parallelism = Parallelism(data=3, tensor=2)
    parallelism.validate(6, CONFIG, processes_per_node=2)
    with pytest.raises(ValueError, match="tensor is 2 and a node has 3 processes"):
        parallelism.validate(6, CONFIG, processes_per_node=3)


def test_figures_out_of_bounds() -> None:
    with pytest.raises(ValueError, match=r"parallelism\.data is 0; it must be at least 1"):
        Parallelism(data=0)
    with pytest.raises(ValueError, match=r"parallelism\.tensor is -1; it must be at least 1"):
        Parallelism(tensor=-1)
    with pytest.raises(ValueError, match="activation_checkpointing is 'layer'; choose none or block"):
        Parallelism(activation_checkpointing="layer")  # type: ignore[arg-type]
