"""What can only be checked where training will run: kernels that a CPU lacks, compiled, in bf16, against plain fp32.

Each check gives a relative difference (norm of the difference by the norm of what it should be) and what is tolerated.
bf16 has 8 bits: a product is off by some 2^-9 = .2 %, what comes after several by up to 1 %.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask

from model.attention import Attention, Mask, block_document_mask, dense_document_mask
from model.config import DecoderConfig
from model.decoder import Decoder
from model.loss import next_token_loss_with_z
from model.optimizer import OptimizerKind, build_optimizer
from model.parallel import Parallelism, parallelize
from model.rope import rotary_cos_sin
from tests.benchmarks.plain_llama import PlainLlama
from tests.model.reference_networks import reference_name


@dataclass(frozen=True, kw_only=True)
class Check:
    name: str
    difference: float
    tolerated: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerated  # not a number is not


def run_checks(device: torch.device, *, full_size: bool) -> Iterator[Check]:
    """All of them, one by one; at `full_size` with shapes that fill kernels, and then everything is compiled."""
    torch.manual_seed(0)
    yield plain_logits(device)
    yield from masked_attention(device, full_size=full_size)
    if device.type == "cuda":
        yield grouped_flash_attention(device)
    yield from blockwise_loss(device, full_size=full_size)
    for kind in ("adamw", "muon"):
        yield overfit(device, kind, full_size=full_size)


def plain_llama_like(model: Decoder) -> PlainLlama:
    """With its weights, on its device."""
    with model.head_weight.device:
        plain = PlainLlama(model.config)
    state = {reference_name(name): tensor for name, tensor in model.state_dict().items()}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    plain.load_state_dict(state)
    return plain


def plain_logits(device: torch.device) -> Check:
    config = small_config(max_seq_len=64)
    model = Decoder(config).to(device)
    tokens_BT = torch.randint(0, config.vocab_size, (2, 64), device=device)
    with torch.no_grad():
        difference = relative(model(tokens_BT), plain_llama_like(model)(tokens_BT))
    return Check(name="logits, fp32, against plain Llama", difference=difference, tolerated=1e-4)


def masked_attention(device: torch.device, *, full_size: bool) -> Iterator[Check]:
    """Flex attention over packed documents against a dense mask, with its backward pass where it has one: in a layer as
    it is and, at full size, in one that is compiled."""
    on_gpu = device.type == "cuda"
    num_positions = 1_024 if full_size else 256
    config = small_config(max_seq_len=num_positions)
    attention = Attention(config).to(device)
    cos_sin = rotary_cos_sin(0, num_positions, config.head_dim, config.rope_theta, device)
    ends = torch.rand(2, num_positions, device=device) < 8 / num_positions
    document_ids_BT = ends.int().cumsum(1, dtype=torch.int32)
    x_BTD = torch.randn(2, num_positions, config.d_model, device=device)
    weights_BTD = torch.randn_like(x_BTD)

    def attended(mask: Mask) -> tuple[Tensor, Tensor | None]:
        """What comes out, and the gradient of its weighted sum by what went in."""
        x = x_BTD.clone().requires_grad_(on_gpu)
        in_bf16 = on_gpu and isinstance(mask, BlockMask)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bf16), torch.set_grad_enabled(on_gpu):
            out = attention(x, cos_sin, mask)
        if on_gpu:
            (out * weights_BTD).sum().backward()
        return out.detach(), x.grad

    dense = attended(dense_document_mask(document_ids_BT))
    tolerated = 1e-2 if on_gpu else 1e-5
    for where in ("", ", compiled") if full_size else ("",):
        if where:
            attention.compile()
        with warnings.catch_warnings():
            if on_gpu:  # torch says so when it falls back to writing out all scores
                warnings.filterwarnings("error", message="flex_attention called without torch.compile")
            flex = attended(block_document_mask(document_ids_BT))
        forward = relative(flex[0], dense[0])
        yield Check(name=f"flex attention{where}, forward", difference=forward, tolerated=tolerated)
        if flex[1] is not None and dense[1] is not None:
            backward = relative(flex[1], dense[1])
            yield Check(name=f"flex attention{where}, backward", difference=backward, tolerated=2 * tolerated)


def grouped_flash_attention(device: torch.device) -> Check:
    """Flash attention takes grouped heads; were it not so, SDPA would quietly take another kernel."""
    query, key, value = (torch.randn(2, heads, 512, 64, device=device, dtype=torch.bfloat16) for heads in (8, 2, 2))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        flash = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    with sdpa_kernel(SDPBackend.MATH):
        exact = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, enable_gqa=True
        )
    return Check(name="flash attention with grouped heads", difference=relative(flash, exact), tolerated=1e-2)


def blockwise_loss(device: torch.device, *, full_size: bool) -> Iterator[Check]:
    """The head and its loss in blocks, in bf16, with z-loss, against logits and cross entropy in fp32."""
    rows, d_model, vocab_size = (4_096, 512, 50_304) if full_size else (64, 32, 512)
    hidden_BTD = torch.randn(1, rows, d_model, device=device, requires_grad=True)
    head_VD = (torch.randn(vocab_size, d_model, device=device) * d_model**-0.5).requires_grad_()
    targets_BT = torch.randint(0, vocab_size, (1, rows), device=device)
    targets_BT[:, ::7] = -100
    with torch.autocast(device.type, dtype=torch.bfloat16):
        total, cross_entropy = next_token_loss_with_z(hidden_BTD, targets_BT, head_VD, z_loss=1e-4)
    ours = torch.autograd.grad(total, (hidden_BTD, head_VD))
    logits_NV = (hidden_BTD @ head_VD.T)[0]
    exact = F.cross_entropy(logits_NV, targets_BT[0])
    z = 1e-4 * logits_NV.logsumexp(-1)[targets_BT[0] != -100].square().mean()
    gradients = torch.autograd.grad(exact + z, (hidden_BTD, head_VD))
    yield Check(name="loss in blocks", difference=relative(cross_entropy, exact), tolerated=1e-3)
    for name, our, their in zip(("hidden states", "head"), ours, gradients, strict=True):
        yield Check(name=f"loss in blocks, gradient of {name}", difference=relative(our, their), tolerated=1e-2)


def overfit(device: torch.device, kind: OptimizerKind, *, full_size: bool) -> Check:
    """Trained as the recipes do on one batch of packed documents, a small network learns it by heart."""
    torch.manual_seed(0)
    config = small_config(max_seq_len=128)
    layout = Parallelism(compile=full_size, bf16=True)
    model = parallelize(Decoder(config), layout, None, device)
    optimizer = build_optimizer(kind, model, learning_rate=3e-3)
    tokens_BT = torch.randint(0, config.vocab_size, (2, 129), device=device)
    document_ids_BT = (torch.arange(128, device=device) // 48).int().expand(2, -1).contiguous()
    losses = []
    for _ in range(60):
        with layout.autocast(device.type):
            loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:], document_ids_BT=document_ids_BT)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return Check(name=f"one batch by heart, {kind}: loss left", difference=losses[-1] / losses[0], tolerated=0.1)


def small_config(*, max_seq_len: int) -> DecoderConfig:
    """Small, but with heads as wide as those of real networks, and grouped."""
    return DecoderConfig(
        vocab_size=512, d_model=256, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=512, max_seq_len=max_seq_len
    )


def relative(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach().float()
    return float((found.detach().float() - expected).norm() / expected.norm())
