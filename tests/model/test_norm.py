from __future__ import annotations

import math

import torch

from model.norm import RMSNorm


def test_against_python_floats() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(6, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6)
    out = norm(x)
    for b in range(2):
        for t in range(3):
            row = x[b, t].tolist()
            root = math.sqrt(sum(value * value for value in row) / 6 + 1e-3)
            for d in range(6):
                assert math.isclose(out[b, t, d].item(), row[d] / root * norm.weight[d].item(), rel_tol=1e-5)


def test_zeros_stay_zeros() -> None:
    assert torch.equal(RMSNorm(4, eps=1e-5)(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_scale_of_the_input_does_not_matter() -> None:
    x = torch.randn(5, 8)
    norm = RMSNorm(8, eps=1e-12)
    torch.testing.assert_close(norm(1000 * x), norm(x))


def test_bf16_is_normalised_in_fp32_and_rounded_once() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(512, eps=1e-5)
    torch.nn.init.normal_(norm.weight, mean=1.0, std=0.1)
    norm = norm.bfloat16()
    x = (30 * torch.randn(4, 512)).bfloat16()
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    out = norm(x)
    assert out.dtype is torch.bfloat16
    half_ulp = 2.0**-8  # of bf16, relative
    assert ((out.double() - exact).abs() <= exact.abs() * half_ulp * 1.01).all()


def test_fp16_does_not_overflow_where_the_square_would() -> None:
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)
    torch.testing.assert_close(RMSNorm(8, eps=1e-5)(x), torch.ones(1, 8, dtype=torch.float16))
