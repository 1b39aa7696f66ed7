"""The gate with real classifiers: who is let through, who is not, and what neither may have seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.classifier_gate import judged
from infra.classifier_registry import ClassifierVersion
from tasks.classifiers.bundle import Bundle, save_bundle, text_keys
from tasks.classifiers.gate import GateRules
from tasks.classifiers.measured import HeldOut
from tests.infra.small_classifier import small_bundle, text

NUMBERS = range(50_000, 50_400)
ANGRY = tuple(number % 2 == 0 for number in NUMBERS)
HELD_OUT = HeldOut(
    texts=tuple(text(number, angry=angry) for number, angry in zip(NUMBERS, ANGRY, strict=True)),
    labels=ANGRY,
    sources=tuple(f"site-{number % 2}" for number in NUMBERS),
    background=tuple(text(number, angry=False, length=60) for number in range(60_000, 60_400)),
    background_sources=("pages",) * 400,
)
RULES = GateRules(max_false_alarm_fraction=0.02)


def version(bundle: Bundle, reference: str) -> ClassifierVersion:
    return ClassifierVersion(reference, bundle.sha256, bundle.folder, {})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> ClassifierVersion:
    return version(small_bundle(tmp_path_factory.mktemp("good") / "bundle"), "tone@2")


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> ClassifierVersion:
    """Learned from texts of which nearly every second has the wrong label."""
    return version(small_bundle(tmp_path_factory.mktemp("poor") / "bundle", wrong_fraction=0.42), "tone@1")


def test_the_better_one_passes_and_the_worse_one_does_not(good: ClassifierVersion, poor: ClassifierVersion) -> None:
    better = judged(good, poor, HELD_OUT, RULES)
    assert better.passed and "tone@2 is better" in better.why, better.why
    assert better.figures["average_precision"] > better.figures["champion_average_precision"]
    worse = judged(poor, good, HELD_OUT, GateRules(max_false_alarm_fraction=0.9))
    assert not worse.passed and "tone@1 is worse" in worse.why
    assert worse.figures["average_precision"] == better.figures["champion_average_precision"]


def test_the_first_passes_by_its_false_alarms_and_by_what_it_finds(good: ClassifierVersion) -> None:
    first = judged(good, None, HELD_OUT, RULES)
    assert first.passed and "no champion yet" in first.why
    strict = judged(good, None, HELD_OUT, GateRules(max_false_alarm_fraction=0.0))
    assert strict.passed == (first.figures["false_alarm_fraction"] == 0)
    wrong_way_round = replace(HELD_OUT, labels=tuple(not angry for angry in HELD_OUT.labels))
    upside_down = judged(good, None, wrong_way_round, RULES)
    assert not upside_down.passed and "does not surely" in upside_down.why


def test_what_either_has_seen_is_left_out_for_both(
    good: ClassifierVersion, poor: ClassifierVersion, tmp_path: Path
) -> None:
    bundle = poor.bundle
    seen = text_keys("words_and_marks", [*HELD_OUT.texts[:100], *HELD_OUT.background[:30]])
    saw = save_bundle(tmp_path / "saw", bundle.classifier, bundle.model_path, seen, "")
    for verdict in (
        judged(good, version(saw, "tone@3"), HELD_OUT, RULES),
        judged(version(saw, "tone@3"), good, HELD_OUT, RULES),
    ):
        assert verdict.figures["num_positives"] == 150 and verdict.figures["num_negatives"] == 150
        assert verdict.figures["num_background_texts"] == 370


def test_the_same_classifier_is_no_better_than_itself(good: ClassifierVersion) -> None:
    same = judged(ClassifierVersion("tone@9", good.sha256, good.folder, {}), good, HELD_OUT, RULES)
    assert not same.passed and "itself" in same.why
