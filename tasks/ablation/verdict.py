"""Whether the models of two recipes differ by more than noise, from their scores on the same documents.

Two things would come out otherwise if the ablation were run again: which documents are scored, and how a training
happens to go (initial weights, order of the data). A verdict must hold against both, so its interval holds both.

    difference   the mean over runs of b minus that of a, as a ratio of sums over the documents (bits per byte)
    documents    variance of the difference over documents, paired: what makes a document hard is hard for both, and
                 only the difference is left (Miller 2024, "Adding error bars to evals", arXiv:2411.00640, section
                 4.2), linearised for a ratio of sums (Cochran 1977, "Sampling techniques", section 6.4)
    runs         variance between the runs of a recipe over their number, for each recipe by itself (Welch 1947)

The two are added, as for any table of which rows (runs) and columns (documents) are both samples; what runs and
documents do together is counted in both, so that the sum is rather too large than too small (Owen 2007, "The pigeonhole
bootstrap", section 3). A sum of estimated variances has fewer degrees of freedom than any large sample, above all with
few runs: those of Satterthwaite (1946), with which Student's t makes the 95 % interval.

Runs of a and b have different seeds and nothing in common: neither initial weights nor the order of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.classifiers.proportion import Estimate

FloatArray = npt.NDArray[np.float64]
Outcome = Literal["a is better", "b is better", "not told apart"]

CONFIDENCE = 0.95
MIN_RUNS = 2
"""Of each recipe: from one alone nobody knows how much a run varies."""
MIN_DOCUMENTS = 10
"""In simulations of 10 documents, their lengths skewed as those of pages, equal recipes are told apart as seldom as
they should be (tests/tasks/ablation/test_verdict.py)."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Recipe b beside recipe a on one set of documents. Each figure is in the unit of the metric."""

    outcome: Outcome
    difference: Estimate  # b minus a
    p_value: float  # two-sided, of no difference
    degrees_of_freedom: float
    documents_error: float  # standard error that the choice of documents brings
    runs_error: float  # standard error that the chance of training brings
    runs_a: tuple[float, ...]  # the metric of each run on all documents
    runs_b: tuple[float, ...]
    a: Estimate  # mean over its runs, with its own interval: those of a and b may overlap where the difference is sure
    b: Estimate
    num_documents: int

    @property
    def just_seen(self) -> float:
        """The smallest difference that would have been told apart with so much noise."""
        return (self.difference.high - self.difference.low) / 2


def compare(values_a: FloatArray, values_b: FloatArray, sizes: FloatArray, *, higher_is_better: bool) -> Comparison:
    """Compare the runs of two recipes; arrays of (runs, documents) of what adds up, and the documents' sizes.

    For bits per byte values are bits and sizes bytes; for a share of right answers values are 0 or 1 and sizes 1. Each
    recipe's metric is the sum of values over that of sizes. Raises ValueError for fewer than MIN_RUNS runs of a recipe
    or MIN_DOCUMENTS documents, and for a value that is not finite.
    """
    num_documents = len(sizes)
    assert values_a.shape[1:] == values_b.shape[1:] == sizes.shape, (values_a.shape, values_b.shape, sizes.shape)
    if min(len(values_a), len(values_b)) < MIN_RUNS:
        raise ValueError(
            f"{len(values_a)} runs of recipe a and {len(values_b)} of recipe b: {MIN_RUNS} of each are the least that"
            " say how much a run varies; raise the seeds"
        )
    if num_documents < MIN_DOCUMENTS:
        raise ValueError(f"{num_documents} documents to compare on, {MIN_DOCUMENTS} are the least; give more text")
    if not (np.isfinite(values_a).all() and np.isfinite(values_b).all()):
        raise ValueError("a model's score of a document is not finite")
    total = float(sizes.sum())
    runs_a, runs_b = values_a.sum(axis=1) / total, values_b.sum(axis=1) / total
    per_document_a, per_document_b = values_a.mean(axis=0), values_b.mean(axis=0)
    run_variances = [_Part(float(runs.var(ddof=1)) / len(runs), len(runs) - 1) for runs in (runs_a, runs_b)]
    documents = _of_documents(per_document_b - per_document_a, sizes)
    difference, p_value, freedom = _interval(float(runs_b.mean() - runs_a.mean()), [documents, *run_variances])
    alone = [
        _interval(float(runs.mean()), [_of_documents(values, sizes), own])[0]
        for runs, values, own in zip((runs_a, runs_b), (per_document_a, per_document_b), run_variances, strict=True)
    ]
    return Comparison(
        outcome=_outcome(difference, higher_is_better=higher_is_better),
        difference=difference,
        p_value=p_value,
        degrees_of_freedom=freedom,
        documents_error=math.sqrt(documents.variance),
        runs_error=math.sqrt(sum(part.variance for part in run_variances)),
        runs_a=tuple(map(float, runs_a)),
        runs_b=tuple(map(float, runs_b)),
        a=alone[0],
        b=alone[1],
        num_documents=num_documents,
    )


@dataclass(frozen=True)
class _Part:
    """One estimated variance of a mean."""

    variance: float
    degrees_of_freedom: float


def _of_documents(values: FloatArray, sizes: FloatArray) -> _Part:
    """The variance that the choice of documents gives to sum of values / sum of sizes: that of the jackknife.

    A few long documents can hold most of the text. Each then says as much as it weighs, and so few do that the estimate
    has fewer degrees of freedom than there are documents (Bell and McCaffrey 2002, "Bias reduction in standard errors
    for linear regression with multi-stage samples"). Documents of one size make it the usual standard error.
    """
    num, weights = len(sizes), sizes / sizes.sum()
    residuals = (values - values.sum() * weights) / (1 - weights) / sizes.sum()
    freedom = float((weights**2).sum() ** 2 / (weights**4).sum()) - 1
    return _Part(float((num - 1) / num * (residuals**2).sum()), max(1.0, freedom))


def _interval(value: float, parts: list[_Part]) -> tuple[Estimate, float, float]:
    """The 95 % interval of a figure with these sources of noise, its p-value against 0, its degrees of freedom."""
    from scipy.special import stdtr, stdtrit  # Student's t: its distribution, and its quantiles

    variance = sum(part.variance for part in parts)
    if variance == 0:  # equal runs on equal documents: nothing varies
        return Estimate(value, value, value), 1.0 if value == 0 else 0.0, math.inf
    shares = sum((part.variance / variance) ** 2 / part.degrees_of_freedom for part in parts)
    freedom, error = 1 / shares, math.sqrt(variance)
    margin = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, value - margin, value + margin), float(2 * stdtr(freedom, -abs(value) / error)), freedom


def _outcome(difference: Estimate, *, higher_is_better: bool) -> Outcome:
    """An interval that touches 0 tells nothing apart."""
    if difference.low > 0:
        return "b is better" if higher_is_better else "a is better"
    if difference.high < 0:
        return "a is better" if higher_is_better else "b is better"
    return "not told apart"
