"""The report against scikit-learn's figures, DeLong's interval against a bootstrap, and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from tasks.classifiers.bootstrap import resampled_counts
from tasks.classifiers.metrics import (
    BinaryReport,
    Confusion,
    average_precision,
    binary_report,
    delong,
    roc_auc,
    roc_auc_difference,
)
from tasks.classifiers.proportion import Estimate, proportion
from tasks.classifiers.scores import BoolArray, FloatArray

COARSE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])
TEXTS = st.lists(st.tuples(st.booleans(), COARSE), min_size=4, max_size=40).filter(
    lambda texts: 2 <= sum(label for label, _ in texts) <= len(texts) - 2
)


def some_texts(num_texts: int = 600, *, shift: float = 1.2, seed: int = 0) -> tuple[BoolArray, FloatArray]:
    """A third positive; scores in steps of .01, so that many are tied."""
    draw = np.random.default_rng(seed)
    labels = draw.random(num_texts) < 1 / 3
    return labels, np.round(1 / (1 + np.exp(-draw.normal(size=num_texts) - shift * labels + 0.6)), 2)


def split(texts: list[tuple[bool, float]]) -> tuple[BoolArray, FloatArray]:
    return np.array([label for label, _ in texts]), np.array([score for _, score in texts])


@settings(max_examples=50)
@given(TEXTS)
def test_the_area_is_scikit_learns_and_in_its_interval(texts: list[tuple[bool, float]]) -> None:
    labels, scores = split(texts)
    area = roc_auc(labels, scores)
    assert area.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert 0 <= area.low <= area.value <= area.high <= 1
    assert roc_auc(~labels, 1 - scores).value == pytest.approx(area.value, abs=1e-12)


def test_delongs_covariance_by_its_definition() -> None:
    """Pair by pair, as the paper writes it: 1 for a pair won, a half for a tie."""
    labels, first = some_texts(90)
    second = np.round(1 - first * 0.5, 1)
    _, covariance = delong(labels, first, second)
    components = []
    for scores in (first, second):
        pairs = np.array(
            [[(high > low) + 0.5 * (high == low) for low in scores[~labels]] for high in scores[labels]], dtype=float
        )
        components.append((pairs.mean(axis=1), pairs.mean(axis=0)))
    for row in range(2):
        for column in range(2):
            expected = sum(
                np.cov(components[row][side], components[column][side])[0, 1] / len(components[row][side])
                for side in (0, 1)
            )
            assert covariance[row, column] == pytest.approx(expected, rel=1e-9)


def test_delongs_error_is_a_bootstraps() -> None:
    """2,000 resamples know a standard error to 1.6 %; 8 % is five times that."""
    labels, scores = some_texts()
    _, other = some_texts(seed=1)
    mixed = (scores + other) / 2
    counts = np.concatenate(list(resampled_counts(labels, seed=0)))
    areas = []
    for each in (scores, mixed):
        won = (each[labels][:, None] > each[~labels]) + 0.5 * (each[labels][:, None] == each[~labels])
        areas.append(((counts[:, labels] @ won) * counts[:, ~labels]).sum(axis=1) / won.size)
    _, covariance = delong(labels, scores, mixed)
    assert math.sqrt(covariance[0, 0]) == pytest.approx(areas[0].std(), rel=0.08)
    difference = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert math.sqrt(difference) == pytest.approx((areas[0] - areas[1]).std(), rel=0.08)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    """Two normal distributions that lie 1.8 apart: an area of .898. Of 600 intervals, 570 +- 5.3 hold it."""
    draw = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(1.8 / 2))
    labels = np.arange(120) < 40
    held = 0
    for _ in range(600):
        area = roc_auc(labels, 1 / (1 + np.exp(-draw.normal(size=120) - 1.8 * labels)))
        held += area.low <= truth <= area.high
    assert 550 <= held <= 590


def test_every_pair_won() -> None:
    """Four texts of the smaller class make four independent pairs; .025 ** (1 / 4) is the exact bound."""
    labels = [True] * 4 + [False] * 9
    assert roc_auc(labels, [0.9] * 4 + [0.1] * 9) == Estimate(1.0, pytest.approx(0.025**0.25), 1.0)
    assert roc_auc(labels, [0.1] * 4 + [0.9] * 9) == Estimate(0.0, 0.0, pytest.approx(1 - 0.025**0.25))


def test_one_text_of_a_class_says_nothing_of_the_area() -> None:
    assert roc_auc([True, False, False], [0.5, 0.1, 0.9]) == Estimate(0.5, 0.0, 1.0)
    assert roc_auc_difference([True, False, False], [0.5, 0.1, 0.9], [0.5, 0.1, 0.2]) == Estimate(-0.5, -1.0, 1.0)


def test_one_score_for_all() -> None:
    assert roc_auc([True, True, False, False], [0.3] * 4) == Estimate(0.5, 0.5, 0.5)


def test_the_difference_of_two_areas() -> None:
    labels, scores = some_texts(3_000)
    noise = np.random.default_rng(5).random(3_000)
    better = roc_auc_difference(labels, scores, noise)
    assert better.low > 0.1 and better.value == pytest.approx(
        roc_auc(labels, scores).value - roc_auc(labels, noise).value
    )
    worse = roc_auc_difference(labels, noise, scores)
    assert (worse.value, worse.low, worse.high) == pytest.approx((-better.value, -better.high, -better.low))
    assert roc_auc_difference(labels, scores, scores) == Estimate(0.0, 0.0, 0.0)


def test_average_precision_worked_by_hand() -> None:
    """Found at precision 1, then at 2 of 3: (1 + 2/3) / 2."""
    estimate = average_precision([True, False, True, False], [0.9, 0.8, 0.7, 0.1])
    assert estimate.value == pytest.approx((1 + 2 / 3) / 2)
    assert 0.4 < estimate.low <= estimate.value <= estimate.high == 1.0


def test_a_perfect_ranking_is_not_certain() -> None:
    """Of 79 pairs won the exact interval begins at .025 ** (1 / 79)."""
    labels = [True] * 79 + [False] * 200
    estimate = average_precision(labels, [0.9] * 79 + [0.1] * 200)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.025 ** (1 / 79))


def test_average_precision_is_scikit_learns() -> None:
    labels, scores = some_texts()
    estimate = average_precision(labels, scores)
    assert estimate.value == average_precision_score(labels, scores)
    assert estimate.low + 0.02 < estimate.value < estimate.high - 0.02
    assert estimate == average_precision(labels, scores)  # of one seed


def test_the_report_is_scikit_learns() -> None:
    labels, scores = some_texts()
    report = binary_report(labels, scores, 0.6)
    flagged = scores > 0.6
    assert report.precision is not None
    assert report.recall.fraction == pytest.approx(recall_score(labels, flagged))
    assert report.precision.fraction == pytest.approx(precision_score(labels, flagged))
    assert report.false_alarms.fraction == pytest.approx(1 - recall_score(~labels, ~flagged))
    figures = report.figures()
    assert figures["roc_auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert all(math.isfinite(value) for value in figures.values())
    for name in ("recall", "precision", "false_alarm_fraction", "roc_auc", "average_precision"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]


def test_the_report_worked_by_hand() -> None:
    """On the threshold is not flagged; one step above is."""
    above = math.nextafter(0.5, 1)
    report = binary_report([True, True, True, False, False], [above, 0.5, 0.9, 0.5, above], 0.5)
    assert isinstance(report, BinaryReport)
    assert report.confusion == Confusion(true_positives=2, false_positives=1, false_negatives=1, true_negatives=1)
    assert (report.recall, report.precision, report.false_alarms) == (
        proportion(2, 3), proportion(2, 3), proportion(1, 2),
    )  # fmt: skip
    assert (report.num_texts, report.num_positives, report.threshold) == (5, 3, 0.5)


def test_nothing_flagged_has_no_precision() -> None:
    report = binary_report([True, False], [0.5, 0.5], 0.5)
    assert report.precision is None
    assert not [name for name in report.figures() if name.startswith("precision")]


@settings(max_examples=25)
@given(TEXTS, st.integers(0, 99))
def test_the_order_of_the_texts_changes_no_figure(texts: list[tuple[bool, float]], seed: int) -> None:
    labels, scores = split(texts)
    order = np.random.default_rng(seed).permutation(len(texts))
    first, second = (binary_report(labels[each], scores[each], 0.5) for each in (np.arange(len(texts)), order))
    assert (first.recall, first.precision, first.false_alarms) == (second.recall, second.precision, second.false_alarms)
    assert first.roc_auc.low == pytest.approx(second.roc_auc.low, abs=1e-9)
    assert first.average_precision.value == pytest.approx(second.average_precision.value, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "complaint"),
    [
        ([True, True], [0.1, 0.2], "both positive and negative"),
        ([True], [0.1, 0.2], "one for each"),
        ([True, False], [0.1, 1.2], "from 0 to 1"),
        ([], [], "both positive and negative"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: list[bool], scores: list[float], complaint: str) -> None:
    for measure in (roc_auc, average_precision, lambda *texts: binary_report(*texts, 0.5)):
        with pytest.raises(ValueError, match=complaint):
            measure(labels, scores)
