"""Text from a trained model: the network, its tokenizer, and the way from a prompt to its continuation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from model.decoder import Decoder
from model.generate import generate
from tasks.checkpoints import CheckpointState, load_decoder
from tasks.tokenizer import END_OF_TEXT_ID, encodable, load_tokenizer, tokenizer_hash


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

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        top_k: int | None = 50,
        seed: int = 0,
    ) -> Iterator[str]:
        """The continuation in pieces of whole characters, as they come. An empty prompt begins a new document."""
        prompt_tokens = [END_OF_TEXT_ID, *self.tokenizer.encode(encodable(prompt)).ids]
        decoder = DecodeStream(ids=prompt_tokens, skip_special_tokens=True)
        for token in generate(
            self.model,
            prompt_tokens,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            eos_id=END_OF_TEXT_ID,
            seed=seed,
            num_tokens=self.tokenizer.get_vocab_size(),
        ):
            if (piece := decoder.step(self.tokenizer, token)) is not None:
                yield piece

    def continuation(self, prompt: str, **options: int | float | None) -> str:
        """The whole continuation; the options of `stream`."""
        return "".join(self.stream(prompt, **options))  # type: ignore[arg-type]
