"""The gate: what it lets through, and each reason for which it does not."""

from __future__ import annotations

import math

import pytest

from tasks.classifiers.proportion import Estimate
from tasks.evaluation.bits_per_byte import Score
from tasks.evaluation.compare import Comparison
from tasks.evaluation.gate import ModelGateRules, has_fallen, judge_model
from tasks.evaluation.task_result import ExampleScore, TaskResult, aggregate
from tests.tasks.evaluation.measured_models import answers, documents, model, share_task

RULES = ModelGateRules()


def pack(num_right: int, num: int = 200) -> dict[str, list]:  # type: ignore[type-arg]
    return {"own": [share_task("x", [place < num_right for place in range(num)])]}


def test_a_better_one_takes_the_place() -> None:
    verdict = judge_model(model("web@2", documents(1.9)), model("web@1", documents(2.0)), RULES)
    assert verdict.passed and verdict.why.startswith("web@2 is better than the champion web@1: bits_per_byte 2.02")
    figures = verdict.figures
    assert figures["bits_per_byte"] < figures["bits_per_byte_champion"]
    assert figures["bits_per_byte_difference_high"] < 0


def test_a_worse_one_and_an_equal_one_do_not() -> None:
    champion = model("web@1", documents(2.0))
    worse = judge_model(model("web@2", documents(2.1)), champion, RULES)
    assert not worse.passed and "web@2 is worse than the champion web@1" in worse.why
    equal = judge_model(model("web@2", documents(2.0, noise=0.05)), champion, RULES)
    assert not equal.passed and "by not more than noise" in equal.why


def test_the_same_weights_are_the_champion_itself() -> None:
    champion = model("web@1", documents(2.0), sha256="ab")
    verdict = judge_model(model("web@2", documents(2.0), sha256="ab"), champion, RULES)
    assert not verdict.passed and "has the weights of the champion web@1 itself" in verdict.why


def test_a_broken_one_is_refused_whoever_is_champion() -> None:
    broken = documents()
    broken[3] = Score(math.nan, 9, 9, 1)
    for champion in (None, model("web@1", documents(7.0))):
        verdict = judge_model(model("web@2", broken), champion, RULES)
        assert not verdict.passed
        assert verdict.why.startswith("web@2 is not finite: bits_per_byte and 1 more")
        assert verdict.json_figures["bits_per_byte"] is None


def test_a_broken_champion_is_displaced_by_what_is_better_than_chance() -> None:
    broken = documents()
    broken[3] = Score(math.nan, 9, 9, 1)
    champion = model("web@1", broken)
    verdict = judge_model(model("web@2", documents(2.0)), champion, RULES)
    assert verdict.passed and "the champion web@1 is not finite" in verdict.why
    assert not judge_model(model("web@2", documents(3.0)), champion, RULES).passed


def test_a_guarded_measure_stops_a_better_one() -> None:
    rules = ModelGateRules(guarded={"own/x/acc": 0.0})
    champion = model("web@1", documents(2.0), pack(150))
    fallen = judge_model(model("web@2", documents(1.9), pack(120)), champion, rules)
    assert not fallen.passed and "but surely below it in what is guarded: own/x/acc 0.6000 against 0.7500" in fallen.why
    unsure = judge_model(model("web@2", documents(1.9), pack(147)), champion, rules)
    assert unsure.passed and unsure.why.endswith(
        "; not surely worse by more than allowed in own/x/acc (difference -0.0150, allowed 0)"
    )
    allowed = ModelGateRules(guarded={"own/x/acc": 0.2})
    lost = judge_model(model("web@2", documents(1.9), pack(120)), champion, allowed)
    assert lost.passed and lost.why.endswith("in own/x/acc (difference -0.1500, allowed 0.2)")


@pytest.mark.parametrize(("num", "passed"), [(7, False), (8, True)])
def test_a_guard_of_too_few_examples_could_never_stop_and_lets_nothing_through(num: int, passed: bool) -> None:
    rules = ModelGateRules(guarded={"own/x/acc": 0.0})
    same = {"own": [share_task("x", [True] * num)]}
    verdict = judge_model(model("web@2", documents(1.9), same), model("web@1", documents(2.0), same), rules)
    assert verdict.passed is passed
    assert ("but nothing can be told of what is guarded: own/x/acc 1.0000 against" in verdict.why) is not passed


