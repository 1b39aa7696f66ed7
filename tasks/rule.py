"""What a filter or formatter is: a frozen, validated configuration that builds a function on documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.document import Decision, Document


class Configuration(BaseModel):
    """Base of every configuration: frozen, closed to misspelt keys, and therefore safe to hash into a fingerprint.

    No number is infinite or "not a number": JSON has neither, and a configuration has to come back from it as it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rule(Configuration):
    """One rule family of a recipe.

    A subclass declares `kind: Literal["its_name"] = "its_name"` and its thresholds as fields with bounds, units and a
    source in the description, and implements `build`. The function that `build` returns must be deterministic, must
    not depend on documents seen before, and must not mutate its argument.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version determines this rule's decisions; their versions enter the stage's fingerprint."""

    def files(self) -> tuple[Path, ...]:
        """Model files and lists the rule reads; their hashes enter the stage's fingerprint."""
        return ()

    def limit(self, field: str) -> float:
        """The limit in a field, in force: a rule that may leave it to its model says what the model brings along."""
        return float(getattr(self, field))

    def hide(self, text: str) -> str:
        """A text as ledger, edits and reports may show it, character by character: a rule hides there what it masks."""
        return text

    def check_languages(self, languages: tuple[str, ...]) -> None:
        """Raises ValueError, in one line, where the rule's settings are not made for one of these languages."""

    def build(self) -> Callable[[Document], Decision]:
        """Load what the rule needs (models, word lists) once, and return the function that decides."""
        raise TypeError(f"{type(self).__name__} does not implement build()")

    def build_batch(self) -> Callable[[Sequence[Document]], list[Decision]] | None:
        """What `build` returns, for many documents at once; None where that is no faster than one after another."""
        return None
