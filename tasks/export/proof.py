"""The proof that an exported model is the model: both compute on the same text, and everything they say is compared.

Ours runs first and is let go before theirs is loaded, so that one network is in main memory at a time. Both compute in
fp32 on the CPU, whatever the weights are stored in: what is compared is the model, not the rounding of a device.

    tokens      of every text, by `AutoTokenizer` and by our tokenizer: equal, and back to the same text
    weights     of every tensor as transformers has loaded it: equal, bit for bit
    logits      at up to MAX_POSITIONS of each text, and of one sequence that fills the context: apart by no more than
                TOLERANCE of their spread
    generation  greedy continuations: the same tokens, or at the first that differs two logits within that tolerance
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.decoder import Decoder
from model.generate import generate
from tasks.checkpoints import load_decoder
from tasks.export.layout import parameter_name
from tasks.export.tokenizer_files import exported_ids
from tasks.export.weights import checkpoint_weights
from tasks.tokenizer import END_OF_TEXT_ID

TOLERANCE = 1e-3
"""Largest difference of two logits, as a share of the standard deviation of all of them at that position.

Measured in fp32 on a CPU (tests/tasks/export/test_proof.py): rounding makes 1e-6 to 1e-5, up to a fresh network of
124M, and 2e-4 in one of 30M whose random weights are so large that its attention is all or nothing. One wrong number in
the configuration makes 4e-3 in a fresh network, where attention hardly matters yet, and 1e-1 to 5 in others.
"""
MAX_POSITIONS = 64
MAX_SEQUENCE_TOKENS = 4096
"""Of the sequence that fills the context: longer ones take minutes on a CPU. Every kind of position scaling differs
from none well before."""
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 12, 32


class NotTheSame(ValueError):
    """An export does not compute what the model does; the message says where."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What our side says of the texts."""

    sequences: list[list[int]]
    logits: list[Tensor]  # (P, V) in fp32, P positions of each sequence
    continuations: list[tuple[list[int], list[int]]]  # prompt and what follows it, greedily


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was compared, and how far apart it was."""

    texts: int
    texts_from: str
    text_bytes: int
    tokens: int  # that both tokenizers made of them
    tensors: int  # equal, bit for bit
    positions: int  # at which all logits were compared
    longest_sequence_tokens: int
    max_logit_difference: float
    max_relative_difference: float  # of the spread of the logits at the same position
    tolerance: float
    same_most_likely_fraction: float  # of the positions
    generated_tokens: int  # in greedy continuations that agree
    loss_nats_per_token: float  # of these texts by our network
    exported_loss_nats_per_token: float
    transformers: str
    torch: str

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def require_transformers() -> None:
    """Raise ValueError, saying what to install, where there is no transformers 5 to load an export with."""
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "an export is proven with Hugging Face's transformers, which is not installed here: install "
            "tokenmill[export]"
        ) from error
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise ValueError(f"transformers {transformers.__version__} is too old: install tokenmill[export]")


def expected(folder: str, tokenizer: Tokenizer, texts: Sequence[str]) -> Expected:
    """Our own answers for these texts.

    Raises ValueError where the checkpoint is damaged or holds another network than it says, or its logits are not
    finite.
    """
    model, _ = load_decoder(folder)
    sequences = _sequences([exported_ids(tokenizer, text) for text in texts], model.config.max_seq_len)
    with torch.inference_mode():
        logits = [
            model.logits(model.hidden_states(torch.tensor([ids]))[0, _positions(ids)]).clone() for ids in sequences
        ]
    if not all(each.isfinite().all() for each in logits):
        raise ValueError(f"{folder}: the model's logits are not finite: its training diverged; take an earlier one")
    return Expected(sequences, logits, [_continued(model, tokenizer, ids) for ids in sequences[:NUM_PROMPTS]])


def prove(
    exported: Path, folder: str, tokenizer: Tokenizer, texts: Sequence[str], texts_from: str, ours: Expected
) -> Proof:
    """Load the export as anybody would, and hold it against our answers. Raises NotTheSame."""
    import transformers

    num_tokens = _compare_tokens(exported, tokenizer, texts)
    with _quiet():
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            exported, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    theirs, loading = loaded
    if wrong := {what: sorted(map(str, names)) for what, names in loading.items() if names}:
        raise NotTheSame(f"transformers could not place every weight of the export: {wrong}")
    theirs.eval()
    num_tensors = _compare_weights(theirs, folder)
    absolute, relative, same, losses = [0.0], [0.0], 0, (0.0, 0.0)
    num_positions = num_targets = 0
    for ids, our_logits in zip(ours.sequences, ours.logits, strict=True):
        positions = _positions(ids)
        with torch.inference_mode():
            their_logits = theirs(torch.tensor([ids]), logits_to_keep=torch.tensor(positions)).logits[0].float()
        apart = (our_logits - their_logits).abs().amax(-1)
        absolute.append(float(apart.max()))
        relative.append(float((apart / _spread(our_logits)).max()))
        same += int((our_logits.argmax(-1) == their_logits.argmax(-1)).sum())
        targets = [(row, ids[at + 1]) for row, at in enumerate(positions) if at + 1 < len(ids)]
        losses = (losses[0] + _nats(our_logits, targets), losses[1] + _nats(their_logits, targets))
        num_positions += len(positions)
        num_targets += len(targets)
        # NaN is apart by more than any tolerance
        if not relative[-1] <= TOLERANCE:
            raise NotTheSame(
                f"logits of the export differ from the model's by up to {absolute[-1]:.3g}, {relative[-1]:.3g} of their"
                f" spread (allowed: {TOLERANCE:g}), in a sequence of {len(ids)} tokens"
            )
    return Proof(
        texts=len(texts),
        texts_from=texts_from,
        text_bytes=sum(len(text.encode("utf-8")) for text in texts),
        tokens=num_tokens,
        tensors=num_tensors,
        positions=num_positions,
        longest_sequence_tokens=max(map(len, ours.sequences)),
        max_logit_difference=max(absolute),
        max_relative_difference=max(relative),
        tolerance=TOLERANCE,
        same_most_likely_fraction=same / num_positions,
        generated_tokens=_compare_generation(theirs, ours),
        loss_nats_per_token=losses[0] / max(1, num_targets),
        exported_loss_nats_per_token=losses[1] / max(1, num_targets),
        transformers=transformers.__version__,
        torch=torch.__version__,
    )


def _sequences(ids: Sequence[list[int]], max_seq_len: int) -> list[list[int]]:
    """Each text alone, as far as it fits, and all of them over and over in one sequence that fills the context."""
    longest = min(max_seq_len, MAX_SEQUENCE_TOKENS)
    alone = [text[: min(max_seq_len, 8 * MAX_POSITIONS)] for text in ids]
    return [*alone, list(islice(cycle(token for text in ids for token in text), longest))]


def _positions(ids: Sequence[int]) -> list[int]:
    """Evenly spread, the last one among them."""
    step = -(-len(ids) // MAX_POSITIONS)
    return list(range(len(ids) - 1, -1, -step))[::-1]


def _spread(logits: Tensor) -> Tensor:
    """Standard deviation over the vocabulary, of each position; not 0 where a network says nothing yet."""
    return logits.std(-1).clamp_min(1e-6)


def _nats(logits: Tensor, targets: Sequence[tuple[int, int]]) -> float:
    logprobs = logits.double().log_softmax(-1)
    return -sum(float(logprobs[row, token]) for row, token in targets)


def _continued(model: Decoder, tokenizer: Tokenizer, ids: list[int]) -> tuple[list[int], list[int]]:
    prompt = ids[: min(PROMPT_TOKENS, model.config.max_seq_len - 1)]
    new = generate(
        model,
        prompt,
        max_new_tokens=_new_tokens(model.config.max_seq_len, prompt),
        temperature=0.0,
        eos_id=END_OF_TEXT_ID,
        seed=0,
        num_tokens=tokenizer.get_vocab_size(),
    )
    return prompt, list(new)


def _new_tokens(max_seq_len: int, prompt: Sequence[int]) -> int:
    return min(NEW_TOKENS, max_seq_len - len(prompt))


def _compare_tokens(exported: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """The number of tokens."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(exported, local_files_only=True)
    # whole documents are meant to be longer than a context
    theirs.model_max_length = int(1e30)
    num_tokens = 0
    for text in texts:
        wanted, found = exported_ids(tokenizer, text), theirs(text)["input_ids"]
        if found != wanted:
            raise NotTheSame(
                f"the exported tokenizer makes {found[:20]} of {text[:40]!r}; the model's makes {wanted[:20]}"
            )
        back = theirs.decode(found, skip_special_tokens=True)
        if back != text:
            raise NotTheSame(f"the exported tokenizer makes {back[:60]!r} of the tokens of {text[:60]!r}")
        num_tokens += len(found)
    return num_tokens


