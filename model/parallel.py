"""One network on several processes: data parallel, sharded (FSDP2), tensor parallel, and both on one device mesh.

The mesh has two dimensions. Along "data" the processes see different sequences and average their gradients; they hold
whole weights, or, sharded, 1/data of weights, gradients and optimizer state, and gather a block's weights when it is
its turn (ZeRO-3, Rajbhandari et al. 2020; FSDP2, torch's `fully_shard`). Along "tensor", which belongs inside a node,
the processes see the same sequences and share each block's products: attention by heads, feed-forward by columns, then
rows (Megatron-LM, Shoeybi et al. 2019). Between the products the residual stream is split by positions (sequence
parallel, Korthikanti et al. 2022): what is gathered and scattered is as much as what would be summed otherwise, and
embedding, norms, head and loss are done once instead of by each. That is also why the embedding's and the head's matrix
are not split by vocabulary: each process looks up, and scores, its own positions with the whole matrix, tied or not,
and the loss in blocks (`model.loss`) runs as it is. The price is that the matrix is not divided by "tensor".

A layout changes how a step is computed and not what: names, shapes and initial weights are those of one process. With
several processes all parameters are DTensors on the whole mesh, so one optimizer, one norm and one checkpoint serve
them all. In bf16 blocks are gathered in bf16 (their norms' weights too, which one process keeps in fp32); embedding and
head, residual stream, sums of gradients and the optimizer's state stay in fp32.

Order and choices follow torchtitan (Liang et al. 2024): tensor parallel, compile, then data parallel. Recomputation,
there the first, comes after compile: compiled itself, torch 2.13 refuses it for DTensors.

Shapes: B batch, T sequence, t one process's share of it, D model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint

from model.config import DecoderConfig
from model.decoder import Block, Decoder
from model.kv_cache import KVCache
from model.loss import IGNORED_TARGET, Reduction, next_token_loss, next_token_loss_with_z

DATA, TENSOR = "data", "tensor"

ActivationCheckpointing = Literal["none", "block"]


@dataclass(frozen=True, kw_only=True)
class Parallelism:
    """How a network is laid out over processes and computed on each. Raises ValueError for figures out of bounds."""

    data: int = 1  # groups of processes that see different sequences
    tensor: int = 1  # processes of a group, which share each block
    sharded: bool = False  # weights, gradients and optimizer state are divided over "data", not repeated
    activation_checkpointing: ActivationCheckpointing = "none"  # block: keep a block's input only, recompute the rest
    compile: bool = False  # each block by torch.compile: one compilation serves them all
    bf16: bool = False  # products in bf16; see the module for what stays in fp32

    def __post_init__(self) -> None:
        for name in (DATA, TENSOR):
            if getattr(self, name) < 1:
                raise ValueError(f"parallelism.{name} is {getattr(self, name)}; it must be at least 1")
        if self.activation_checkpointing not in ("none", "block"):
            raise ValueError(
                f"parallelism.activation_checkpointing is {self.activation_checkpointing!r}; choose none or block"
            )

    @property
    def world_size(self) -> int:
        """Processes in all."""
        return self.data * self.tensor

    def validate(self, world_size: int, config: DecoderConfig, *, processes_per_node: int | None = None) -> None:
        """Raise ValueError where `world_size` processes, so many a node, or the network's shape do not fit the layout.

        One process has one GPU; `processes_per_node` None does not look at nodes.
        """
        if world_size % self.tensor:
            raise ValueError(
                f"{world_size} processes do not divide into groups of {self.tensor} that share a block: take "
                f"{-(-world_size // self.tensor) * self.tensor} (--workers), or a divisor of {world_size} for tensor"
            )
        if world_size != self.world_size:
            raise ValueError(
                f"data {self.data} x tensor {self.tensor} needs {self.world_size} processes and there are "
                f"{world_size}; choose data {world_size // self.tensor}"
            )
        if processes_per_node is not None and processes_per_node % self.tensor:
            raise ValueError(
                f"tensor is {self.tensor} and a node has {processes_per_node} processes: a group must lie inside a "
                f"node; choose a divisor of {processes_per_node}"
            )
        for name in ("num_heads", "num_kv_heads", "d_ff", "max_seq_len"):
            if (size := getattr(config, name)) % self.tensor:
                raise ValueError(
                    f"{name} {size} does not divide into tensor {self.tensor} equal shares; choose a divisor of {size}"
                )

    def mesh(self, device_type: str) -> DeviceMesh | None:
        """The processes as ("data", "tensor"); None for one, which needs no process group. Tensor groups are adjacent
        ranks, so they lie inside a node. All processes must call it."""
        if self.world_size == 1:
            return None
        return init_device_mesh(device_type, (self.data, self.tensor), mesh_dim_names=(DATA, TENSOR))

    def autocast(self, device_type: str) -> torch.autocast:
        """What every forward pass is to be computed under."""
        return torch.autocast(device_type, dtype=torch.bfloat16, enabled=self.bf16)


def data_rank(mesh: DeviceMesh | None) -> int:
    """Which share of the global batch is this process's, 0 ... data - 1: the same for a whole tensor group."""
    return 0 if mesh is None else mesh.get_local_rank(DATA)


