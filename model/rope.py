"""Rotary position embedding (RoFormer, Su et al. 2021): a head's vector is turned by an angle that grows with position.

The pairs that turn together are (i, i + C/2), the "rotate half" convention of Hugging Face's Llama, so that exported
weights need no permutation. Angles are computed in every forward pass instead of being kept in a buffer: a buffer would
lose its precision under `.to(torch.bfloat16)` and its content under `to_empty()` after a build on the meta device.

Shapes: T sequence, C head dimension, N either number of heads.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_cos_sin(
    start: int, num_positions: int, head_dim: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, both (T, C/2) in fp32, of the angles of positions start ... start + num_positions - 1.

    Pair i turns by theta^(-2i/C) radians a position.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    radians_per_position = theta**-exponents
    positions_T = torch.arange(start, start + num_positions, dtype=torch.float32, device=device)
    angles = positions_T[:, None] * radians_per_position[None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (..., N, T, C) by the angles of `cos` and `sin`, (T, C/2); in fp32, returned in the dtype of x."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
