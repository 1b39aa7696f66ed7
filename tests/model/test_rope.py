from __future__ import annotations

import cmath

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.rope import rotary_cos_sin, rotate

CPU = torch.device("cpu")


@pytest.mark.parametrize("start", [0, 7])
def test_against_complex_numbers(start: int) -> None:
    torch.manual_seed(0)
    head_dim, theta = 6, 100.0
    x = torch.randn(2, 3, 5, head_dim)
    out = rotate(x, *rotary_cos_sin(start, 5, head_dim, theta, CPU))
    for b in range(2):
        for n in range(3):
            for t in range(5):
                for i in range(head_dim // 2):
                    pair = complex(x[b, n, t, i].item(), x[b, n, t, i + head_dim // 2].item())
                    turned = pair * cmath.exp(1j * (start + t) * theta ** (-2 * i / head_dim))
                    assert out[b, n, t, i].item() == pytest.approx(turned.real, abs=1e-5)
                    assert out[b, n, t, i + head_dim // 2].item() == pytest.approx(turned.imag, abs=1e-5)


def test_position_zero_turns_nothing() -> None:
    x = torch.randn(1, 1, 1, 8)
    assert torch.equal(rotate(x, *rotary_cos_sin(0, 1, 8, 10_000.0, CPU)), x)


@settings(max_examples=30)
@given(query_at=st.integers(0, 500), key_at=st.integers(0, 500), shift=st.integers(0, 500))
def test_products_depend_on_the_distance_only(query_at: int, key_at: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 1, 1, 16, generator=generator)

    def product(query_position: int, key_position: int) -> float:
        turned_query = rotate(query, *rotary_cos_sin(query_position, 1, 16, 10_000.0, CPU))
        turned_key = rotate(key, *rotary_cos_sin(key_position, 1, 16, 10_000.0, CPU))
        return (turned_query * turned_key).sum().item()

    assert product(query_at, key_at) == pytest.approx(product(query_at + shift, key_at + shift), abs=2e-3)


def test_angles_are_exact_far_out() -> None:
    position = 8_191
    cos, sin = rotary_cos_sin(position, 1, 64, 500_000.0, CPU)
    angles = position * 500_000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    torch.testing.assert_close(cos[0].double(), angles.cos(), atol=2e-3, rtol=0)
    torch.testing.assert_close(sin[0].double(), angles.sin(), atol=2e-3, rtol=0)


def test_bf16_vectors_turn_by_fp32_angles() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 64).bfloat16()
    cos, sin = rotary_cos_sin(1_000, 4, 64, 10_000.0, CPU)
    assert cos.dtype is sin.dtype is torch.float32
    out = rotate(x, cos, sin)
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, rotate(x.float(), cos, sin).bfloat16())


def test_lengths_are_kept() -> None:
    x = torch.randn(2, 4, 9, 32)
    torch.testing.assert_close(rotate(x, *rotary_cos_sin(3, 9, 32, 10_000.0, CPU)).norm(dim=-1), x.norm(dim=-1))