def parallelize(
    model: Decoder, parallelism: Parallelism, mesh: DeviceMesh | None, device: torch.device | str
) -> Decoder:
    """Lay out `model`, in place, on `device` and the processes of `mesh` (from `parallelism.mesh`); returns it.

    Build it on the CPU under one seed first: every process cuts its share out of the same weights, so that they do not
    depend on the layout. That takes 4 bytes a parameter of main memory for each process, which go as the blocks move to
    the device one by one. Build the optimizer afterwards.

    From then on call the model, or its `loss`, and not the methods inside; all processes together, as often. Without
    gradients a process may call it alone, and with a cache, where weights are neither sharded nor shared; elsewhere
    generate from a gathered copy.
    """
    device = torch.device(device)
    assert (mesh is None) == (parallelism.world_size == 1), "a mesh where there are several processes"
    last = len(model.blocks) - 1
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if mesh is not None and parallelism.tensor > 1:
            _share(block, mesh[TENSOR])
        if parallelism.compile:
            block.forward = torch.compile(block.forward)  # type: ignore[method-assign]
        if parallelism.activation_checkpointing == "block":
            _recompute(block)
        if mesh is not None:
            # what the backward pass begins with is not worth giving away
            _distribute(block, parallelism, mesh, bf16=parallelism.bf16, reshard_after_forward=layer != last)
    if mesh is None:
        return model.to(device)
    if parallelism.tensor > 1:
        _share_positions(model, mesh[TENSOR])
    if model.head is not None and parallelism.sharded and parallelism.tensor == 1:
        # given away between its look-ups; cut by positions its result is a view, which FSDP2 warns of
        _distribute(model.embedding, parallelism, mesh, bf16=False, reshard_after_forward=True)
    # The head's matrix, also where it is the embedding's, belongs to the network itself: `forward` takes it from there.
    _distribute(model, parallelism, mesh, bf16=False, reshard_after_forward=False)
    return model


@contextmanager
def without_exchange(model: Decoder) -> Iterator[None]:
    """Backward passes in here add to this process's gradients and exchange none: for all microbatches but the last.

    Each process then holds whole gradients of its blocks, also where they are sharded.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def forget_gathered(model: Decoder) -> None:
    """Call before the optimizer moves the weights, where a forward pass without a backward pass may have come before.

    Such a pass leaves the weights that it gathered in place, and the next one would compute with them again.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients so that their norm over all parameters and processes is at most `max_norm`.

    Returns the norm before, the same in every process; where it is not finite, neither are the gradients afterwards.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    by_repeats: dict[int, list[Tensor]] = {}
    for parameter in parameters:
        repeats, share = _share_of_gradient(parameter)
        by_repeats.setdefault(repeats, []).append(share)
    # One sum over all processes: reduced one mesh dimension after the other the norm may differ between processes.
    squares = [nn.utils.get_total_norm(shares).double().square() / repeats for repeats, shares in by_repeats.items()]
    total = torch.stack(squares).sum()
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        dist.all_reduce(total)
    norm = total.sqrt()
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm.float())
    return float(norm)


def _share_of_gradient(parameter: nn.Parameter) -> tuple[int, Tensor]:
    """What this process holds of a gradient, and how many processes hold the same."""
    gradient = parameter.grad
    assert gradient is not None
    if not isinstance(gradient, DTensor):
        return 1, gradient
    sizes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
    assert not any(placement.is_partial() for placement in gradient.placements), "gradients have been exchanged"
    return math.prod(size for size, placement in sizes if placement.is_replicate()), gradient.to_local()


def _recompute(block: Block) -> None:
    """Keep the block's input alone for the backward pass. Its names stay, as they would not in a wrapper."""
    block.forward = partial(  # type: ignore[method-assign]
        checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
    )


