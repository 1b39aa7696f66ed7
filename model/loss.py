"""Cross entropy of the next token and the z-loss, without ever holding the logits of a whole batch.

The head goes over the batch in blocks of rows, and each block's gradients are computed while its logits are still at
hand (Hsu et al. 2024, "Liger Kernel": fused linear cross entropy): three matrix products in all, as without blocks, and
no second pass over the logits. A block is large, because each adds to the gradient of the whole head; what is done to
its logits, element by element in fp32, is done in slices that stay in a CPU's cache, and so is the head's gradient in
parts. What counts on a CPU, where the products are fast, is how often memory is gone through and how much of it is new.

Shapes: B batch, T sequence, N = B * T, R rows of a block, n of a slice, D model, V vocabulary, v of a part of it.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]

IGNORED_TARGET = -100
"""A target that does not count: torch's own default."""

LOGITS_PER_BLOCK = {"cpu": 2**25, "cuda": 2**27}
"""Logits held at once, in the dtype of the matrix products: 64 MiB, or 256 MiB, in bf16."""

LOGITS_PER_SLICE = {"cpu": 2**17, "cuda": 2**27}
"""Those that are held in fp32: 512 KiB, or 512 MiB."""

HEAD_PER_PART = {"cpu": 2**20, "cuda": 2**25}
"""Elements of the head's gradient that are held in the dtype of the products."""


