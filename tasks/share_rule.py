"""A rule that keeps documents by one score: those above a limit, or a corpus's best share (tasks.quality_share)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from pydantic import Field, model_validator

from tasks.checks import CheckedRule
from tasks.document import Decision, Document


class ShareRule(CheckedRule):
    """A rule with one score from 0 to 1 and either a fixed limit to it, or the share of a corpus that is to stay.

    A subclass declares `checks`, which has one check: its reason is the rule's kind, its limit `min_score`, and its
    figure is rounded by `tasks.quality_share.rounded`. Where neither is given, its `limit` says what its model brings.
    """

    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Score of a document, at least; none, and no share: the model's own threshold.",
    )
    keep_share: float | None = Field(
        None, gt=0, lt=1, description="Share of the corpus's documents to keep, the best; in place of min_score."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.min_score is not None and self.keep_share is not None:
            raise ValueError(
                f"min_score={self.min_score} and keep_share={self.keep_share} are both given; set one of them to null"
            )
        return self

    @property
    def keeps_share(self) -> bool:
        return self.keep_share is not None

    def at(self, min_score: float) -> Self:
        """The rule with this limit, whatever it was asked for."""
        return type(self).model_validate({**self.model_dump(), "min_score": min_score, "keep_share": None})

    def scoring(self) -> Self:
        """The rule as far as it determines scores: equal for all limits and shares."""
        return self.at(0.0)

    def build(self) -> Callable[[Document], Decision]:
        """ValueError for a share: a document alone does not say which share it belongs to."""
        if self.keeps_share:
            raise ValueError(
                f"keep_share={self.keep_share} is decided on a whole corpus (tasks/keep_best.py); for documents one by"
                " one give min_score"
            )
        return super().build()
