"""Prompts that are continued together: the shared batch of `model.generation`, in text instead of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from model.decoder import Decoder
from model.generation import Generation, RowError
from model.sampling import Sampling
from tasks.text_stream import TextStream
from tasks.tokenizer import END_OF_TEXT_ID

Ended = Literal["", "stop", "length", "error"]
"""Why a continuation has ended: at the end of a document or a stop string; all tokens used up; or it can not go on."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A prompt as tokens, how to draw what comes after it, and before which strings its text is to end."""

    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one step has added to a row."""

    row_id: int
    text: str
    num_tokens: int  # drawn in this step, without the token that ends a document: 0 or 1
    ended: Ended
    error: str = ""  # why it can not go on


class TextBatch:
    """Rows of text that advance together, one token a step; a row joins and leaves without the others noticing."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, *, max_rows: int, max_positions: int | None = None
    ) -> None:
        """`max_positions`: tokens of a prompt and its continuation (None: all that the model takes)."""
        self._tokenizer = tokenizer
        self._batch = Generation(
            model,
            max_rows=max_rows,
            eos_id=END_OF_TEXT_ID,
            num_tokens=tokenizer.get_vocab_size(),
            max_positions=max_positions,
        )
        self._texts: dict[int, TextStream] = {}

    @property
    def num_free(self) -> int:
        return self._batch.num_free

    @property
    def num_rows(self) -> int:
        return self._batch.num_rows

    def check(self, request: TextRequest) -> None:
        """ValueError where `add` would raise one, but for a full batch."""
        self._batch.check(list(request.prompt_tokens), request.sampling)
        TextStream(self._tokenizer, (), request.stop)

    def add(self, request: TextRequest) -> int:
        """A new row's id. ValueError for a request that can not work, and where there is no free row."""
        text = TextStream(self._tokenizer, request.prompt_tokens, request.stop)
        row_id = self._batch.add(list(request.prompt_tokens), request.sampling)
        self._texts[row_id] = text
        return row_id

    def remove(self, row_id: int) -> None:
        """The row ends without another piece."""
        self._batch.remove(row_id)
        del self._texts[row_id]

    def step(self) -> list[Piece]:
        """What the next token of each row adds to it. A row that has ended is no longer in the batch."""
        try:
            drawn = self._batch.step()
        except RowError as error:  # the others' tokens come with the next step
            del self._texts[error.row_id]
            return [Piece(row_id=error.row_id, text="", num_tokens=0, ended="error", error=str(error))]
        return [self._piece(each.row_id, each.token, each.ended) for each in drawn]

    def _piece(self, row_id: int, token: int | None, ended: Literal["", "stop", "length"]) -> Piece:
        stream = self._texts[row_id]
        text = "" if token is None else stream.feed(token)
        reason: Ended = ended
        if stream.stopped:
            if not ended:
                self._batch.remove(row_id)
            reason = "stop"
        elif ended:
            text += stream.rest()
        if reason:
            del self._texts[row_id]
        return Piece(row_id=row_id, text=text, num_tokens=int(token is not None), ended=reason)
