"""The gate: a better candidate is let through, an equal, a worse and an unproven one are not, each with its numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import average_precision_score

from tasks.classifiers.gate import GateRows, GateRules, Scored, judge
from tasks.classifiers.proportion import proportion
from tasks.classifiers.scores import FloatArray

NUM_TEXTS, NUM_BACKGROUND = 900, 1_000
LABELS = np.arange(NUM_TEXTS) % 3 == 0
ROWS = GateRows(LABELS)
RULES = GateRules()
SMALL_SLICES = GateRules(min_slice_texts=20)
RECALL = GateRules(metric="recall")


def scores_of(strength: float, seed: int = 0) -> FloatArray:
    """Scores that tell the classes apart by `strength` standard deviations."""
    noise = np.random.default_rng(seed).normal(size=NUM_TEXTS)
    return 1 / (1 + np.exp(-(noise + strength * LABELS - strength / 2)))


def background(num_alarms: int, num_texts: int = NUM_BACKGROUND, threshold: float = 0.5) -> FloatArray:
    """Ordinary texts of which so many score one step above the threshold, the others on it."""
    return np.array([math.nextafter(threshold, 1)] * num_alarms + [threshold] * (num_texts - num_alarms))


def model(name: str, strength: float, *, seed: int = 0, num_alarms: int = 0, threshold: float = 0.5) -> Scored:
    return Scored(
        name, f"sha-{name}", threshold, scores_of(strength, seed), background(num_alarms, threshold=threshold)
    )


WEAK, STRONG = model("toxicity@1", 1.0), model("toxicity@2", 2.0)


@pytest.mark.parametrize("rules", [RULES, RECALL], ids=["average precision", "recall"])
def test_a_better_one_is_let_through(rules: GateRules) -> None:
    verdict = judge(STRONG, WEAK, ROWS, rules)
    assert verdict.passed
    assert verdict.why.startswith(f"toxicity@2 is better: {rules.metric.replace('_', ' ')} 0.")
    assert "of toxicity@1 on 900 texts, 300 of them positive" in verdict.why
    assert "0 of 1,000 ordinary texts (0.00 %), limit 0.50 %" in verdict.why


@pytest.mark.parametrize("rules", [RULES, RECALL], ids=["average precision", "recall"])
def test_a_worse_one_is_refused(rules: GateRules) -> None:
    verdict = judge(WEAK, STRONG, ROWS, rules)
    assert not verdict.passed and verdict.why.startswith("toxicity@1 is worse: ")
    assert verdict.figures[f"{rules.metric}_difference_high"] < 0


def test_an_equal_one_is_refused() -> None:
    """Other files, the same scores."""
    verdict = judge(dataclasses.replace(WEAK, name="toxicity@2", sha256="other"), WEAK, ROWS, RULES)
    assert not verdict.passed
    assert "differs by not more than noise" in verdict.why
    assert "difference +0.000, 95 % interval +0.000 to +0.000" in verdict.why


def test_a_little_luck_is_refused() -> None:
    """As strong, with other noise: ahead on these texts, within the interval."""
    rivals = [model("toxicity@2", 1.0, seed=seed) for seed in range(1, 11)]
    verdicts = [judge(rival, WEAK, ROWS, RULES) for rival in rivals]
    assert any(verdict.figures["average_precision_difference"] > 0.005 for verdict in verdicts)
    assert sum(verdict.passed for verdict in verdicts) <= 1  # one in forty is expected


def test_the_champion_itself_is_refused() -> None:
    verdict = judge(dataclasses.replace(WEAK, name="toxicity@9"), WEAK, ROWS, RULES)
    assert (verdict.passed, verdict.why) == (False, "toxicity@9 is the champion toxicity@1 itself, file for file.")


def test_the_figures_are_those_of_the_models() -> None:
    figures = judge(STRONG, WEAK, ROWS, RULES).figures
    assert figures["average_precision"] == pytest.approx(average_precision_score(LABELS, STRONG.scores))
    assert figures["champion_average_precision"] == pytest.approx(average_precision_score(LABELS, WEAK.scores))
    assert figures["recall"] == pytest.approx((STRONG.scores[LABELS] > 0.5).mean())
    assert figures["recall_difference"] == pytest.approx(figures["recall"] - figures["champion_recall"])
    assert figures["num_positives"] == 300 and figures["num_negatives"] == 600
    for name in ("recall_difference", "average_precision_difference", "false_alarm_fraction"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    assert all(math.isfinite(value) for value in figures.values())


def test_the_recalls_interval_is_that_of_the_pairs() -> None:
    """The standard error of the mean of 300 differences, each -1, 0 or 1."""
    figures = judge(STRONG, WEAK, ROWS, RECALL).figures
    gains = (STRONG.scores[LABELS] > 0.5).astype(float) - (WEAK.scores[LABELS] > 0.5)
    margin = 1.96 * gains.std() / math.sqrt(300)
    assert figures["recall_difference_low"] == pytest.approx(gains.mean() - margin, abs=0.008)
    assert figures["recall_difference_high"] == pytest.approx(gains.mean() + margin, abs=0.008)


@pytest.mark.parametrize("champion", [None, WEAK], ids=["first", "second"])
@pytest.mark.parametrize(("num_alarms", "passed"), [(5, True), (6, False)])
def test_the_limit_of_false_alarms(champion: Scored | None, num_alarms: int, passed: bool) -> None:
    """5 of 1,000 are .5 %; a text on the threshold is none of them."""
    verdict = judge(model("toxicity@2", 2.0, num_alarms=num_alarms), champion, ROWS, RULES)
    assert verdict.passed is passed
    assert f"{num_alarms} of 1,000 ordinary texts (0.{num_alarms}0 %)" in verdict.why
    assert passed or verdict.why.endswith("above the limit of 0.50 %.")


def test_the_first_one_is_judged_against_chance() -> None:
    verdict = judge(STRONG, None, ROWS, RULES)
    assert verdict.passed
    assert verdict.why.startswith("There is no champion yet, and toxicity@2 flags 0 of 1,000 ordinary texts (0.00 %)")
    assert "better than chance: recall " in verdict.why and "ROC AUC 0." in verdict.why
    for name in ("recall", "roc_auc", "false_alarm_fraction"):
        assert verdict.figures[f"{name}_low"] <= verdict.figures[name] <= verdict.figures[f"{name}_high"]


@pytest.mark.parametrize(
    ("scores", "threshold", "told"),
    [
        (STRONG.scores, 1.0, "does not surely find more of the positive texts than it flags of ordinary ones: recall"),
        (scores_of(0.0), 1.0, "does not surely find more"),
        (scores_of(0.0), 0.5, "does not surely rank positive texts above negative ones: ROC AUC 0."),
        (1 - STRONG.scores, 0.1, "does not surely rank positive texts above negative ones: ROC AUC 0."),
        (np.full(NUM_TEXTS, 0.9), 0.5, "ROC AUC 0.500 (0.500 to 0.500), by chance 0.5."),
    ],
    ids=["flags nothing", "noise that flags nothing", "noise", "inverted", "flags everything"],
)
def test_a_useless_first_one_is_refused(scores: FloatArray, threshold: float, told: str) -> None:
    """None of them raises a false alarm."""
    first = Scored("toxicity@1", "first", threshold, scores, np.zeros(NUM_BACKGROUND))
    verdict = judge(first, None, ROWS, RULES)
    assert not verdict.passed and told in verdict.why and "no champion yet" in verdict.why


@pytest.mark.parametrize(("num_found", "passed"), [(6, True), (5, False)])
def test_the_first_ones_recall_is_surely_above_its_false_alarms(num_found: int, passed: bool) -> None:
    """No alarm in 1,000 may still be .37 % (its interval's upper end); 6 of 300 found are .74 % at least, 5 are .54."""
    limit, least = (proportion(0, 500).high, proportion(num_found, 300).low)
    assert (least > limit) is passed
    scores = np.where(LABELS, 0.4, 0.3)
    scores[np.flatnonzero(LABELS)[:num_found]] = 0.9
    first = Scored("toxicity@1", "first", 0.5, scores, np.zeros(500))
    assert judge(first, None, ROWS, RULES).passed is passed


def test_a_lower_threshold_alone_is_better_in_recall_and_not_in_average_precision() -> None:
    eager = Scored("toxicity@2", "eager", 0.4, WEAK.scores, background(4, threshold=0.4))
    loose = GateRules(metric="recall", max_slice_fall=1.0)
    assert judge(eager, WEAK, ROWS, loose).passed
    assert "not more than noise" in judge(eager, WEAK, ROWS, RULES).why


def cut(scored: Scored, places: FloatArray) -> Scored:
    return dataclasses.replace(scored, scores=scored.scores[places])


@pytest.mark.parametrize("champion", [None, WEAK], ids=["first", "second"])
@pytest.mark.parametrize(
    ("num_positives", "num_negatives", "told"),
    [
        (50, 50, None),
        (49, 50, "49 labelled positive texts that no compared model has seen, at least 50 are needed"),
        (50, 49, "49 labelled negative texts that no compared model has seen, at least 50 are needed"),
        (0, 0, "0 labelled positive texts"),
    ],
)
def test_too_few_labelled_texts(
    num_positives: int, num_negatives: int, told: str | None, champion: Scored | None
) -> None:
    places = np.concatenate([np.flatnonzero(LABELS)[:num_positives], np.flatnonzero(~LABELS)[:num_negatives]])
    before = champion and cut(champion, places)
    verdict = judge(cut(STRONG, places), before, GateRows(LABELS[places]), RULES)
    assert ("Too few" in verdict.why) is (told is not None)
    if told is not None:
        assert not verdict.passed and told in verdict.why


@pytest.mark.parametrize(("num_texts", "passed"), [(200, True), (199, False), (0, False)])
def test_too_few_ordinary_texts(num_texts: int, passed: bool) -> None:
    verdict = judge(dataclasses.replace(STRONG, background_scores=background(0, num_texts)), None, ROWS, RULES)
    assert verdict.passed is passed
    assert passed or f"{num_texts} ordinary texts that no compared model has seen, at least 200" in verdict.why


def with_misses(num_misses: int, places: FloatArray) -> Scored:
    """The strong model, that finds all texts at `places` but the first so many."""
    scores = STRONG.scores.copy()
    scores[places] = 0.9
    scores[places[:num_misses]] = 0.5
    return dataclasses.replace(STRONG, scores=scores)


def named(places: FloatArray) -> Mapping[str, np.ndarray]:
    return {"identity: religion": np.isin(np.arange(NUM_TEXTS), places)}


@pytest.mark.parametrize(("num_more", "passed"), [(2, True), (3, False)])
def test_a_guarded_slice_may_fall_by_the_stated_amount(num_more: int, passed: bool) -> None:
    """Two of 40 are .05, exactly; in binary, 1 - .95 is more than that."""
    places = np.flatnonzero(LABELS)[:40]
    champion = dataclasses.replace(WEAK, scores=np.where(np.isin(np.arange(NUM_TEXTS), places), 0.9, WEAK.scores))
    verdict = judge(with_misses(num_more, places), champion, GateRows(LABELS, named(places)), SMALL_SLICES)
    assert verdict.passed is passed
    if not passed:
        assert verdict.why == (
            "toxicity@2: it misses 3 of 40 positive texts of 'identity: religion', the champion 0 (+7.5%),"
            " more than the allowed 5.00 %."
        )
        assert verdict.figures["num_slices_fallen"] == 1


@pytest.mark.parametrize(("num_texts", "passed"), [(19, True), (20, False)])
def test_false_alarms_on_a_guarded_slice_count_from_twenty_texts_on(num_texts: int, passed: bool) -> None:
    places = np.flatnonzero(~LABELS)[:num_texts]
    candidate = dataclasses.replace(STRONG, scores=STRONG.scores.copy())
    candidate.scores[places] = 0.6
    champion = dataclasses.replace(WEAK, scores=WEAK.scores.copy())
    champion.scores[places] = 0.5
    verdict = judge(candidate, champion, GateRows(LABELS, named(places)), SMALL_SLICES)
    assert verdict.passed is passed
    assert passed or "it flags 20 of 20 negative texts of 'identity: religion', the champion 0 (+100.0%)" in verdict.why


def test_a_slice_of_the_background_is_guarded() -> None:
    """Five alarms keep the limit of the whole, but are all of the news."""
    news = np.arange(NUM_BACKGROUND) < 50
    rows = GateRows(LABELS, background_slices={"news": news})
    verdict = judge(model("toxicity@2", 2.0, num_alarms=5), WEAK, rows, SMALL_SLICES)
    assert not verdict.passed and "it flags 5 of 50 ordinary texts of 'news', the champion 0" in verdict.why
    rows = GateRows(LABELS, background_slices={"news": ~news})
    assert judge(model("toxicity@2", 2.0, num_alarms=5), WEAK, rows, SMALL_SLICES).passed


def test_all_texts_are_guarded_and_the_worst_fall_is_told() -> None:
    """A better ranking with a threshold so high that it finds much less."""
    strict = Scored("toxicity@2", "strict", 0.9, STRONG.scores, background(0))
    places = np.flatnonzero(LABELS)[:30]
    verdict = judge(strict, WEAK, GateRows(LABELS, named(places)), SMALL_SLICES)
    assert not verdict.passed and "and 1 more slices fall too far" in verdict.why
    assert verdict.figures["average_precision_difference_low"] > 0
    assert verdict.figures["num_slices_fallen"] == 2


@pytest.mark.parametrize(("num_more", "passed"), [(3, True), (4, False)])
def test_all_texts_are_guarded_however_few_they_are(num_more: int, passed: bool) -> None:
    """60 positive texts, fewer than a named slice needs: 3 of them are the allowed .05."""
    labels = np.arange(120) % 2 == 0
    perfect = np.where(labels, 0.9, 0.1)
    perfect[np.flatnonzero(labels)[:num_more]] = 0.5  # on the threshold, above every negative text
    muddled = np.where(labels, 0.7, 0.1)
    muddled[np.flatnonzero(~labels)[:20]] = 0.8
    candidate = Scored("toxicity@2", "candidate", 0.5, perfect, background(0))
    champion = Scored("toxicity@1", "champion", 0.5, muddled, background(0))
    verdict = judge(candidate, champion, GateRows(labels), RULES)
    assert verdict.figures["average_precision_difference_low"] > 0
    assert verdict.passed is passed
    assert passed or "it misses 4 of 60 positive texts of 'all texts', the champion 0 (+6.7%)" in verdict.why


def test_the_order_of_the_texts_decides_nothing() -> None:
    order = np.random.default_rng(0).permutation(NUM_TEXTS)
    plain = judge(STRONG, WEAK, ROWS, RULES)
    moved = judge(cut(STRONG, order), cut(WEAK, order), GateRows(LABELS[order]), RULES)
    assert moved.passed is plain.passed
    for name in ("recall_difference", "average_precision_difference"):
        assert moved.figures[name] == pytest.approx(plain.figures[name], abs=1e-12)
        assert moved.figures[f"{name}_low"] == pytest.approx(plain.figures[f"{name}_low"], abs=0.01)


def test_the_same_question_has_the_same_answer() -> None:
    assert judge(STRONG, WEAK, ROWS, RULES) == judge(STRONG, WEAK, ROWS, RULES)
    other = judge(STRONG, WEAK, ROWS, GateRules(seed=1)).figures
    assert other != judge(STRONG, WEAK, ROWS, RULES).figures


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each"):
        judge(STRONG, cut(WEAK, np.arange(10)), ROWS, RULES)
    with pytest.raises(ValueError, match="scored on 10 background texts, toxicity@2 on 1,000"):
        judge(STRONG, dataclasses.replace(WEAK, background_scores=background(0, 10)), ROWS, RULES)
    with pytest.raises(ValueError, match="slice 'x' is of 3 texts, but there are 900"):
        judge(STRONG, WEAK, GateRows(LABELS, {"x": LABELS[:3]}), RULES)
    with pytest.raises(ValueError, match="from 0 to 1"):
        judge(dataclasses.replace(STRONG, scores=STRONG.scores + 1), None, ROWS, RULES)


@pytest.mark.parametrize("wrong", [{"metric": "accuracy"}, {"max_false_alarm_fraction": 1.0}, {"min_positives": 1}])
def test_rules_have_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GateRules.model_validate(wrong)