def _compare_weights(theirs: Any, folder: str) -> int:
    """The number of tensors."""
    loaded = theirs.state_dict()
    with checkpoint_weights(folder) as stored:
        for name in stored.shapes:
            if not torch.equal(loaded[parameter_name(name)], stored.whole(name).float()):
                raise NotTheSame(f"transformers loads other numbers for {name} than the checkpoint holds")
        return len(stored.shapes)


def _compare_generation(theirs: Any, ours: Expected) -> int:
    """The number of tokens in which greedy continuations agree, up to the first that rounding decides."""
    num_tokens = 0
    for prompt, wanted in ours.continuations:
        ids = torch.tensor([prompt])
        limit = _new_tokens(theirs.config.max_position_embeddings, prompt)
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
        found = _until_end(out[0, len(prompt) :].tolist())
        num_equal = next(
            (at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found))
        )
        num_tokens += num_equal
        if wanted == found:
            continue
        a, b = ((*each[num_equal:], END_OF_TEXT_ID)[0] for each in (wanted, found))
        with torch.inference_mode():
            logits = theirs(torch.tensor([[*prompt, *wanted[:num_equal]]])).logits[0, -1].float()
        if not float((logits[a] - logits[b]).abs() / _spread(logits)) <= TOLERANCE:
            raise NotTheSame(
                f"greedy continuations differ: after {len(prompt) + num_equal} tokens the model goes on with {a}, the "
                f"export with {b}"
            )
    return num_tokens


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END_OF_TEXT_ID)] if END_OF_TEXT_ID in ids else ids


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars for the loading of weights, which are no progress of ours."""
    from transformers.utils import logging

    bars: Any = logging
    was_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            bars.enable_progress_bar()
