"""The network in Hugging Face's words: nothing of its shape goes unsaid, and every parameter has a name of theirs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from model.config import DecoderConfig, RopeScaling
from model.decoder import Decoder
from tasks.export.layout import architecture, generation_configuration, model_configuration, parameter_name
from tests.model.reference_networks import reference_name
from tests.tasks.export.exportable import SCALINGS, SHAPE

OTHER: dict[str, Any] = {
    "vocab_size": 384,
    "d_model": 64,
    "num_layers": 3,
    "num_heads": 2,
    "num_kv_heads": 1,
    "d_ff": 80,
    "max_seq_len": 128,
    "rope_theta": 500_000.0,
    "norm_eps": 1e-6,
    "rope_scaling": SCALINGS["linear"],
    "qk_norm": True,
    "tie_embeddings": False,
    "init_std": 0.01,
}
USED: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.5},
    "llama3": {"factor": 2.5, "original_max_seq_len": 7, "low_freq_factor": 1.5, "high_freq_factor": 3.5},
    "yarn": {"factor": 2.5, "original_max_seq_len": 7, "beta_fast": 30.0, "beta_slow": 1.5},
}


def test_every_field_of_the_shape_is_in_the_configuration() -> None:
    fields = {field.name for field in dataclasses.fields(DecoderConfig)}
    assert OTHER.keys() == fields
    before = model_configuration(SHAPE, "float32")
    for name, value in OTHER.items():
        changed = dataclasses.replace(SHAPE, **{name: value})
        assert model_configuration(changed, "float32") != before, f"{name} is not exported"


@pytest.mark.parametrize("kind", list(USED))
def test_every_field_of_a_scaling_is_in_the_configuration(kind: Any) -> None:
    scaling = RopeScaling(kind=kind, factor=2.0, original_max_seq_len=48)
    before = model_configuration(dataclasses.replace(SHAPE, rope_scaling=scaling), "float32")
    for name, value in USED[kind].items():
        changed = dataclasses.replace(SHAPE, rope_scaling=dataclasses.replace(scaling, **{name: value}))
        after = model_configuration(changed, "float32")
        assert after["rope_parameters"] != before["rope_parameters"], f"{name} is not exported"
        assert after["rope_scaling"] != before["rope_scaling"]


def test_old_and_new_names_say_the_same() -> None:
    plain = model_configuration(SHAPE, "bfloat16")
    assert plain["rope_parameters"] == {"rope_type": "default", "rope_theta": 5_000.0}
    assert (plain["rope_theta"], plain["rope_scaling"]) == (5_000.0, None)
    assert plain["dtype"] == plain["torch_dtype"] == "bfloat16"
    for scaling in SCALINGS.values():
        scaled = model_configuration(dataclasses.replace(SHAPE, rope_scaling=scaling), "float32")
        assert scaled["rope_parameters"] == {**scaled["rope_scaling"], "rope_theta": 5_000.0}


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_parameters_have_the_names_of_their_class(qk_norm: bool, tie_embeddings: bool) -> None:
    shape = dataclasses.replace(SHAPE, qk_norm=qk_norm, tie_embeddings=tie_embeddings)
    import transformers

    with torch.device("meta"):
        names = [parameter_name(name) for name in Decoder(shape).state_dict()]
        theirs = getattr(transformers, architecture(shape))(
            transformers.AutoConfig.for_model(**model_configuration(shape, "float32"))
        )
    assert len(set(names)) == len(names)
    assert set(names) == set(theirs.state_dict()) - ({"lm_head.weight"} if tie_embeddings else set())
    assert names == [reference_name(name) for name in Decoder(shape).state_dict()]  # as the parity tests have them


@pytest.mark.parametrize("name", ["head.bias", "blocks.0.attention.query.bias", "blocks.0.other.weight"])
def test_an_unknown_parameter_is_ours_to_mend(name: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        parameter_name(name)


def test_padding_is_suppressed_where_there_is_some() -> None:
    assert "suppress_tokens" not in generation_configuration(SHAPE, 320)
    assert generation_configuration(SHAPE, 319)["suppress_tokens"] == [319]
    assert generation_configuration(SHAPE, 300)["suppress_tokens"] == list(range(300, 320))
