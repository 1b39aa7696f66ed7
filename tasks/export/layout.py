"""The network in Hugging Face's words: which of their classes it is, its configuration, the names of its parameters.

Without QK-norm it is `LlamaForCausalLM`, with it `Qwen3ForCausalLM`: what `model/` computes is theirs, weight for
weight, without any permutation (tests/model/test_reference_parity.py), so that nothing needs code of ours to load.
"""

from __future__ import annotations

from typing import Any

from model.config import DecoderConfig, RopeScaling
from tasks.tokenizer import END_OF_TEXT_ID, PAD_ID

_OUTSIDE_LAYERS = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_IN_A_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.up.weight": "mlp.up_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}


def parameter_name(name: str) -> str:
    """Hugging Face's name of one of our parameters."""
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    blocks, layer, rest = name.split(".", 2)
    assert blocks == "blocks" and rest in _IN_A_LAYER, f"{name} is no parameter of a decoder"
    return f"model.layers.{layer}.{_IN_A_LAYER[rest]}"


def architecture(shape: DecoderConfig) -> str:
    """Hugging Face's class."""
    return "Qwen3ForCausalLM" if shape.qk_norm else "LlamaForCausalLM"


def model_configuration(shape: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The content of `config.json` for weights of `dtype`, torch's name without `torch.`.

    Rotary positions and the dtype stand there twice: under transformers 5's names, and under those that transformers 4,
    vLLM and llama.cpp know, which would otherwise compute with another base and without scaling, and not say so.
    """
    scaling = _scaling(shape.rope_scaling) if shape.rope_scaling is not None else None
    rotary = scaling or {"rope_type": "default"}
    configuration: dict[str, Any] = {
        "architectures": [architecture(shape)],
        "model_type": "qwen3" if shape.qk_norm else "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": shape.norm_eps,
        "initializer_range": shape.init_std,
        "tie_word_embeddings": shape.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_parameters": {**rotary, "rope_theta": shape.rope_theta},
        "rope_theta": shape.rope_theta,
        "rope_scaling": scaling,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": END_OF_TEXT_ID,
        "eos_token_id": END_OF_TEXT_ID,
        "pad_token_id": PAD_ID,
        "use_cache": True,
    }
    return configuration | ({"use_sliding_window": False} if shape.qk_norm else {"mlp_bias": False})


def generation_configuration(shape: DecoderConfig, num_tokens: int) -> dict[str, Any]:
    """The content of `generation_config.json` for a tokenizer of `num_tokens`.

    Rows of the vocabulary beyond the tokenizer's are padding without a text: they are never drawn, as in
    `model.generate`.
    """
    ids = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID, "pad_token_id": PAD_ID}
    padding = list(range(num_tokens, shape.vocab_size))
    return {**ids, **({"suppress_tokens": padding} if padding else {})}


def _scaling(scaling: RopeScaling) -> dict[str, Any]:
    """transformers' words; `rope_type` is of its `ROPE_INIT_FUNCTIONS`."""
    words: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return words
    words["original_max_position_embeddings"] = scaling.original_max_seq_len
    if scaling.kind == "llama3":
        return words | {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    assert scaling.kind == "yarn", f"no words for {scaling.kind} positions"
    return words | {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