def next_token_loss(
    hidden_BTD: Tensor, targets_BT: Tensor, head_VD: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Cross entropy in nats, in fp32, of `hidden @ head.T` against the targets; `IGNORED_TARGET` does not count.

    "mean" is over the targets that count (0 where none does), "sum" adds them; "none" returns (B, T) with 0 where a
    target is ignored. Under autocast the matrix products are in its dtype, everything else in fp32.
    """
    if reduction == "none":
        hidden_ND, targets_N = _flat(hidden_BTD, targets_BT)
        losses = [
            F.cross_entropy(F.linear(hidden, head_VD).float(), targets, ignore_index=IGNORED_TARGET, reduction="none")
            for hidden, targets in _blocks(hidden_ND, targets_N, head_VD)
        ]
        return torch.cat(losses).view(targets_BT.shape)
    return next_token_loss_with_z(hidden_BTD, targets_BT, head_VD, reduction=reduction, z_loss=0.0)[1]


def next_token_loss_with_z(
    hidden_BTD: Tensor, targets_BT: Tensor, head_VD: Tensor, *, reduction: Reduction = "mean", z_loss: float
) -> tuple[Tensor, Tensor]:
    """What to train on, and the cross entropy alone; both are scalars, and where `z_loss` is 0 the same one.

    The first adds `z_loss` times the square of each position's log-normaliser, which keeps logits from drifting
    (PaLM, Chowdhery et al. 2022, section 5: 1e-4; OLMo 2: 1e-5). The second has no gradient unless `z_loss` is 0.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose mean or sum, or none without z-loss")
    hidden_ND, targets_N = _flat(hidden_BTD, targets_BT)
    count = (targets_N != IGNORED_TARGET).sum().clamp(min=1) if reduction == "mean" else None
    # within an autograd function gradients always count as switched off
    wanted = torch.is_grad_enabled()
    total, cross_entropy = _LinearCrossEntropy.apply(hidden_ND, head_VD, targets_N, count, z_loss, wanted)  # type: ignore[no-untyped-call]
    return total, total if z_loss == 0.0 else cross_entropy


def _flat(hidden_BTD: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
    if targets_BT.shape != hidden_BTD.shape[:2]:
        raise ValueError(
            f"targets of shape {tuple(targets_BT.shape)} for tokens of shape {tuple(hidden_BTD.shape[:2])}; "
            f"give one target for each token"
        )
    return hidden_BTD.flatten(0, 1), targets_BT.flatten().long()


def _rows(limits: dict[str, int], device: str, row_size: int) -> int:
    """Of a block, slice or part, at least 1."""
    return max(1, limits.get(device, limits["cuda"]) // row_size)


def _blocks(hidden_ND: Tensor, targets_N: Tensor, head_VD: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = _rows(LOGITS_PER_BLOCK, hidden_ND.device.type, head_VD.shape[0])
    return list(zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True))


class _Workspace(threading.local):
    """Memory that is kept from step to step, by name; on a CPU alone, where torch asks the system for every large
    tensor anew and the system clears it page by page: that took longer than the product that was written into it."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        size = shape[0] * shape[1]
        buffer = self.buffers.get(name)
        if buffer is None or buffer.dtype is not dtype or buffer.numel() < size:
            with torch.inference_mode(False):  # what is made within it cannot be written to outside of it
                self.buffers[name] = buffer = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)


_workspace = _Workspace()


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum, or mean over `count`, of cross entropy and z-loss; the gradients are ready when the loss is."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        targets_N: Tensor,
        count: Tensor | None,
        z_loss: float,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        device = hidden_ND.device
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else head_VD.dtype
        needs_hidden, needs_head = (wanted and needed for needed in ctx.needs_input_grad[:2])
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        cross_entropy = torch.zeros_like(total)
        hidden_gradient = torch.empty_like(hidden_ND) if needs_hidden else None
        head_gradient = torch.empty_like(head_VD, dtype=torch.float32) if needs_head else None
        scale = 1.0 if count is None else 1.0 / count
        with torch.autocast(device.type, enabled=False):
            head = head_VD
            if head.dtype is not dtype:
                head = _workspace.take("head", (head.shape[0], head.shape[1]), dtype, device).copy_(head)
            blocks = _blocks(hidden_ND, targets_N, head)
            largest_block = _workspace.take("logits", (len(blocks[0][0]), len(head)), dtype, device)
            start = 0
            for hidden_RD, targets_R in blocks:
                logits_RV = torch.mm(hidden_RD.to(dtype), head.T, out=largest_block[: len(hidden_RD)])
                nats_R, z_R = _replace_by_gradients(logits_RV, targets_R, z_loss)
                counts_R = targets_R != IGNORED_TARGET
                cross_entropy += (nats_R * counts_R).sum()
                total += ((nats_R + z_R) * counts_R).sum()
                # multiplied into what has D columns, not V
                weight_R1 = (counts_R * scale)[:, None]
                if hidden_gradient is not None:
                    torch.mul(logits_RV @ head, weight_R1, out=hidden_gradient[start : start + len(hidden_RD)])
                if head_gradient is not None:
                    _add_product(head_gradient, logits_RV, (hidden_RD * weight_R1).to(dtype), first=start == 0)
                start += len(hidden_RD)
        ctx.save_for_backward(hidden_gradient, None if head_gradient is None else head_gradient.to(head_VD.dtype))
        ctx.mark_non_differentiable(cross_entropy)
        return total * scale, cross_entropy * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        factor = gradients[0]
        # Nearly always it is 1, and to look costs less than a pass over the head's gradient, into fresh memory; but not
        # on a GPU, where to look is to wait for all that is under way.
        if factor.device.type == "cpu" and factor == 1:
            return (*ctx.saved_tensors, None, None, None, None)
        hidden_gradient, head_gradient = (
            None if gradient is None else gradient * factor.to(gradient.dtype) for gradient in ctx.saved_tensors
        )
        return hidden_gradient, head_gradient, None, None, None, None


def _add_product(head_gradient_VD: Tensor, logits_RV: Tensor, hidden_RD: Tensor, *, first: bool) -> None:
    """Adds `logits.T @ hidden`, the `first` one to nothing.

    Where the product is not in fp32 itself it is taken in parts, each of which is still in a CPU's cache when it is
    added.
    """
    if hidden_RD.dtype is head_gradient_VD.dtype:
        head_gradient_VD.addmm_(logits_RV.T, hidden_RD, beta=0 if first else 1)
        return
    rows = _rows(HEAD_PER_PART, hidden_RD.device.type, hidden_RD.shape[1])
    for gradient_vD, logits_Rv in zip(
        torch.split(head_gradient_VD, rows), torch.split(logits_RV, rows, dim=1), strict=True
    ):
        product_vD = logits_Rv.T @ hidden_RD
        if first:
            gradient_vD.copy_(product_vD)
        else:
            gradient_vD.add_(product_vD)


def _replace_by_gradients(logits_RV: Tensor, targets_R: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Cross entropy and z-loss of each row, (R,); each logit becomes the gradient of its row's two by it.

    A row whose target does not count is treated as if that were 0.
    """
    known_R1 = targets_R.clamp(min=0)[:, None]
    replace = _replace_by_probabilities_in_cache if logits_RV.device.type == "cpu" else _replace_by_probabilities
    nats_R1, normaliser_R1 = replace(logits_RV, known_R1, z_loss)
    at_target_R1 = torch.exp(-nats_R1) * _pull(normaliser_R1, z_loss) - 1
    rows_R = torch.arange(len(targets_R), device=targets_R.device)
    # not scatter_, which copies all the logits first
    logits_RV[rows_R, known_R1[:, 0]] = at_target_R1[:, 0].to(logits_RV.dtype)
    return nats_R1[:, 0], z_loss * normaliser_R1[:, 0].square()


def _pull(normaliser_n1: Tensor, z_loss: float) -> Tensor:
    """What z-loss multiplies a row's probabilities with to make them gradients: its own is 2 z normaliser p."""
    return 1 + 2 * z_loss * normaliser_n1


def _replace_by_probabilities(logits_RV: Tensor, known_R1: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Cross entropy and log-normaliser, (R, 1) in fp32; each logit becomes its probability times `_pull`.

    In as few passes over the memory as torch's kernels allow.
    """
    nats, normalisers = [], []
    rows = _rows(LOGITS_PER_SLICE, logits_RV.device.type, logits_RV.shape[1])
    for logits_nV, known_n1 in zip(torch.split(logits_RV, rows), torch.split(known_R1, rows), strict=True):
        log_probabilities_nV = torch.log_softmax(logits_nV, dim=-1, dtype=torch.float32)
        nats.append(-log_probabilities_nV.gather(1, known_n1))
        normalisers.append(logits_nV.gather(1, known_n1) + nats[-1])
        if z_loss:
            torch.mul(log_probabilities_nV.exp_(), _pull(normalisers[-1], z_loss), out=logits_nV)
        else:
            torch.exp(log_probabilities_nV, out=logits_nV)
    return torch.cat(nats), torch.cat(normalisers)


def _replace_by_probabilities_in_cache(logits_RV: Tensor, known_R1: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """`_replace_by_probabilities` in as few instructions: while a slice is in a CPU's cache a pass costs little."""
    num_rows, vocab_size = logits_RV.shape
    at_target_R1 = logits_RV.gather(1, known_R1).float()
    largest_R1, sum_R1 = torch.empty_like(at_target_R1), torch.empty_like(at_target_R1)
    rows = _rows(LOGITS_PER_SLICE, "cpu", vocab_size)
    for start in range(0, num_rows, rows):
        logits_nV, largest_n1, sum_n1 = (each[start : start + rows] for each in (logits_RV, largest_R1, sum_R1))
        in_fp32_nV = logits_nV
        if logits_nV.dtype is not torch.float32:
            in_fp32_nV = _workspace.take("slice", (len(logits_nV), vocab_size), torch.float32, logits_nV.device)
            in_fp32_nV.copy_(logits_nV)
        torch.amax(in_fp32_nV, -1, keepdim=True, out=largest_n1)
        in_fp32_nV.sub_(largest_n1).exp_()
        torch.sum(in_fp32_nV, -1, keepdim=True, out=sum_n1)
        factor_n1 = 1 / sum_n1
        if z_loss:
            factor_n1 *= _pull(largest_n1 + sum_n1.log(), z_loss)
        in_fp32_nV.mul_(factor_n1)
        if in_fp32_nV is not logits_nV:
            logits_nV.copy_(in_fp32_nV)
    log_sum_R1 = sum_R1.log()
    return largest_R1 - at_target_R1 + log_sum_R1, largest_R1 + log_sum_R1
