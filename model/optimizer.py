"""AdamW (Loshchilov & Hutter 2019) with weight decay where it belongs."""

from __future__ import annotations

import torch
from torch import nn

from model.norm import RMSNorm


def build_adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW in two groups, called "decay" and "no_decay": matrices decay, embeddings and norms do not.

    A norm's weight has no reason to be near 0, and the embedding of a token that a batch lacks would shrink for nothing
    (OLMo 2, Walsh et al. 2025). A head tied to the embedding counts as embedding. Betas: GPT-3 (Brown et al. 2020).
    `fused` None takes one fused kernel where every parameter is on a GPU.
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for module in model.modules():
        group = no_decay if isinstance(module, nn.Embedding | RMSNorm) else decay
        group.extend(parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad)
    assert len({id(parameter) for parameter in (*decay, *no_decay)}) == len(decay) + len(no_decay), "in one group each"
    assert all(parameter.ndim == 2 for parameter in decay), "what decays is a matrix"
    if fused is None:
        fused = all(parameter.is_cuda for parameter in (*decay, *no_decay))
    return torch.optim.AdamW(
        [
            {"name": "decay", "params": decay, "weight_decay": weight_decay},
            {"name": "no_decay", "params": no_decay, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=betas,
        fused=fused,
    )
