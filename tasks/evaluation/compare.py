"""Two models on the same examples: how far apart they are, and whether that is more than noise.

What makes an example hard is hard for both: only their difference is left in a paired comparison, and its interval is
far narrower than those of the two scores. One comparison in twenty of equal models is told apart by chance: of a long
list, single ones are no finding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tasks.classifiers.proportion import Estimate
from tasks.evaluation.intervals import MIN_EXAMPLES
from tasks.evaluation.measures import CentredMean, Measure, ModelScores

Told = Literal["better", "worse", "not more than noise", "not finite"]


@dataclass(frozen=True)
class Comparison:
    """One measure of two models on the same examples."""

    name: str
    ours: float
    theirs: float
    difference: Estimate
    """Ours less theirs."""
    num_examples: int
    higher_is_better: bool

    @property
    def gain(self) -> Estimate:
        """The difference as a gain, above 0 where ours is better."""
        if self.higher_is_better:
            return self.difference
        return Estimate(-self.difference.value, -self.difference.high, -self.difference.low)

    @property
    def told(self) -> Told:
        """What can be said of ours."""
        gain = self.gain
        if not math.isfinite(gain.value):
            return "not finite"
        if gain.low > 0:
            return "better"
        return "worse" if gain.high < 0 else "not more than noise"

    def __str__(self) -> str:
        return (
            f"{self.ours:.4f} against {self.theirs:.4f} (difference {self.difference.value:+.4f},"
            f" {interval(self.difference, signed=True)}, {self.num_examples:,} examples)"
        )


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """An estimate's interval in words."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return f"no interval: fewer than {MIN_EXAMPLES} examples" if math.isfinite(estimate.value) else "no interval"
    sign = "+" if signed else ""
    return f"95 % interval {estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"


def compare(ours: Measure | CentredMean, theirs: Measure | CentredMean) -> Comparison:
    """The same measure of two models. ValueError where the examples are not the same."""
    assert ours.name == theirs.name, (ours.name, theirs.name)
    if isinstance(ours, Measure):
        assert isinstance(theirs, Measure)
        difference = ours.difference(theirs)
    else:
        assert isinstance(theirs, CentredMean)
        difference = ours.difference(theirs)
    return Comparison(
        name=ours.name,
        ours=ours.estimate().value,
        theirs=theirs.estimate().value,
        difference=difference,
        num_examples=ours.num_examples,
        higher_is_better=ours.higher_is_better,
    )


def compare_models(ours: ModelScores, theirs: ModelScores) -> dict[str, Comparison]:
    """Every measure of ours against the other's, by name. ValueError where the other was not measured so.

    A model that is not finite is asked no tasks: it has no number on them.
    """
    found = {}
    for name, measure in ours.measures.items():
        if name not in theirs.measures and theirs.not_finite:
            none = Estimate(math.nan, math.nan, math.nan)
            value, num = measure.estimate().value, measure.num_examples
            found[name] = Comparison(name, value, math.nan, none, num, measure.higher_is_better)
        else:
            found[name] = compare(measure, theirs.measure(name))
    return found
