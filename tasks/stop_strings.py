"""Where a text that comes in pieces has to end, although a stop string may lie across two of them."""

from __future__ import annotations

from collections.abc import Sequence

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256


class StopStrings:
    """Ends a text before the stop string that is complete first; of two complete at once, before the longer one.

    Where the text ends does not depend on how it is cut into pieces, and nothing of a stop string is ever handed out:
    an end of the text that may become one is held back until it can not.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """ValueError for strings that can not be looked for: empty ones, or too many or too long ones."""
        if len(stop) > MAX_STOP_STRINGS:
            raise ValueError(f"there are {len(stop)} stop strings; there may be {MAX_STOP_STRINGS}")
        for text in stop:
            if not 0 < len(text) <= MAX_STOP_CHARS:
                raise ValueError(f"a stop string has {len(text)} characters; it must have 1 to {MAX_STOP_CHARS}")
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What can be handed out of the text so far and has not been. Nothing comes after a stop string was found."""
        if self.found:
            return ""
        text = self._held + piece
        places = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)[1]]
        num_held = self._num_held(text)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def rest(self) -> str:
        """What was held back, once it is known that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        """Characters at the end of the text that are the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for num_chars in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-num_chars:]) for stop in self._stop):
                return num_chars
        return 0
