from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from model.config import DecoderConfig, preset
from model.decoder import Block, Decoder
from model.optimizer import build_adamw

CONFIG = DecoderConfig(
    vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_seq_len=16, init_std=0.2
)
UNTIED = dataclasses.replace(CONFIG, tie_embeddings=False)


def decoder_of(config: DecoderConfig, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(config)


def tokens_of(config: DecoderConfig, *shape: int) -> Tensor:
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(7))


def reference_logits(weights: dict[str, Tensor], config: DecoderConfig, tokens: list[int]) -> Tensor:
    """The published Llama formulas in float64, one sequence and one head at a time, positions as complex numbers."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    length, dim = len(tokens), config.head_dim
    group_size = config.num_heads // config.num_kv_heads

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight

    frequencies = config.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    turns = torch.polar(torch.ones(length, dim // 2, dtype=torch.float64), torch.arange(length)[:, None] * frequencies)

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : dim // 2], x[:, dim // 2 :]) * turns
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    future = torch.ones(length, length).triu(1).bool()
    x = w["embedding.weight"][tokens]
    for i in range(config.num_layers):
        prefix = f"blocks.{i}."
        normed = norm(x, w[prefix + "attention_norm.weight"])
        heads = []
        for h in range(config.num_heads):
            k = h // group_size
            query = turned(normed @ w[prefix + "attention.query.weight"][h * dim : (h + 1) * dim].T)
            key = turned(normed @ w[prefix + "attention.key.weight"][k * dim : (k + 1) * dim].T)
            value = normed @ w[prefix + "attention.value.weight"][k * dim : (k + 1) * dim].T
            scores = (query @ key.T / math.sqrt(dim)).masked_fill(future, -math.inf)
            heads.append(scores.softmax(-1) @ value)
        x = x + torch.cat(heads, dim=-1) @ w[prefix + "attention.output.weight"].T
        normed = norm(x, w[prefix + "feed_forward_norm.weight"])
        gate = normed @ w[prefix + "feed_forward.gate.weight"].T
        up = normed @ w[prefix + "feed_forward.up.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ w[prefix + "feed_forward.down.weight"].T
    head = w["embedding.weight"] if config.tie_embeddings else w["head.weight"]
    return norm(x, w["final_norm.weight"]) @ head.T


@pytest.mark.parametrize(
    "config",
    [CONFIG, UNTIED, dataclasses.replace(CONFIG, num_kv_heads=4, rope_theta=500.0, norm_eps=1e-2)],
    ids=["tied", "untied", "one key head for each query head"],
)
def test_logits_against_the_formulas(config: DecoderConfig) -> None:
    model = decoder_of(config)
    for block in model.blocks:
        assert isinstance(block, Block)
        for norm in (block.attention_norm, block.feed_forward_norm, model.final_norm):
            torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    tokens_BT = tokens_of(config, 2, 16)
    with torch.no_grad():
        logits_BTV = model(tokens_BT)
    assert logits_BTV.shape == (2, 16, 64)
    for row, logits_TV in zip(tokens_BT.tolist(), logits_BTV, strict=True):
        expected = reference_logits(model.state_dict(), config, row)
        torch.testing.assert_close(logits_TV.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changed", [1, 8, 15])
def test_a_token_changes_nothing_before_it(changed: int) -> None:
    model = decoder_of(CONFIG)
    tokens_BT = tokens_of(CONFIG, 1, 16)
    other_BT = tokens_BT.clone()
    other_BT[0, changed] = (other_BT[0, changed] + 1) % 64
    with torch.no_grad():
        before, after = model(tokens_BT)[0], model(other_BT)[0]
    torch.testing.assert_close(after[:changed], before[:changed], atol=1e-6, rtol=0)
    assert all((after[t] - before[t]).abs().max() > 1e-4 for t in range(changed, 16))


def test_documents_do_not_see_each_other() -> None:
    model = decoder_of(CONFIG)
    tokens_BT = tokens_of(CONFIG, 1, 12)
    other_BT = tokens_BT.clone()
    other_BT[0, :5] = (other_BT[0, :5] + 1) % 64
    ids_BT = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        packed = model(tokens_BT, document_ids_BT=ids_BT)[0]
        torch.testing.assert_close(model(other_BT, document_ids_BT=ids_BT)[0, 5:], packed[5:], atol=1e-6, rtol=0)
        assert (model(other_BT)[0, 5:] - model(tokens_BT)[0, 5:]).abs().max() > 1e-3
        # positions are relative: a document in a pack has the logits that it has alone
        torch.testing.assert_close(model(tokens_BT[:, 5:])[0], packed[5:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(tokens_BT[:, :5])[0], packed[:5], atol=1e-4, rtol=1e-4)


def test_the_loss_respects_documents() -> None:
    model = decoder_of(CONFIG)
    tokens_BT, ids_BT = tokens_of(CONFIG, 1, 12), torch.tensor([[0] * 5 + [1] * 7])
    whole = model.loss(tokens_BT, tokens_BT, reduction="none", document_ids_BT=ids_BT)
    alone = model.loss(tokens_BT[:, 5:], tokens_BT[:, 5:], reduction="none")
    torch.testing.assert_close(whole[:, 5:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "vocab_size"), [("smoke", 4_096), ("10m", 8_192)])
def test_a_fresh_model_knows_nothing(name: str, vocab_size: int) -> None:
    config = preset(name, vocab_size)
    model = decoder_of(config)
    with torch.no_grad():
        loss = model.loss(tokens_of(config, 2, 128), tokens_of(config, 4, 64).view(2, 128).flip(1))
    assert loss.item() == pytest.approx(math.log(vocab_size), abs=0.1)


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_gradients_reach_every_parameter(config: DecoderConfig) -> None:
    model = decoder_of(config)
    model.loss(tokens_of(config, 2, 16), tokens_of(config, 2, 16).flip(1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.norm() > 0, name


def test_one_batch_is_learnt_by_heart() -> None:
    model = decoder_of(dataclasses.replace(CONFIG, init_std=0.02))
    optimizer = build_adamw(model, learning_rate=1e-2)
    tokens_BT = tokens_of(CONFIG, 4, 17)
    for _ in range(100):
        loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # the first token of a row cannot tell which row follows, unless the rows begin differently
    assert len(set(tokens_BT[:, 0].tolist())) == 4
    assert loss.item() < 0.05


def test_init_stds() -> None:
    config = preset("10m", 8_192)
    model = decoder_of(dataclasses.replace(config, tie_embeddings=False))
    residual_std = 0.02 / math.sqrt(2 * config.num_layers)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        is_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
        expected = residual_std if is_residual else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.02), name
        assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name
    assert residual_std == pytest.approx(0.004472, rel=1e-3)


def test_meta_device_build_is_completed_by_init_weights() -> None:
    with torch.device("meta"):
        model = Decoder(CONFIG)
    model.to_empty(device="cpu")
    twin = decoder_of(CONFIG, seed=5)
    for each in (model, twin):
        torch.manual_seed(3)
        each.init_weights()
    tokens_BT = tokens_of(CONFIG, 1, 16)
    assert torch.equal(model(tokens_BT), twin(tokens_BT))


def test_the_seed_decides_the_weights() -> None:
    first, same, other = decoder_of(CONFIG, 1), decoder_of(CONFIG, 1), decoder_of(CONFIG, 2)
    assert torch.equal(first.embedding.weight, same.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_state_dict_names_are_the_checkpoint_format() -> None:
    layer = [
        "attention_norm.weight",
        "attention.query.weight",
        "attention.key.weight",
        "attention.value.weight",
        "attention.output.weight",
        "feed_forward_norm.weight",
        "feed_forward.gate.weight",
        "feed_forward.up.weight",
        "feed_forward.down.weight",
    ]
    names = ["embedding.weight", *(f"blocks.{i}.{name}" for i in range(2) for name in layer), "final_norm.weight"]
    assert list(Decoder(CONFIG).state_dict()) == names
    assert list(Decoder(UNTIED).state_dict()) == [*names, "head.weight"]
    shapes = {name: tuple(tensor.shape) for name, tensor in Decoder(UNTIED).state_dict().items()}
    assert shapes["blocks.1.attention.key.weight"] == (16, 32)
    assert shapes["blocks.1.feed_forward.down.weight"] == (32, 48)
    assert shapes["head.weight"] == shapes["embedding.weight"] == (64, 32)


def test_weights_loaded_elsewhere_give_the_same_logits() -> None:
    model, other = decoder_of(CONFIG, 1), decoder_of(CONFIG, 2)
    tokens_BT = tokens_of(CONFIG, 2, 9)
    assert not torch.equal(model(tokens_BT), other(tokens_BT))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens_BT), other(tokens_BT))


def test_bf16_weights_give_nearly_the_same_fp32_logits() -> None:
    model = decoder_of(preset("smoke", 512))
    tokens_BT = tokens_of(model.config, 1, 200)
    with torch.no_grad():
        exact = model(tokens_BT)
        rounded = model.bfloat16()(tokens_BT)
    assert rounded.dtype is torch.float32
    assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()


def test_length_boundary() -> None:
    model = decoder_of(CONFIG)
    assert model(tokens_of(CONFIG, 1, 16)).shape == (1, 16, 64)
    with pytest.raises(ValueError, match="a sequence of 17 tokens for a model of max_seq_len 16; shorten it"):
        model(tokens_of(CONFIG, 1, 17))


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_wrappers_see_the_loss() -> None:
    plain, replicated, sharded = (decoder_of(CONFIG, 4) for _ in range(3))
    tokens_BT, targets_BT = tokens_of(CONFIG, 2, 16), tokens_of(CONFIG, 2, 16).flip(1)
    loss = plain.loss(tokens_BT, targets_BT)
    loss.backward()

    wrapped = DistributedDataParallel(replicated)
    replicated_loss = wrapped(tokens_BT, targets_BT=targets_BT)
    replicated_loss.backward()
    assert torch.equal(replicated_loss, loss)

    mesh = dist.init_device_mesh("cpu", (1,))
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    assert isinstance(sharded, FSDPModule)
    sharded_loss = sharded.loss(tokens_BT, targets_BT)
    sharded_loss.backward()
    assert torch.equal(sharded_loss, loss)

    for one, two, three in zip(plain.parameters(), replicated.parameters(), sharded.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(two.grad, one.grad)
        assert isinstance(three.grad, DTensor)
        assert torch.equal(three.grad.full_tensor(), one.grad)
