"""Cross entropy of the next token, without ever holding the logits of a whole batch where they would be large.

Shapes: B batch, T sequence, N = B * T, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Reduction = Literal["mean", "sum", "none"]

IGNORED_TARGET = -100
"""A target that does not count: torch's own default."""

MAX_LOGITS_PER_CHUNK = 2**28
"""Logits held at once: 1 GiB in fp32 and about three times that in the backward pass. Beyond it the batch goes through
the head in chunks, and each chunk's logits are computed a second time in the backward pass instead of being kept."""


def next_token_loss(
    hidden_BTD: Tensor,
    targets_BT: Tensor,
    logits: Callable[[Tensor], Tensor],
    *,
    vocab_size: int,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross entropy in nats, in fp32, of `logits(hidden)` against the targets; `IGNORED_TARGET` does not count.

    "mean" is over the targets that count (0 where none does), "sum" adds them, "none" returns (B, T) with 0 where a
    target is ignored. `logits` maps (n, D) to (n, V) in fp32.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; choose mean, sum or none")
    if targets_BT.shape != hidden_BTD.shape[:2]:
        raise ValueError(
            f"targets of shape {tuple(targets_BT.shape)} for tokens of shape {tuple(hidden_BTD.shape[:2])}; "
            f"give one target for each token"
        )
    hidden_ND, targets_N = hidden_BTD.flatten(0, 1), targets_BT.flatten().long()

    def losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits(hidden), targets, ignore_index=IGNORED_TARGET, reduction="none")

    chunk = max(1, MAX_LOGITS_PER_CHUNK // vocab_size)
    if targets_N.numel() <= chunk:
        losses_N = losses(hidden_ND, targets_N)
    else:
        losses_N = torch.cat(
            [
                checkpoint(losses, hidden, targets, use_reentrant=False, preserve_rng_state=False)
                for hidden, targets in zip(torch.split(hidden_ND, chunk), torch.split(targets_N, chunk), strict=True)
            ]
        )
    if reduction == "none":
        return losses_N.view(targets_BT.shape)
    if reduction == "sum":
        return losses_N.sum()
    return losses_N.sum() / (targets_N != IGNORED_TARGET).sum().clamp(min=1)
