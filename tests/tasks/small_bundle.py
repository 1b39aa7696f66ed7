"""A classifier's folder, trained in a moment on made-up sentences: "sour" texts against "sweet" ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.classifiers.bundle import Bundle, Classifier, save_bundle
from tasks.classifiers.calibration import Calibration
from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tests.data.prose import prose


def small_bundle(folder: Path, name: str = "taste") -> Bundle:
    """A verified bundle in the new folder `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    training = FastTextTraining(dim=2, epoch=2, bucket=1000, min_subword_chars=0, max_subword_chars=0, min_count=1)
    lines = [" ".join(prose(seed).split()) for seed in range(20)]
    examples = [("sour", f"lemon {line}") for line in lines] + [("sweet", f"honey {line}") for line in lines]
    model = folder.with_name(f"{folder.name}-training.bin")
    train_fast_text(examples, training, model, quantised=False)
    classifier = Classifier(
        name=name,
        task="tells sour texts from sweet ones",
        positive="sour",
        labels=("sour", "sweet"),
        normaliser="plain_line",
        unit="document",
        threshold=0.5,
        false_alarm_fraction=0.01,
        calibration=Calibration(),
        training=training,
        data=(),
        scores={},
        licence="CC0-1.0",
        origin="made up for a test",
        languages=("en",),
    )
    bundle = save_bundle(folder, classifier, model, np.array([1, 2], dtype=np.uint64), "# Taste\n")
    model.unlink()
    return bundle