def words(nats: float) -> dict[str, list]:  # type: ignore[type-arg]
    """Ten texts of one word each, as a language without spaces has them: the perplexity by word overflows."""
    texts = [
        ExampleScore(f"{place}", {"loglikelihood": -nats - place}, "", {"words": 1, "bytes": 99}) for place in range(10)
    ]
    metric = "word_perplexity"
    return {
        "zh": [
            TaskResult("long", "perplexity", 10, {metric: aggregate(metric, texts)}, metric, 0.0, False, tuple(texts))
        ]
    }


@pytest.mark.parametrize(("ours", "theirs"), [(2000.0, 1500.0), (1500.0, 2000.0), (2000.0, 5.0), (5.0, 2000.0)])
def test_an_infinite_perplexity_of_finite_models_tells_nothing(ours: float, theirs: float) -> None:
    """Of neither model: the champion is not broken by it, and a guard of it lets nobody through."""
    name = "zh/long/word_perplexity"
    rules = ModelGateRules(metric=name)
    for bits_per_byte in (1.9, 2.1):
        candidate, champion = (
            model("b@2", documents(bits_per_byte), words(ours)),
            model("b@1", documents(2.0), words(theirs)),
        )
        verdict = judge_model(candidate, champion, rules)
        assert not verdict.passed and f"can't be told from the champion b@1 on {name}" in verdict.why
    guarding = judge_model(model("b@2", documents(1.9), words(ours)), champion, ModelGateRules(guarded={name: 0.0}))
    assert not guarding.passed and f"nothing can be told of what is guarded: {name}" in guarding.why


def test_a_guarded_slice_in_which_lower_is_better() -> None:
    rules = ModelGateRules(guarded={"held_out/source/docs": 0.0})
    scores = documents(1.8)
    worse_docs = [*scores[:30], *documents(2.3)[30:]]
    verdict = judge_model(model("web@2", worse_docs), model("web@1", documents(2.0)), rules)
    assert not verdict.passed and "held_out/source/docs" in verdict.why


@pytest.mark.parametrize(("high", "fallen"), [(-0.011, True), (-0.01, False), (0.0, False)])
def test_what_a_guarded_measure_may_lose_is_let_through_itself(high: float, fallen: bool) -> None:
    assert has_fallen(Comparison("a", 0.4, 0.5, Estimate(-0.1, -0.2, high), 9, True), 0.01) is fallen
    assert has_fallen(Comparison("a", 0.5, 0.4, Estimate(0.1, -high, 0.2), 9, False), 0.01) is fallen


def test_without_a_champion_it_has_to_beat_chance() -> None:
    first = judge_model(model("web@1", documents(2.0)), None, RULES)
    assert first.passed and "is better than chance (there is no champion yet)" in first.why
    assert first.figures["bits_per_byte_chance"] == pytest.approx(10 / 4, rel=1e-3)  # 1024 entries, 4 bytes a token
    assert not judge_model(model("web@1", documents(2.4)), None, RULES).passed


@pytest.mark.parametrize(("num_right", "passed"), [(114, False), (116, True)])
def test_a_share_beats_chance_by_the_lower_end_of_its_interval(num_right: int, passed: bool) -> None:
    """Of 200 with two choices: 115 is where the exact interval leaves out one half."""
    for metric in ("own/x/acc", "own"):
        verdict = judge_model(model("web@1", documents(), pack(num_right)), None, ModelGateRules(metric=metric))
        assert verdict.passed is passed


def test_another_metric_decides_where_it_is_stated() -> None:
    rules = ModelGateRules(metric="own/x/acc")
    champion = model("web@1", documents(1.5), pack(100))
    assert judge_model(model("web@2", documents(2.5), pack(150)), champion, rules).passed
    slice_rules = ModelGateRules(metric="held_out/source/web")
    assert judge_model(model("web@2", documents(1.4)), champion, slice_rules).passed
    assert judge_model(model("web@1", documents(1.4)), None, slice_rules).passed


def test_rules_about_what_was_not_measured_are_refused() -> None:
    for rules in (ModelGateRules(metric="own/x/acc"), ModelGateRules(guarded={"own": 0.0})):
        with pytest.raises(ValueError, match="nothing is measured as 'own"):
            judge_model(model("web@2", documents()), None, rules)


def test_the_more_examples_the_smaller_the_gain_that_passes() -> None:
    def verdict(num: int) -> bool:
        ours, theirs = answers(num, int(0.6 * num), seed=1), answers(num, int(0.55 * num), seed=2)
        rules = ModelGateRules(metric="own/x/acc")
        packs = [{"own": [share_task("x", each)]} for each in (ours, theirs)]
        return judge_model(model("b@2", documents(), packs[0]), model("b@1", documents(), packs[1]), rules).passed

    assert [verdict(num) for num in (20, 100, 5000)] == [False, False, True]
