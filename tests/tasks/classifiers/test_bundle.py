"""A bundle is what was saved, or it is refused with both hashes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.classifiers.bundle import (
    CARD_FILE,
    SEEN_FILE,
    Bundle,
    Classifier,
    embedded,
    load_bundle,
    save_bundle,
    text_keys,
)
from tasks.classifiers.calibration import Calibration
from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.model_files import CLASSIFIER_FILE

SMALL = FastTextTraining(dim=4, epoch=5, bucket=1_000, cutoff=256, min_count=1)
FACTS = {
    "name": "manners",
    "task": "Foul or fair.",
    "positive": "foul",
    "labels": ("fair", "foul"),
    "normaliser": "words_and_marks",
    "unit": "document",
    "threshold": 0.5,
    "false_alarm_fraction": 0.01,
    "calibration": Calibration(slope=2.0, intercept=-1.0),
    "training": SMALL,
    "data": (),
    "scores": {"recall": 0.75},
    "licence": "CC0",
    "origin": "a test",
    "languages": ("en",),
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "any-name.ftz"
    examples = [(label, f"{label} word {number}") for label in ("foul", "fair") for number in range(30)]
    train_fast_text(examples, SMALL, path, quantised=True)
    return path


@pytest.fixture
def bundle(tmp_path: Path, model_file: Path) -> Bundle:
    seen = text_keys("words_and_marks", ["Foul WORD 1", "fair word 2", "Foul word 1"])
    return save_bundle(tmp_path / "manners", Classifier(**FACTS), model_file, seen, "# The card\n")


def test_what_is_saved_is_loaded(bundle: Bundle, model_file: Path) -> None:
    names = {CLASSIFIER_FILE, "model.ftz", SEEN_FILE, CARD_FILE}
    assert {path.name for path in bundle.folder.iterdir()} == names
    assert load_bundle(bundle.folder) == bundle
    assert load_bundle(bundle.folder, bundle.sha256) == bundle
    assert bundle.sha256 == hashlib.sha256((bundle.folder / CLASSIFIER_FILE).read_bytes()).hexdigest()
    assert bundle.classifier.model_sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert bundle.classifier.scores == {"recall": 0.75}
    assert [path.name for path in bundle.files()] == [CLASSIFIER_FILE, "model.ftz", SEEN_FILE]
    assert bundle.model is load_bundle(bundle.folder).model


def test_saved_again_it_is_the_same_byte_for_byte(bundle: Bundle, model_file: Path, tmp_path: Path) -> None:
    again = save_bundle(tmp_path / "again", Classifier(**FACTS), model_file, bundle.seen()[::-1], "# The card\n")
    assert again.sha256 == bundle.sha256
    for path in bundle.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes()


def test_probabilities_are_normalised_and_calibrated(bundle: Bundle) -> None:
    texts = ["FOUL word 9", "fair", "", "@nobody"]
    raw = bundle.model.probabilities(["foul word 0", "fair", "", ""], "foul")
    assert bundle.raw_probabilities(texts) == raw
    assert bundle.probabilities(texts) == [bundle.classifier.calibration.probability(score) for score in raw]
    assert raw[0] > 0.5 > raw[1] > raw[2] == raw[3] == 0.0


def test_it_knows_what_it_has_seen(bundle: Bundle) -> None:
    assert bundle.has_seen(["foul word 77", "fair word", "fair  word 3"]).tolist() == [True, False, True]
    seen = bundle.seen()
    assert seen.dtype == np.uint64
    assert seen.tolist() == sorted(set(seen.tolist()))
    assert len(seen) == 2
    first = int.from_bytes(hashlib.sha256(b"foul word 0").digest()[:8], "big")
    assert first in seen.tolist()


@pytest.mark.parametrize("name", ["model.ftz", SEEN_FILE])
def test_one_byte_changed_is_refused_with_both_hashes(bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    content = bytearray(path.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{name} has the SHA-256 {hashlib.sha256(content).hexdigest()}, but {before}"
    ):
        load_bundle(bundle.folder)


def test_one_byte_of_the_json_changed_is_another_identity(bundle: Bundle) -> None:
    path = bundle.folder / CLASSIFIER_FILE
    path.write_bytes(path.read_bytes().replace(b'"threshold": 0.5', b'"threshold": 0.6'))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"classifier\.json has the SHA-256 {found}, but {bundle.sha256} is expected"):
        load_bundle(bundle.folder, bundle.sha256)
    assert load_bundle(bundle.folder).sha256 == found


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def rewrite(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / CLASSIFIER_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(CLASSIFIER_FILE), r"no classifier: it has no classifier\.json"),
        (remove("model.ftz"), r"no classifier: it has no model\.ftz"),
        (remove(SEEN_FILE), r"no classifier: it has no seen\.npy"),
        (lambda folder: (folder / CLASSIFIER_FILE).write_text("{"), "not understood"),
        (rewrite(normaliser="upper"), "normaliser 'upper' is none of words_and_marks, plain_line"),
        (rewrite(positive="vile"), "positive 'vile' is none of the labels fair, foul"),
        (rewrite(model_file="../model.bin"), "not understood"),
        (rewrite(surprise=1), r"not understood \(surprise"),
        (rewrite(aggregation="mean"), "is for pieces"),
        (shutil.rmtree, "no classifier"),
    ],
)
def test_a_damaged_folder_is_refused(bundle: Bundle, damage: Callable[[Path], object], message: str) -> None:
    damage(bundle.folder)
    with pytest.raises(ValueError, match=message) as refused:
        load_bundle(bundle.folder)
    assert not isinstance(refused.value, ValidationError)
    assert "\n" not in str(refused.value)


def test_a_model_with_other_labels_is_refused(tmp_path: Path, model_file: Path) -> None:
    facts = {**FACTS, "positive": "vile", "labels": ("fair", "vile")}
    other = save_bundle(tmp_path / "other", Classifier(**facts), model_file, np.empty(0, np.uint64), "")
    with pytest.raises(ValueError, match=r"model\.ftz has the labels .*but classifier\.json says fair, vile"):
        other.probabilities(["x"])


def test_nothing_is_written_over(bundle: Bundle, model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is there already"):
        save_bundle(bundle.folder, bundle.classifier, model_file, bundle.seen(), "")
    with pytest.raises(ValueError, match=r"model\.txt is neither"):
        save_bundle(tmp_path / "new", bundle.classifier, tmp_path / "model.txt", bundle.seen(), "")
    with pytest.raises(FileNotFoundError):
        save_bundle(tmp_path / "new", bundle.classifier, tmp_path / "absent.ftz", bundle.seen(), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manners"]


def test_every_embedded_classifier_is_whole() -> None:
    folders = sorted(embedded("any").parent.glob("*/classifier.json"))
    for path in folders:
        bundle = load_bundle(path.parent)
        assert bundle.classifier.name == path.parent.name
        assert bundle.model.labels
        assert (path.parent / CARD_FILE).stat().st_size > 500
