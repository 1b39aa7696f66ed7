"""Small classifiers, really trained, on texts of made words: some words are said in anger, the others are not."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.classifiers.bundle import Bundle, Classifier, save_bundle
from tasks.classifiers.calibration import Calibration
from tasks.classifiers.fast_text import FastTextTraining, load_fast_text, train_fast_text
from tasks.classifiers.threshold import choose_threshold

ANGRY = ("brogel", "snarf", "wurgle", "krotch", "zimble", "gnaff", "plunker", "skorn")
_LETTERS = "abdefgiklmnoprstuvz"
QUICK = FastTextTraining(dim=4, epoch=5, lr=0.5, bucket=1000, min_count=1, min_subword_chars=0, max_subword_chars=0)


def words(count: int, seed: int) -> list[str]:
    """Made words, the same for the same seed."""
    draw = random.Random(seed)
    return ["".join(draw.choices(_LETTERS, k=draw.randint(4, 8))) for _ in range(count)]


PLAIN = tuple(words(2000, 0))


def text(number: int, *, angry: bool, anger: Sequence[str] = ANGRY, length: int = 12) -> str:
    """A text of its own for each number, with two words of `anger` where it is angry."""
    draw = random.Random(f"{number} {angry}")
    chosen = draw.choices(PLAIN, k=length)
    if angry:
        for place in draw.sample(range(length), 2):
            chosen[place] = draw.choice(anger)
    return " ".join(chosen)


def labelled_file(
    path: Path, numbers: range, *, wrong_fraction: float = 0.0, anger: Sequence[str] = ANGRY, angry_every: int = 2
) -> Path:
    """CSV with columns comment, verdict (1 or 0) and site; some of the verdicts are wrong if asked for."""
    draw = random.Random(7)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["comment", "verdict", "site"])
        for number in numbers:
            angry = number % angry_every == 0
            verdict = angry != (draw.random() < wrong_fraction)
            writer.writerow([text(number, angry=angry, anger=anger), int(verdict), f"site-{number % 3}"])
    return path


def background_file(path: Path, numbers: range) -> Path:
    """JSONL of calm texts, each a document."""
    lines = [f'{{"text": "{text(number, angry=False, length=60)}"}}\n' for number in numbers]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def small_bundle(folder: Path, *, name: str = "tone", seed: int = 1, wrong_fraction: float = 0.0) -> Bundle:
    """A classifier of anger, made without a search; of its examples some have the wrong label if asked for."""
    model = folder.with_name(f"{folder.name}.ftz")
    model.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    examples = [
        ("angry" if bool(n % 2) != (draw.random() < wrong_fraction) else "calm", text(n, angry=bool(n % 2)))
        for n in range(600)
    ]
    training = QUICK.model_copy(update={"seed": seed, "cutoff": 256})
    train_fast_text(examples, training, model, quantised=True)
    calm = [text(n, angry=False, length=60) for n in range(10_000, 10_400)]
    threshold = choose_threshold(load_fast_text(model).probabilities(calm, "angry"), 0.005).value
    classifier = Classifier(
        name=name,
        task="Tells angry texts from calm ones.",
        positive="angry",
        labels=("angry", "calm"),
        normaliser="words_and_marks",
        unit="document",
        threshold=threshold,
        false_alarm_fraction=0.01,
        calibration=Calibration(slope=1.0, intercept=0.0),
        training=training,
        data=(),
        scores={"recall": 0.9, "recall_low": 0.8, "recall_high": 0.95},
        licence="CC0-1.0",
        origin="this test",
        languages=("en",),
        created="2026-01-01",
    )
    card = f"# {name}\n\nTells *angry* texts from calm ones.\n"
    return save_bundle(folder, classifier, model, np.array([1, 2, 3], dtype=np.uint64), card)
