"""The network is Hugging Face's `LlamaForCausalLM`, weight for weight. `test_decoder.py` holds the twin without it."""

from __future__ import annotations

import pytest
import torch
import transformers

from model.config import DecoderConfig
from model.decoder import Decoder
from model.generate import generate

LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def llama_name(name: str) -> str:
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        return f"model.layers.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"
    return {
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }[name]


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize(("num_kv_heads", "rope_theta"), [(4, 10_000.0), (2, 500_000.0), (1, 100.0)])
def test_same_weights_same_logits(tie_embeddings: bool, num_kv_heads: int, rope_theta: float) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=128,
        d_model=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        d_ff=96,
        max_seq_len=48,
        rope_theta=rope_theta,
        tie_embeddings=tie_embeddings,
        init_std=0.1,
    )
    ours = Decoder(config)
    for name, parameter in ours.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=num_kv_heads,
            intermediate_size=96,
            max_position_embeddings=48,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=tie_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        )
    ).eval()
    renamed = {llama_name(name): tensor for name, tensor in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if tie_embeddings else [])

    tokens_BT = torch.randint(0, 128, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens_BT), theirs(tokens_BT).logits, atol=2e-4, rtol=1e-4)
        their_loss = theirs(tokens_BT, labels=tokens_BT).loss
    torch.testing.assert_close(ours.loss(tokens_BT[:, :-1], tokens_BT[:, 1:]), their_loss, atol=1e-5, rtol=1e-5)

    prompt = tokens_BT[:1, :8]
    continued = theirs.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    greedy = generate(ours, prompt[0].tolist(), max_new_tokens=20, temperature=0.0, eos_id=None, seed=0)
    assert list(greedy) == continued[0, 8:].tolist()
