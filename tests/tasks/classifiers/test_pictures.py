"""The pictures appear in their size, show what they are of, and bear any name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from tasks.classifiers.metrics import Confusion
from tasks.classifiers.pictures import calibration_picture, confusion_picture, precision_recall_picture

LABELS = np.arange(200) % 4 == 0
SCORES = np.clip(np.random.default_rng(0).normal(0.3 + 0.3 * LABELS, 0.15), 0, 1)
NAMES = [r"$\frac{x$ <b>", "line\nbreak \x00 a_{b}^$" * 20, ""]


def places(picture: Path, colour: str) -> Any:
    """Rows and columns of the pixels that are clearly of a colour."""
    red, green, blue = np.moveaxis(imread(picture)[:, :, :3], 2, 0)
    is_it = {
        "blue": (blue > red + 0.3) & (blue > green + 0.1),
        "orange": (red > blue + 0.5) & (red > green + 0.3),
    }[colour]
    return np.nonzero(is_it)


@pytest.mark.parametrize(("name", "width_px"), [*((name, 600) for name in NAMES), ("toxicity", 1200)])
def test_all_pictures_appear_with_any_name(tmp_path: Path, name: str, width_px: int) -> None:
    folder = tmp_path / "pictures"
    precision_recall_picture(LABELS, SCORES, 0.5, folder / "curve.png", title=name, width_px=width_px)
    calibration_picture(LABELS, SCORES, SCORES**2, folder / "calibration.png", title=name, width_px=width_px)
    confusion_picture(
        Confusion(3, 1, 2, 1_000_000),
        folder / "confusion.png",
        title=name,
        positive=name,
        negative=name,
        width_px=width_px,
    )
    sizes = {picture.name: imread(picture).shape[:2] for picture in folder.iterdir()}
    scale = width_px // 600
    assert sizes == {
        "curve.png": (520 * scale, width_px),
        "calibration.png": (620 * scale, width_px),
        "confusion.png": (460 * scale, width_px),
    }


def test_the_threshold_is_on_the_curve(tmp_path: Path) -> None:
    """A lower threshold finds more: its point lies to the right, and its line with it."""
    columns = []
    for threshold in (0.7, 0.3):
        precision_recall_picture(LABELS, SCORES, threshold, tmp_path / "curve.png", title="t", width_px=600)
        rows, found = places(tmp_path / "curve.png", "orange")
        columns.append(found[rows < 400].max())
    assert columns[0] + 100 < columns[1]


def test_without_a_flagged_text_there_is_no_point(tmp_path: Path) -> None:
    precision_recall_picture(LABELS, SCORES, 1.0, tmp_path / "curve.png", title="t", width_px=600)
    rows, _ = places(tmp_path / "curve.png", "orange")
    assert len(rows) and rows.min() > 450  # in the legend alone


def test_a_better_classifiers_curve_is_higher(tmp_path: Path) -> None:
    heights = []
    for scores in (SCORES, np.where(LABELS, 0.9, 0.1)):
        precision_recall_picture(LABELS, scores, 0.5, tmp_path / "curve.png", title="t", width_px=600)
        rows, _ = places(tmp_path / "curve.png", "blue")
        heights.append(rows[rows < 400].mean())
    assert heights[1] + 20 < heights[0]


def test_the_colour_of_a_cell_is_its_share_of_the_label(tmp_path: Path) -> None:
    confusion = Confusion(true_positives=9, false_positives=0, false_negatives=1, true_negatives=50)
    confusion_picture(confusion, tmp_path / "confusion.png", title="t", positive="p", negative="n", width_px=600)
    darkness = (
        1 - imread(tmp_path / "confusion.png")[:, :, 1]
    )  # of the colours from white to dark blue, green falls all the way
    cells = [darkness[60:110, 60:260], darkness[60:110, 290:490], darkness[250:290, 60:260], darkness[250:290, 290:490]]
    found, missed, alarms, passed = (float(np.median(cell)) for cell in cells)
    assert passed > found > 0.6 > 0.2 > missed > alarms - 0.01


def test_a_label_without_texts_is_said_to_be_so(tmp_path: Path) -> None:
    for positives in (0, 1):
        confusion = Confusion(0, 3, positives, 4)
        file = tmp_path / f"{positives}.png"
        confusion_picture(confusion, file, title="t", positive="p", negative="n", width_px=600)
    assert not np.array_equal(imread(tmp_path / "0.png"), imread(tmp_path / "1.png"))


@pytest.mark.parametrize("labels", [[True, True], [False, False]])
def test_one_class_draws_nothing(tmp_path: Path, labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="both positive and negative"):
        precision_recall_picture(labels, [0.1, 0.2], 0.5, tmp_path / "a.png", title="t")
    with pytest.raises(ValueError, match="both positive and negative"):
        calibration_picture(labels, [0.1, 0.2], [0.1, 0.2], tmp_path / "a.png", title="t")
    assert not list(tmp_path.iterdir())
