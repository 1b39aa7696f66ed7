"""Measures are the metrics of what they were made of, and are compared on the same examples alone."""

from __future__ import annotations

import math

import pytest
import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.evaluation.bits_per_byte import Score, summed
from tasks.evaluation.measures import (
    CentredMean,
    Measure,
    examples_sha256,
    held_out_measures,
    slice_places,
    task_measures,
    weights_sha256,
)
from tasks.evaluation.slices import Cell
from tasks.evaluation.task_result import ExampleScore, TaskResult, aggregate
from tests.tasks.evaluation.measured_models import IDS, SLICES, VOCAB_SIZE, answers, documents, model, share_task


def texts_task() -> TaskResult:
    examples = tuple(
        ExampleScore(str(number), {"loglikelihood": -10.0 * number - 5}, weights={"words": number + 1, "bytes": 9.0})
        for number in range(10)
    )
    metrics = {name: aggregate(name, examples) for name in ("bits_per_byte", "byte_perplexity", "word_perplexity")}
    return TaskResult("texts", "perplexity", 10, metrics, "bits_per_byte", 0.0, False, examples)


def words_task() -> TaskResult:
    examples = tuple(
        ExampleScore(str(number), {"acc": float(number % 2), "perplexity": -0.3 * number}) for number in range(10)
    )
    metrics = {name: aggregate(name, examples) for name in ("acc", "perplexity")}
    return TaskResult("words", "last_word", 10, metrics, "acc", 0.0, True, examples)


def test_every_metric_of_a_task_is_the_measures_figure() -> None:
    results = [share_task("pairs", answers(30, 20)), words_task(), texts_task()]
    measures = {measure.name: measure for measure in task_measures("own", results)}
    for result in results:
        for metric, value in result.metrics.items():
            measure = measures[f"own/{result.task}/{metric}"]
            assert measure.estimate().value == pytest.approx(value)
            assert measure.higher_is_better == (metric == "acc")
    pack = measures["own"]
    assert isinstance(pack, CentredMean) and [task.name for task in pack.tasks] == ["own/pairs/acc", "own/words/acc"]
    in_score = [(each.metrics["acc"] - each.chance) / (1 - each.chance) for each in results[:2]]
    assert pack.estimate().value == pytest.approx(sum(in_score) / 2)
    assert next(iter(measures)) == "own"


def test_a_pack_of_code_lengths_alone_has_no_centred_score() -> None:
    assert "own" not in {measure.name for measure in task_measures("own", [texts_task()])}


def test_bits_per_byte_and_slices_are_sums_of_their_documents() -> None:
    scores = documents()
    measures = {measure.name: measure for measure in held_out_measures(IDS, scores, SLICES)}
    assert measures["bits_per_byte"].estimate().value == pytest.approx(summed(scores).bits_per_byte)
    for name, places in SLICES.items():
        own = summed([scores[place] for place in places])
        assert measures[name].estimate().value == pytest.approx(own.bits_per_byte)
        assert measures[name].ids == tuple(IDS[place] for place in places)


def test_the_uniform_model_needs_log2_of_the_vocabulary_a_token() -> None:
    scores = documents()
    expected = summed(scores).num_tokens * math.log2(VOCAB_SIZE) / summed(scores).num_bytes
    assert model("a@1", scores).uniform.estimate().value == pytest.approx(expected)


def test_empty_texts_are_left_out_and_nothing_but_them_is_refused() -> None:
    empty, full = Score(0.0, 0, 0, 1), Score(2.0, 3, 4, 1)
    (whole,) = held_out_measures(["a", "b"], [empty, full], {"held_out/source/none": [0]})
    assert whole.ids == ("b",)
    with pytest.raises(ValueError, match="no text to evaluate on"):
        held_out_measures(["a"], [empty], {})


def test_other_examples_are_not_compared() -> None:
    (ours,) = (each for each in task_measures("own", [share_task("a", [True, False])]) if isinstance(each, Measure))
    (theirs,) = (each for each in task_measures("own", [share_task("a", [True])]) if isinstance(each, Measure))
    with pytest.raises(ValueError, match=r"own/a/acc: the two models were asked different examples \(2 and 1\)"):
        ours.difference(theirs)
    packs = [task_measures("own", [share_task(name, [True, False])])[0] for name in "ab"]
    assert isinstance(packs[0], CentredMean) and isinstance(packs[1], CentredMean)
    with pytest.raises(ValueError, match="were not asked the same tasks"):
        packs[0].difference(packs[1])


def test_a_centred_difference_is_stretched_as_the_score_is() -> None:
    one, two = (task_measures("own", [share_task("a", answers(50, right), 0.25)])[0] for right in (40, 30))
    assert isinstance(one, CentredMean) and isinstance(two, CentredMean)
    apart = one.estimate().value - two.estimate().value
    assert one.difference(two).value == pytest.approx(apart) == pytest.approx(0.2 / 0.75)


def test_without_some_examples_it_is_the_measure_of_the_others() -> None:
    measure = task_measures("own", [share_task("a", [True, True, False, False])])[1]
    assert isinstance(measure, Measure)
    fewer = measure.without(frozenset({"0000", "0003"}))
    assert fewer is not None and fewer.ids == ("0001", "0002") and fewer.estimate().value == 0.5
    assert measure.without(frozenset(measure.ids)) is None


def test_one_nan_makes_a_measure_not_finite_and_an_infinite_perplexity_does_not() -> None:
    scores = documents()
    assert model("a@1", scores).measure("bits_per_byte").is_finite
    scores[7] = Score(math.nan, 3, 4, 1)
    assert not model("a@1", scores).measure("bits_per_byte").is_finite
    far = tuple(ExampleScore(str(number), {"acc": 0.0, "perplexity": -1e6}) for number in range(9))
    result = TaskResult("w", "last_word", 9, {"acc": 0.0, "perplexity": math.inf}, "acc", 0.0, True, far)
    perplexity = task_measures("own", [result])[2]
    assert perplexity.estimate().value == math.inf and perplexity.is_finite


def test_an_unknown_measure_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="nothing is measured as 'f1'; there is bits_per_byte, held_out/source/web"):
        model("a@1", documents()).measure("f1")


def test_slices_are_named_as_their_metrics_and_hold_places() -> None:
    cells = [Cell(("web", "en", "1-4 kB"), (7, 9)), Cell(("a/b", "en", "below 1 kB"), (2,))]
    places = slice_places(cells, [2, 7, 9])
    assert places["held_out/source/web"] == [1, 2] and places["held_out/source/a_b"] == [0]
    assert sorted(places["held_out/language/en"]) == [0, 1, 2]


def test_weights_are_known_by_their_hash() -> None:
    def decoder(seed: int) -> Decoder:
        torch.manual_seed(seed)
        return Decoder(
            DecoderConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=8, max_seq_len=8)
        )

    assert weights_sha256(decoder(0)) == weights_sha256(decoder(0)) != weights_sha256(decoder(1))


def test_figures_of_another_choice_of_examples_are_told_apart() -> None:
    def digest(num: int, source: str = "ab") -> str:
        return examples_sha256(source, task_measures("own", [share_task("x", answers(num, 5))]))

    assert digest(20) == digest(20)
    assert len({digest(20), digest(21), digest(20, "cd")}) == 3
