"""A document's toxicity from those of its pieces, of one document or of many at once."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.classifiers.bundle import embedded, load_bundle
from tasks.classifiers.calibration import Calibration
from tasks.filters.piece_classifier import PieceClassifier, highest_english_sentence, highest_piece
from tasks.filters.toxicity_pieces import may_read_as_english, reads_as_english

INSULT = "You are a stupid idiot and a disgusting piece of shit."
CALM = "The boat was found on the far bank of the river, and its oars lay in the grass beside the path."
LINES = st.sampled_from(
    [INSULT, CALM, "What an idiot", "!", "", "x" * 1200, "kill dumb_buffer idiom garbage", "It is. " * 40]
)


def test_half_is_the_threshold_of_the_classifier() -> None:
    bundle = load_bundle(embedded("toxicity"))
    threshold = bundle.classifier.threshold
    english = (reads_as_english, may_read_as_english)
    identity = PieceClassifier(bundle.raw_probabilities, Calibration(), threshold, *english, ())
    assert identity.toxicity(threshold) == pytest.approx(0.5)
    assert identity.toxicity(threshold + 1e-6) > 0.5 > identity.toxicity(threshold - 1e-6)
    assert identity.toxicity(0.0) < 0.01 < 0.99 < identity.toxicity(1.0)
    sure = PieceClassifier(bundle.raw_probabilities, Calibration(slope=5.0), 1.0, *english, ())
    assert sure.toxicity(1.0) == 0.5 > sure.toxicity(0.9)


def test_only_pieces_that_may_count_are_predicted() -> None:
    asked: list[str] = []

    def raw_probabilities(texts: Sequence[str]) -> list[float]:
        asked.extend(texts)
        return [0.9] * len(texts)

    classifier = PieceClassifier(raw_probabilities, Calibration(), 0.5, reads_as_english, may_read_as_english, ())
    few = "What an idiot\n!"  # read together, and shown as it stands
    text = f"kill dumb_buffer idiom garbage\n{few}\nboats and oars here"
    [(toxicity, piece)] = classifier.worst([text])
    assert (toxicity, piece) == (classifier.toxicity(0.9), few)
    assert asked == ["What an idiot !"]
    [predicted] = classifier.predict([text])
    assert classifier.toxic_pieces(predicted, 0.5) == [False, True, False]
    assert classifier.worst(["kill dumb_buffer idiom garbage"]) == [(0.0, "")]


@given(st.lists(st.lists(LINES, max_size=6).map("\n".join), max_size=5))
def test_many_texts_are_each_alone(texts: list[str]) -> None:
    def raw_probabilities(lines: Sequence[str]) -> list[float]:
        return [zlib.crc32(line.encode()) / 2**32 for line in lines]

    classifier = PieceClassifier(raw_probabilities, Calibration(), 0.5, reads_as_english, may_read_as_english, ())
    assert classifier.predict(texts) == [each for text in texts for each in classifier.predict([text])]
    assert classifier.worst(texts) == [classifier.worst([text])[0] for text in texts]


def test_aggregations() -> None:
    scores = {INSULT: 0.7, CALM: 0.2, "kill dumb_buffer idiom garbage": 0.9}
    text = "\n".join(scores)

    def probabilities(pieces: Sequence[str]) -> list[float]:
        return [scores[piece] for piece in pieces]

    assert highest_piece(probabilities, text) == 0.9
    assert highest_english_sentence(probabilities, text) == 0.7
    assert highest_piece(probabilities, " \n") == highest_english_sentence(probabilities, "") == 0.0
