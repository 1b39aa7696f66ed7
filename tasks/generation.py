"""Text from a trained model: the network, its tokenizer, and the way from a prompt to its continuation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from tokenizers import Tokenizer

from model.decoder import Decoder
from model.sampling import Sampling
from tasks.checkpoints import CheckpointState, load_decoder
from tasks.text_batch import TextBatch, TextRequest
from tasks.tokenizer import END_OF_TEXT_ID, encodable, load_tokenizer, tokenizer_hash

DEFAULT_NEW_TOKENS = 64


class Drawing(TypedDict, total=False):
    """How each token is drawn: `model.sampling.Sampling`, whose defaults are taken for what is left out."""

    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    seed: int


class Options(Drawing, total=False):
    """How a prompt is continued."""

    max_new_tokens: int  # default: DEFAULT_NEW_TOKENS
    stop: Sequence[str]  # the text ends before the first of these; default: none


@dataclass(frozen=True)
class TextGenerator:
    """A model that can be talked to."""

    model: Decoder
    tokenizer: Tokenizer
    state: CheckpointState

    @classmethod
    def load(cls, folder: str | Path, tokenizer_file: Path) -> TextGenerator:
        """From a checkpoint, by path or URL, and its tokenizer. ValueError where the two do not belong together."""
        model, state = load_decoder(folder)
        tokenizer = load_tokenizer(tokenizer_file)
        if tokenizer_hash(tokenizer_file) != state.tokenizer_sha256:
            raise ValueError(f"{tokenizer_file} is not the tokenizer that the model in {folder} was trained with")
        return cls(model.eval(), tokenizer, state)

    def prompt_tokens(self, prompt: str) -> tuple[int, ...]:
        """What the model sees of a prompt: a document that begins with it. An empty one begins a new document."""
        return (END_OF_TEXT_ID, *self.tokenizer.encode(encodable(prompt)).ids)

    def request(
        self,
        prompt: str,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        stop: Sequence[str] = (),
        **drawing: Unpack[Drawing],
    ) -> TextRequest:
        """A prompt as a batch takes it. ValueError for options that can not be."""
        sampling = Sampling(max_new_tokens=max_new_tokens, **drawing)
        return TextRequest(prompt_tokens=self.prompt_tokens(prompt), sampling=sampling, stop=tuple(stop))

    def stream(self, prompt: str, **options: Unpack[Options]) -> Iterator[str]:
        """The continuation in pieces of whole characters, as they come.

        ValueError, at once, for a prompt or options that can not work, and later for a model whose logits are not
        finite.
        """
        batch = self._batch_for([self.request(prompt, **options)], max_rows=1)
        return (text for _, text in batch if text)

    def continuation(self, prompt: str, **options: Unpack[Options]) -> str:
        """The whole continuation; errors as of `stream`."""
        return "".join(self.stream(prompt, **options))

    def continuations(self, prompts: Sequence[str], *, max_rows: int = 8, **options: Unpack[Options]) -> list[str]:
        """The continuation of each prompt, as `continuation` gives it, `max_rows` of them at a time.

        ValueError before any work where one of them can not work.
        """
        texts = [""] * len(prompts)
        for number, text in self._batch_for([self.request(prompt, **options) for prompt in prompts], max_rows=max_rows):
            texts[number] += text
        return texts

    def _batch_for(self, requests: Sequence[TextRequest], *, max_rows: int) -> Iterator[tuple[int, str]]:
        """Pieces of text with the request's number; all requests are checked before anything is returned."""
        if not requests:
            return iter(())
        longest = max(len(each.prompt_tokens) + each.sampling.max_new_tokens for each in requests)
        positions = min(longest, self.model.config.max_seq_len)
        batch = TextBatch(self.model, self.tokenizer, max_rows=min(max_rows, len(requests)), max_positions=positions)
        for number, request in enumerate(requests, start=1):
            try:
                batch.check(request)
            except ValueError as error:
                raise ValueError(f"prompt {number}: {error}" if len(requests) > 1 else str(error)) from error
        return _pieces(batch, requests)


def _pieces(batch: TextBatch, requests: Sequence[TextRequest]) -> Iterator[tuple[int, str]]:
    waiting = deque(enumerate(requests))
    numbers: dict[int, int] = {}
    while waiting or numbers:
        while waiting and batch.num_free:
            number, request = waiting.popleft()
            numbers[batch.add(request)] = number
        for piece in batch.step():
            if piece.ended == "error":
                raise ValueError(piece.error)
            yield numbers[piece.row_id], piece.text
            if piece.ended:
                del numbers[piece.row_id]