def _distribute(
    module: nn.Module, parallelism: Parallelism, mesh: DeviceMesh, *, bf16: bool, reshard_after_forward: bool
) -> None:
    """Sharded or repeated over "data", on the mesh's device; what lies inside and is distributed already stays so."""
    # inputs keep their dtype: the residual stream and the rotary angles are in fp32
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    if parallelism.sharded:
        fully_shard(module, mesh=mesh[DATA], mp_policy=policy, reshard_after_forward=reshard_after_forward)
    else:
        # FSDP2's machinery without the sharding; DistributedDataParallel takes no DTensors
        from torch.distributed._composable.replicate_with_fsdp import replicate

        replicate(module, mesh=mesh[DATA], mp_policy=policy)


def _share(block: Block, tensor_mesh: DeviceMesh) -> None:
    """One block over a tensor group: positions outside the products, heads and columns inside."""
    positions, everything = Shard(1), Replicate()
    plan: dict[str, ParallelStyle] = {
        "attention_norm": SequenceParallel(use_local_output=True),
        # gathered once for the three projections
        "attention": PrepareModuleInput(
            input_layouts=_first_of(5, positions), desired_input_layouts=_first_of(5, everything)
        ),
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=positions),
        "feed_forward_norm": SequenceParallel(use_local_output=True),
        "feed_forward": PrepareModuleInput(input_layouts=(positions,), desired_input_layouts=(everything,)),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(output_layouts=positions),
    }
    if block.attention.query_norm is not None:
        # (B, H, T, C): each process has some of the heads, and what they ask of the norm's one weight is summed
        plan["attention.query_norm"] = plan["attention.key_norm"] = SequenceParallel(
            sequence_dim=1, use_local_output=True
        )
    parallelize_module(block, tensor_mesh, plan, src_data_rank=None)


def _first_of(num_inputs: int, layout: Placement) -> tuple[Placement | None, ...]:
    return (layout, *(None for _ in range(num_inputs - 1)))


def _share_positions(model: Decoder, tensor_mesh: DeviceMesh) -> None:
    """Embedding, final norm, head and loss of each process's positions."""
    split = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),), use_local_output=False)
    by_positions = SequenceParallel(use_local_output=True)
    parallelize_module(model, tensor_mesh, {"embedding": split}, src_data_rank=None)
    plan: dict[str, ParallelStyle] = {"embedding": by_positions, "final_norm": by_positions}
    if model.head is not None:
        plan["head"] = by_positions
    parallelize_module(model, tensor_mesh, plan, src_data_rank=None)
    model.forward = _forward_by_positions(model, tensor_mesh)  # type: ignore[method-assign]


def _forward_by_positions(model: Decoder, tensor_mesh: DeviceMesh) -> Callable[..., Any]:
    """`Decoder.forward`, with the same results in every process of a tensor group."""
    size, rank = tensor_mesh.size(), tensor_mesh.get_local_rank()

    def whole(value: Tensor, placement: Placement) -> Tensor:
        """What the processes' shares make together; going back each gets its share of the gradient."""
        shares = DTensor.from_local(value, tensor_mesh, (placement,), run_check=False)
        return shares.redistribute(placements=(Replicate(),)).to_local()

    def forward(
        tokens_BT: Tensor,
        *,
        targets_BT: Tensor | None = None,
        reduction: Reduction = "mean",
        z_loss: float | None = None,
        document_ids_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if cache is not None:
            raise ValueError("a network shared by several processes takes no cache; generate from a gathered copy")
        num_positions = tokens_BT.shape[1]
        padding = (0, -num_positions % size)  # to equal shares; nobody looks at later positions
        if document_ids_BT is not None:
            document_ids_BT = F.pad(document_ids_BT, padding, value=-1)
        hidden_BtD = model.hidden_states(F.pad(tokens_BT, padding), document_ids_BT=document_ids_BT)
        head_VD = cast(DTensor, model.head_weight).to_local(grad_placements=(Partial(),))
        if targets_BT is None:
            return whole(F.linear(hidden_BtD, head_VD).float(), Shard(1))[:, :num_positions]
        targets_Bt = F.pad(targets_BT, padding, value=IGNORED_TARGET).chunk(size, dim=1)[rank]
        if reduction == "none":
            return whole(next_token_loss(hidden_BtD, targets_Bt, head_VD, reduction="none"), Shard(1))[
                :, :num_positions
            ]
        count = (targets_BT != IGNORED_TARGET).sum().clamp(min=1) if reduction == "mean" else 1
        both = next_token_loss_with_z(hidden_BtD, targets_Bt, head_VD, reduction="sum", z_loss=z_loss or 0.0)
        trained, cross_entropy = (whole(each, Partial()) / count for each in both)
        return cross_entropy if z_loss is None else (trained, cross_entropy)

    return forward
