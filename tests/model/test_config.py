from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, addmm_flop

from model.config import (
    PRESETS,
    DecoderConfig,
    RopeScaling,
    num_flops_per_token,
    num_parameters,
    padded_vocab_size,
    preset,
)
from model.decoder import Decoder

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 48,
    "max_seq_len": 16,
}


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("vocab_size", [1_000, None])
def test_closed_form_counts_the_built_model(name: str, vocab_size: int | None) -> None:
    config = preset(name, vocab_size or PRESETS[name].reference_vocab_size)
    with torch.device("meta"):
        model = Decoder(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(config)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "smoke"])
def test_a_preset_is_as_large_as_its_name(name: str) -> None:
    named = float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
    counted = num_parameters(preset(name, PRESETS[name].reference_vocab_size))
    assert counted == pytest.approx(named, rel=0.08)


def test_exact_counts() -> None:
    assert num_parameters(preset("smoke", 4_096)) == 1_041_280
    assert num_parameters(preset("8b", 128_256)) == 8_030_261_248  # Llama 3 8B as published
    assert num_parameters(DecoderConfig(**TINY)) == (
        64 * 32  # embedding, tied
        + 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32)  # query, key and value, output
        + 2 * 3 * 32 * 48  # gate, up, down
        + 5 * 32  # norms
    )
    untied = dataclasses.replace(DecoderConfig(**TINY), tie_embeddings=False)
    assert num_parameters(untied) - num_parameters(DecoderConfig(**TINY)) == 64 * 32


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_flops_agree_with_torchs_counter(tie_embeddings: bool) -> None:
    config = DecoderConfig(**TINY, tie_embeddings=tie_embeddings)
    model = Decoder(config)
    tokens_BT = torch.randint(0, config.vocab_size, (3, 16))
    # the math kernel computes the whole T x T square, as the formula counts it, in matrix products the counter sees
    in_place = {torch.ops.aten.addmm_: addmm_flop.__wrapped__}  # the head's gradient; torch counts those that are not
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model.loss(tokens_BT, tokens_BT).backward()
    assert counter.get_total_flops() == num_flops_per_token(config, 16) * tokens_BT.numel()


def test_presets_pad_the_vocabulary_and_take_a_length() -> None:
    config = preset("10m", 8_001)
    assert (config.vocab_size, config.max_seq_len) == (8_064, 512)
    assert preset("10m", 8_001, max_seq_len=77).max_seq_len == 77
    assert preset("8b", 128_256).rope_theta == 500_000.0
    assert not preset("8b", 128_256).tie_embeddings
    with pytest.raises(ValueError, match="no model preset is called '7b'; choose one of smoke, 10m"):
        preset("7b", 1_000)


@given(st.integers(1, 10**7))
def test_padding_is_the_next_multiple(num_tokens: int) -> None:
    padded = padded_vocab_size(num_tokens)
    assert padded % 64 == 0
    assert 0 <= padded - num_tokens < 64


def test_padding_at_the_boundary() -> None:
    assert [padded_vocab_size(n) for n in (1, 64, 65, 50_257)] == [64, 64, 128, 50_304]
    with pytest.raises(ValueError, match="at least one"):
        padded_vocab_size(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5, "num_kv_heads": 5}, "d_model 32 does not divide into 5 heads; choose num_heads"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3; choose num_kv_heads"),
        ({"num_kv_heads": 8}, "num_heads 4 is not a multiple of num_kv_heads 8"),
        ({"num_heads": 32, "num_kv_heads": 1}, "head dimension d_model / num_heads = 1 is odd"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be greater than 0"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0"),
        ({"init_std": float("nan")}, "init_std is nan"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**(TINY | change))


@pytest.mark.parametrize("name", list(PRESETS))
def test_round_trip_through_json(name: str) -> None:
    config = preset(name, 1_000)
    assert DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_takes_a_whole_number_for_a_float_and_fills_defaults() -> None:
    config = DecoderConfig.from_dict(TINY | {"rope_theta": 500_000})
    assert type(config.rope_theta) is float
    assert config.norm_eps == 1e-5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (TINY | {"n_layers": 2}, r"unknown fields \['n_layers'\]"),
        ({key: value for key, value in TINY.items() if key != "d_ff"}, r"missing fields \['d_ff'\]"),
        (TINY | {"num_layers": True}, "num_layers is True .* must be of type int"),
        (TINY | {"num_layers": 2.0}, "num_layers is 2.0 .* must be of type int"),
        (TINY | {"d_model": "32"}, "d_model is '32' .* must be of type int"),
        (TINY | {"tie_embeddings": 1}, "tie_embeddings is 1 .* must be of type bool"),
        (TINY | {"init_std": None}, "init_std is None .* must be of type float"),
        (TINY | {"d_model": 0}, "d_model is 0"),
    ],
)
def test_from_dict_is_strict(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig.from_dict(values)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecoderConfig(**TINY).d_model = 64  # type: ignore[misc]


def test_rope_scaling_round_trips_and_old_configurations_have_none() -> None:
    scaling = RopeScaling(kind="llama3", factor=8, original_max_seq_len=8192)
    config = DecoderConfig(**TINY, rope_scaling=scaling, qk_norm=True)
    read = DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config and read.rope_scaling == scaling
    assert DecoderConfig.from_dict(TINY).rope_scaling is None and not DecoderConfig.from_dict(TINY).qk_norm


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ntk", "factor": 2.0}, "choose linear, llama3 or yarn"),
        ({"kind": "linear", "factor": 0.5}, "factor is 0.5; it must be at least 1"),
        ({"kind": "yarn", "factor": 2.0}, "yarn needs the length"),
        ({"kind": "llama3", "factor": 2.0, "original_max_seq_len": 8, "low_freq_factor": 4.0}, "below high_freq"),
        ({"kind": "yarn", "factor": 2.0, "original_max_seq_len": 8, "beta_slow": 0.0}, "beta_slow must be above 0"),
        ({"kind": "linear", "factor": "2"}, "factor is '2' in rope_scaling; it must be of type float"),
        ({"kind": "linear"}, r"missing fields \['factor'\] in rope_scaling"),
    ],
)
def test_rope_scaling_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecoderConfig.from_dict(TINY | {"rope_scaling": values})
    with pytest.raises(ValueError, match="must be a mapping"):
        DecoderConfig.from_dict(TINY | {"rope_scaling": 3})


def test_qk_norm_adds_one_weight_a_head_dimension_to_queries_and_to_keys() -> None:
    with_norm = DecoderConfig(**TINY, qk_norm=True)
    assert num_parameters(with_norm) - num_parameters(DecoderConfig(**TINY)) == 2 * 2 * 8
    with torch.device("meta"):
        built = Decoder(with_norm)
    assert sum(parameter.numel() for parameter in built.parameters()) == num_parameters(with_norm)
