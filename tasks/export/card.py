"""The README of an export: what it is, how it was proven, how it is used, and what a stranger would stumble over."""

from __future__ import annotations

from model.config import DecoderConfig
from tasks.checkpoints import CheckpointState
from tasks.export.layout import architecture
from tasks.export.proof import Proof
from tasks.export.weights import WrittenWeights
from tasks.markdown import markdown_cell, markdown_facts
from tasks.tokenizer import END_OF_TEXT


def export_card(
    reference: str, state: CheckpointState, weights: WrittenWeights, num_tokens: int, proof: Proof, description: str
) -> str:
    """README.md as Markdown, with the front matter that Hugging Face's pages read.

    `reference` names the model, `num_tokens` is the tokenizer's vocabulary; `description` is the card of the registered
    version, as Markdown that was made here, empty where there is none.
    """
    shape = DecoderConfig.from_dict(state.decoder)
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# {markdown_cell(reference)}",
        f"Exported by Tokenmill for Hugging Face's transformers, as `{architecture(shape)}`: "
        f"{weights.num_parameters:,} parameters in {', '.join(weights.dtypes)}, sequences of up to "
        f"{shape.max_seq_len:,} tokens. It loads without code of its own.",
        _use(),
        f"## Proof\n\n{_proof(proof)}",
        f"## Tokens\n\n{_tokens(shape, num_tokens)}",
        f"## lm-evaluation-harness\n\n{_HARNESS}",
        f"## llama.cpp\n\n{_LLAMA_CPP}",
    ]
    if description:
        parts.append(f"## The model\n\n{_below(description)}")
    return "\n\n".join(parts) + "\n"


def _use() -> str:
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        'inputs = tokenizer("The function returns", return_tensors="pt")\n'
        "tokens = model.generate(**inputs, max_new_tokens=64, do_sample=True, temperature=0.8, top_k=50)\n"
        "print(tokenizer.decode(tokens[0], skip_special_tokens=True))\n"
        "```"
    )


def _proof(proof: Proof) -> str:
    facts: dict[str, object] = {
        "texts": f"{proof.texts:,}, {proof.text_bytes:,} bytes, from {proof.texts_from}",
        "tokens": f"{proof.tokens:,}, the same by both tokenizers, and back to the same texts",
        "weights": f"{proof.tensors:,} tensors, equal bit for bit as transformers loads them",
        "logits": f"at {proof.positions:,} positions, in sequences of up to {proof.longest_sequence_tokens:,} tokens: "
        f"apart by at most {proof.max_logit_difference:.2g}, {proof.max_relative_difference:.2g} of their spread "
        f"(refused above {proof.tolerance:g})",
        "most likely token": f"the same at {proof.same_most_likely_fraction:.2%} of them",
        "loss on these texts, nats per token": f"{proof.loss_nats_per_token:.6f} by the model, "
        f"{proof.exported_loss_nats_per_token:.6f} by the export",
        "greedy continuations": f"{proof.generated_tokens:,} tokens, the same",
        "versions": f"transformers {proof.transformers}, torch {proof.torch}",
    }
    return (
        "This folder was loaded by transformers and compared with the model that it was made of, both in fp32; it "
        f"would not be here if they differed. `proof.json` has the figures.\n\n{markdown_facts(facts)}"
    )


def _tokens(shape: DecoderConfig, num_tokens: int) -> str:
    begin = f"`{END_OF_TEXT}`"
    text = (
        f"Every document of the training began after {begin}, so the tokenizer places one before a text, as Llama's "
        "places its own: it is `bos_token` and `eos_token`. `add_special_tokens=False` leaves it out, and asks the "
        "model for what it has never seen: a text that begins with nothing before it.\n\n"
        "A text that spells out a special token is read as those characters, as in training; for the token itself use "
        "its id, or `split_special_tokens=False`. Text is normalised in no way. A string with a lone surrogate, which "
        "is no text in any encoding, is refused by the tokenizer."
    )
    if padding := shape.vocab_size - num_tokens:
        text += (
            f"\n\nThe vocabulary has {num_tokens:,} tokens, the network {shape.vocab_size:,} rows: the last "
            f"{padding:,} are padding to a multiple of 64, no token has their ids, and training has pushed them down. "
            "`generation_config.json` suppresses them; another program that samples should leave them out, too."
        )
    return text


_HARNESS = (
    "`lm_eval --model hf --model_args pretrained=FOLDER,dtype=float32` asks as Tokenmill's own evaluation does. For "
    "perplexities of whole texts (`loglikelihood_rolling`) add `add_bos_token=False`: the harness places the first "
    "token there itself, and would score it as well."
)
_LLAMA_CPP = (
    "Its converter, `convert_hf_to_gguf.py`, knows tokenizers by a hash of what they make of a fixed text, and every "
    "self-trained vocabulary is a new one: it stops with `BPE pre-tokenizer was not recognized` and prints the hash, "
    '`chkhsh`. Add `if chkhsh == "THE PRINTED HASH": res = "smollm"` to its function `get_vocab_base_pre`. The '
    "pre-tokenizer named `smollm` there splits as this one: every digit alone, then GPT-2's pattern. Do not choose "
    "`default` or `gpt-2`: digits would go together, and the model would see tokens that it knows from no training."
)


def _below(description: str) -> str:
    """A card whose headings stand below ours; its title is ours already."""
    lines = description.strip().splitlines()
    if lines and lines[0].startswith("# "):
        lines = lines[1:]
    in_code = False
    shifted = []
    for line in lines:
        in_code ^= line.startswith("```")
        shifted.append(f"#{line}" if line.startswith("#") and not in_code else line)
    return "\n".join(shifted).strip()
