"""Text, or rather tokens, from a trained decoder: one at a time, with a cache, and the same ones for the same seed.

Shapes: B batch (1), T sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from model.decoder import Decoder
from model.kv_cache import KVCache


def generate(
    model: Decoder,
    prompt_tokens: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    eos_id: int | None,
    seed: int,
    num_tokens: int | None = None,
) -> Iterator[int]:
    """Yield at most `max_new_tokens` token ids after the prompt, ending before `eos_id`.

    A temperature of 0 takes the most probable token. Otherwise: divide logits by the temperature, keep the `top_k` most
    probable (Fan et al. 2018), of those the fewest that reach the probability `top_p` (Holtzman et al. 2020), and draw.
    `num_tokens` is the tokenizer's vocabulary: padding rows beyond it have no text and are never drawn.
    Raises ValueError at once, not at the first token, for arguments that cannot work, and later for a model whose
    logits are not finite.
    """
    if not prompt_tokens:
        raise ValueError("the prompt is empty; start it with at least one token, such as the end-of-text token")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if len(prompt_tokens) + max_new_tokens > model.config.max_seq_len:
        raise ValueError(
            f"a prompt of {len(prompt_tokens)} tokens and {max_new_tokens} new ones exceed the model's "
            f"{model.config.max_seq_len} positions; shorten the prompt or ask for fewer tokens"
        )
    num_drawable = model.config.vocab_size if num_tokens is None else num_tokens
    if not 0 < num_drawable <= model.config.vocab_size:
        raise ValueError(f"num_tokens is {num_drawable}; the model's vocabulary has {model.config.vocab_size}")
    if outside := [token for token in prompt_tokens if not 0 <= token < num_drawable]:
        raise ValueError(
            f"the prompt holds token {outside[0]} of a vocabulary of {num_drawable}; "
            f"was it encoded with this model's tokenizer?"
        )
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (most probable token) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1, or None for all tokens")

    def tokens() -> Iterator[int]:
        weight = model.embedding.weight
        cache = KVCache(
            model.config, max_len=len(prompt_tokens) + max_new_tokens, device=weight.device, dtype=weight.dtype
        )
        # drawn on the CPU, so that a seed means the same numbers on every device
        generator = torch.Generator().manual_seed(seed)
        new_tokens = list(prompt_tokens)
        for _ in range(max_new_tokens):
            with torch.inference_mode():
                hidden_BTD = model.hidden_states(torch.tensor([new_tokens], device=weight.device), cache=cache)
                logits_V = model.logits(hidden_BTD[0, -1])[:num_drawable].cpu()
                if not logits_V.isfinite().all():
                    raise ValueError(
                        "the model's logits are not finite: its training diverged; take an earlier checkpoint"
                    )
                token = _draw(logits_V, temperature, top_k, top_p, generator)
            if token == eos_id:
                return
            yield token
            new_tokens = [token]

    return tokens()


def _draw(
    logits_V: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """One token id."""
    if temperature == 0:
        return int(logits_V.argmax())
    num_kept = len(logits_V) if top_k is None else min(top_k, len(logits_V))
    sorted_logits, token_ids = logits_V.topk(num_kept)
    # in float64 and with the greatest at 0, so that a tiny temperature gives one certain token rather than NaN
    probabilities = ((sorted_logits.double() - sorted_logits[0]) / temperature).softmax(-1)
    if top_p is not None:
        # a token stays while those before it have not yet reached top_p; the first one always does
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities * (before < top_p)
    return int(token_ids[torch.multinomial(probabilities, 1, generator=generator)])
