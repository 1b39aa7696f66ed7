"""Text, or rather tokens, from a trained decoder: of one prompt as they come, or of many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from model.decoder import Decoder
from model.generation import Generation, RowError
from model.sampling import Sampling


def generate(
    model: Decoder,
    prompt_tokens: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    eos_id: int | None,
    seed: int,
    num_tokens: int | None = None,
) -> Iterator[int]:
    """Yield at most `max_new_tokens` token ids after the prompt, ending before `eos_id`; see `Sampling`.

    `num_tokens` is the tokenizer's vocabulary: padding rows beyond it have no text and are never drawn.
    Raises ValueError at once, not at the first token, for arguments that cannot work, and later for a model whose
    logits are not finite.
    """
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    # so many positions as will be used, unless they are too many: then whoever checks the row says so
    num_positions = min(len(prompt_tokens) + max_new_tokens, model.config.max_seq_len)
    batch = Generation(model, max_rows=1, eos_id=eos_id, num_tokens=num_tokens, max_positions=num_positions)
    batch.add(prompt_tokens, sampling)

    def tokens() -> Iterator[int]:
        while batch.num_rows:
            (drawn,) = batch.step()
            if drawn.token is not None:
                yield drawn.token

    return tokens()


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    eos_id: int | None,
    num_tokens: int | None = None,
    max_rows: int = 8,
) -> list[list[int]]:
    """The continuation of each prompt, in their order, up to `max_rows` of them at a time; as `generate` of each alone.

    Raises ValueError, which names the prompt by its place from 1 on, before the first token for arguments that cannot
    work, and later for logits that are not finite.
    """
    if len(prompts) != len(samplings):
        raise ValueError(f"{len(prompts)} prompts and {len(samplings)} samplings; give one sampling for each prompt")
    if not prompts:
        return []
    lengths = [len(prompt) + each.max_new_tokens for prompt, each in zip(prompts, samplings, strict=True)]
    batch = Generation(
        model,
        max_rows=min(max_rows, len(prompts)),
        eos_id=eos_id,
        num_tokens=num_tokens,
        max_positions=min(max(lengths), model.config.max_seq_len),
    )
    for number, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True), 1):
        try:
            batch.check(prompt, sampling)
        except ValueError as error:
            raise ValueError(f"prompt {number}: {error}") from error
    texts: list[list[int]] = [[] for _ in prompts]
    waiting = deque(range(len(prompts)))
    number_of_row: dict[int, int] = {}
    while waiting or batch.num_rows:
        while waiting and batch.num_free:
            number = waiting.popleft()
            number_of_row[batch.add(prompts[number], samplings[number])] = number
        try:
            drawn_rows = batch.step()
        except RowError as error:
            raise ValueError(f"prompt {number_of_row[error.row_id] + 1}: {error}") from error
        for drawn in drawn_rows:
            if drawn.token is not None:
                texts[number_of_row[drawn.row_id]].append(drawn.token)
    return texts
