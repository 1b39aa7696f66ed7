"""The text of tokens that come one at a time: in whole characters, and never beyond a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tasks.stop_strings import StopStrings


class TextStream:
    """Hands out text as soon as it is certain; what the last token leaves of an unfinished character is no text."""

    def __init__(self, tokenizer: Tokenizer, prompt_tokens: Sequence[int], stop: Sequence[str] = ()) -> None:
        """`prompt_tokens` may end within a character. ValueError for stop strings that can not be looked for."""
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(ids=list(prompt_tokens), skip_special_tokens=True)
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: all further tokens are for nobody."""
        return self._stop.found

    def feed(self, token: int) -> str:
        """What this token makes certain: often one piece of text, but also none, or several."""
        return self._stop.feed(self._decoder.step(self._tokenizer, token) or "")

    def rest(self) -> str:
        """What was held back as the possible beginning of a stop string, after the last token."""
        return self._stop.rest()
