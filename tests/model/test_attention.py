from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from model.attention import (
    Attention,
    block_document_mask,
    continuation_mask,
    dense_document_mask,
    document_mask,
)
from model.config import DecoderConfig
from model.rope import rotary_cos_sin

THETA = 100.0
D_MODEL, NUM_HEADS, HEAD_DIM = 16, 4, 4


def attention_of(num_kv_heads: int) -> Attention:
    torch.manual_seed(num_kv_heads)
    config = DecoderConfig(
        vocab_size=64,
        d_model=D_MODEL,
        num_layers=1,
        num_heads=NUM_HEADS,
        num_kv_heads=num_kv_heads,
        d_ff=8,
        max_seq_len=32,
        rope_theta=THETA,
    )
    return Attention(config).double()


def turned(vector: list[float], position: int) -> list[float]:
    """Rotary positions by complex numbers."""
    half = len(vector) // 2
    pairs = [
        complex(vector[i], vector[i + half]) * cmath.exp(1j * position * THETA ** (-i / half)) for i in range(half)
    ]
    return [pair.real for pair in pairs] + [pair.imag for pair in pairs]


def naive_attention(attention: Attention, x_BTD: Tensor, documents: list[list[int]]) -> Tensor:
    """Loops over rows, heads, positions and earlier positions, in Python floats (64 bit)."""
    num_kv_heads = attention.key.weight.shape[0] // HEAD_DIM
    out = torch.zeros_like(x_BTD)
    for b in range(x_BTD.shape[0]):
        num_positions = x_BTD.shape[1]
        queries, keys, values = (
            (x_BTD[b] @ projection.weight.T).tolist()
            for projection in (attention.query, attention.key, attention.value)
        )
        for t in range(num_positions):
            merged: list[float] = []
            for h in range(NUM_HEADS):
                k = h // (NUM_HEADS // num_kv_heads)
                query = turned(queries[t][h * HEAD_DIM : (h + 1) * HEAD_DIM], t)
                seen = [s for s in range(t + 1) if documents[b][s] == documents[b][t]]
                scores = []
                for s in seen:
                    key = turned(keys[s][k * HEAD_DIM : (k + 1) * HEAD_DIM], s)
                    scores.append(sum(q * x for q, x in zip(query, key, strict=True)) / math.sqrt(HEAD_DIM))
                weights = [math.exp(score - max(scores)) for score in scores]
                for c in range(HEAD_DIM):
                    weighted = sum(w * values[s][k * HEAD_DIM + c] for w, s in zip(weights, seen, strict=True))
                    merged.append(weighted / sum(weights))
            out[b, t] = torch.tensor(merged, dtype=torch.float64) @ attention.output.weight.T
    return out


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_causal_against_loops(num_kv_heads: int) -> None:
    attention = attention_of(num_kv_heads)
    x_BTD = torch.randn(2, 7, D_MODEL, dtype=torch.float64)
    out = attention(x_BTD, rotary_cos_sin(0, 7, HEAD_DIM, THETA, x_BTD.device))
    # scores differ by the fp32 rounding of the angles
    torch.testing.assert_close(out, naive_attention(attention, x_BTD, [[0] * 7] * 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_documents_against_loops(num_kv_heads: int) -> None:
    attention = attention_of(num_kv_heads)
    x_BTD = torch.randn(2, 7, D_MODEL, dtype=torch.float64)
    documents = [[0, 0, 0, 1, 1, 2, 2], [5, 4, 4, 4, 4, 4, 9]]
    mask = document_mask(torch.tensor(documents))
    out = attention(x_BTD, rotary_cos_sin(0, 7, HEAD_DIM, THETA, x_BTD.device), mask)
    torch.testing.assert_close(out, naive_attention(attention, x_BTD, documents), atol=1e-5, rtol=0)


def test_document_mask_by_hand() -> None:
    mask = dense_document_mask(torch.tensor([[3, 3, 8]], dtype=torch.int32))
    assert mask.shape == (1, 1, 3, 3)
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_one_document_is_plain_causal() -> None:
    attention = attention_of(2)
    x_BTD = torch.randn(1, 6, D_MODEL, dtype=torch.float64)
    cos_sin = rotary_cos_sin(0, 6, HEAD_DIM, THETA, x_BTD.device)
    masked = attention(x_BTD, cos_sin, document_mask(torch.zeros(1, 6, dtype=torch.long)))
    torch.testing.assert_close(masked, attention(x_BTD, cos_sin))


def test_continuation_mask_by_hand() -> None:
    mask = continuation_mask(2, 3, torch.device("cpu"))
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_one_position_attends_to_itself_alone() -> None:
    attention = attention_of(2)
    x_BTD = torch.randn(1, 1, D_MODEL, dtype=torch.float64)
    out = attention(x_BTD, rotary_cos_sin(0, 1, HEAD_DIM, THETA, x_BTD.device))
    value = attention.value(x_BTD).view(1, 1, 2, 1, HEAD_DIM).expand(1, 1, 2, 2, HEAD_DIM).reshape(1, 1, D_MODEL)
    torch.testing.assert_close(out, attention.output(value))


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_flex_attention_sees_what_the_dense_mask_shows(num_kv_heads: int) -> None:
    """The GPU's path, whose forward pass runs on the CPU too; 200 positions are two blocks, the second half empty."""
    attention = attention_of(num_kv_heads).float()
    x_BTD = torch.randn(2, 200, D_MODEL)
    documents_BT = torch.cat([torch.zeros(2, 30), torch.ones(2, 100), torch.full((2, 70), 2)], dim=1).int()
    documents_BT[1, :130] = 7
    cos_sin = rotary_cos_sin(0, 200, HEAD_DIM, THETA, x_BTD.device)
    with torch.no_grad():
        dense = attention(x_BTD, cos_sin, dense_document_mask(documents_BT))
        flex = attention(x_BTD, cos_sin, block_document_mask(documents_BT))
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)
    assert isinstance(document_mask(documents_BT), torch.Tensor)  # what the CPU trains with


def test_compiled_flex_attention_takes_any_documents_without_compiling_again() -> None:
    """As a compiled block runs it on a GPU, but for the kernel: a mask is new in every step, the graph is not."""
    attention = attention_of(2).float()
    compiled = attention_of(2).float()
    counter = CompileCounterWithBackend("eager")
    compiled.compile(backend=counter, fullgraph=True)
    cos_sin = rotary_cos_sin(0, 200, HEAD_DIM, THETA, torch.device("cpu"))
    for length in (30, 60, 150):
        x_BTD = torch.randn(2, 200, D_MODEL)
        documents_BT = (torch.arange(200) // length).int().expand(2, -1)
        with torch.no_grad():
            flex = compiled(x_BTD, cos_sin, block_document_mask(documents_BT))
            dense = attention(x_BTD, cos_sin, dense_document_mask(documents_BT))
        torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)
    assert counter.frame_count == 1
