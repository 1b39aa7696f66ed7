from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from model.config import DecoderConfig, RopeScaling
from model.decode_step import DecodeStep
from model.decoder import Decoder
from model.kv_cache import RowCache
from tests.model.reference_networks import random_decoder

TINY = DecoderConfig(vocab_size=128, d_model=64, num_layers=3, num_heads=4, num_kv_heads=2, d_ff=96, max_seq_len=40)

SHAPES = {
    "grouped queries": TINY,
    "all heads": dataclasses.replace(TINY, num_kv_heads=4),
    "one key head": dataclasses.replace(TINY, num_kv_heads=1, rope_theta=500_000.0),
    "own head": dataclasses.replace(TINY, tie_embeddings=False, norm_eps=1e-2),
    "QK-norm": dataclasses.replace(TINY, qk_norm=True, num_kv_heads=1),
    "linear": dataclasses.replace(TINY, rope_scaling=RopeScaling(kind="linear", factor=4.0)),
    "llama3": dataclasses.replace(
        TINY, rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_max_seq_len=16), tie_embeddings=False
    ),
    "yarn": dataclasses.replace(
        TINY, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=10), qk_norm=True
    ),
}


def read(model: Decoder, cache: RowCache, prompts: list[Tensor]) -> None:
    for prompt in prompts:
        model.hidden_states(prompt[None], cache=cache.added([len(prompt)]))


def texts_of(lengths: list[int], num_new: int, vocab_size: int) -> list[Tensor]:
    return [torch.randint(0, vocab_size, (length + num_new,)) for length in lengths]


@pytest.mark.parametrize("lengths", [[9], [9, 9, 9], [1, 30, 7, 12], [3, 1, 2, 9, 9, 4, 5]])
@pytest.mark.parametrize("shape", list(SHAPES))
@torch.inference_mode()
def test_it_is_the_decoder_without_a_cache(shape: str, lengths: list[int]) -> None:
    model = random_decoder(SHAPES[shape])
    texts = texts_of(lengths, 8, 128)
    cache = RowCache(model.config, max_rows=8)
    read(model, cache, [text[:length] for text, length in zip(texts, lengths, strict=True)])
    step = DecodeStep(model, cache)
    whole = [model(text[None])[0] for text in texts]
    for new in range(8):
        logits_RV = step.logits([int(text[length + new]) for text, length in zip(texts, lengths, strict=True)])
        expected = [logits[length + new] for logits, length in zip(whole, lengths, strict=True)]
        torch.testing.assert_close(logits_RV, torch.stack(expected), atol=2e-4, rtol=1e-4)
    assert cache.lengths == [length + 8 for length in lengths]


@torch.inference_mode()
def test_the_last_row_takes_the_place_of_one_that_leaves() -> None:
    model = random_decoder(TINY)
    first, second, third = texts_of([20, 3, 8], 2, 128)
    cache = RowCache(TINY, max_rows=3)
    read(model, cache, [first[:20], second[:3], third[:8]])
    step = DecodeStep(model, cache)
    step.logits([int(first[20]), int(second[3]), int(third[8])])
    cache.remove(0)
    logits_RV = step.logits([int(third[9]), int(second[4])])
    expected = torch.stack([model(third[None])[0, -1], model(second[None])[0, -1]])
    torch.testing.assert_close(logits_RV, expected, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_in_half_precision_it_is_as_near_as_the_decoder_is() -> None:
    exact = random_decoder(SHAPES["yarn"])
    model = random_decoder(SHAPES["yarn"]).to(torch.bfloat16)
    lengths = list(range(1, 33, 2))
    texts = texts_of(lengths, 1, 128)
    cache = RowCache(model.config, max_rows=16, dtype=torch.bfloat16)
    read(model, cache, [text[:-1] for text in texts])
    logits_RV = DecodeStep(model, cache).logits([int(text[-1]) for text in texts])
    assert logits_RV.dtype == torch.float32
    truth_RV = torch.stack([exact(text[None])[0, -1] for text in texts])
    usual_RV = torch.stack([model(text[None])[0, -1] for text in texts])
    assert (logits_RV - truth_RV).norm() < 1.25 * (usual_RV - truth_RV).norm()


@torch.inference_mode()
def test_it_reads_the_models_own_memory() -> None:
    model = random_decoder(TINY)
    cache = RowCache(TINY, max_rows=1)
    step = DecodeStep(model, cache)
    model.get_parameter("blocks.1.feed_forward.down.weight").mul_(3.0)
    model.embedding.weight.mul_(0.5)
    text = torch.tensor([5, 6, 7])
    read(model, cache, [text[:2]])
    torch.testing.assert_close(step.logits([7])[0], model(text[None])[0, -1], atol=2e-4, rtol=1e-4)
