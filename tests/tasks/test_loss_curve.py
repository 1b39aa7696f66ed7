"""The picture of the loss curve: it appears, it shows the curve, and gaps do not break it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.loss_curve import loss_curve_picture
from tasks.metrics_file import StepReport, metrics_line


def write_metrics(file: Path, losses: list[float], *, evaluated: bool = True) -> Path:
    report = StepReport(
        step=1,
        batch=0,
        num_steps=len(losses),
        tokens=0,
        loss=0.0,
        learning_rate=0.0,
        grad_norm=1.0,
        tokens_per_s=1e4,
        peak_memory_bytes=1,
        batch_hash="ab",
    )
    with file.open("wb") as opened:
        for step, loss in enumerate(losses, start=1):
            held_out = BitsPerByte(loss / 3, loss + 0.1, 100, 300, 2) if evaluated and step % 20 == 0 else None
            rate = 0.01 * min(step / 10, 1)
            opened.write(
                metrics_line(
                    dataclasses.replace(
                        report, step=step, tokens=step * 8192, loss=loss, learning_rate=rate, held_out=held_out
                    )
                )
            )
    return file


FALLING = [3 + 5 * math.exp(-step / 30) + 0.1 * math.sin(step * 1.7) for step in range(100)]


@pytest.mark.parametrize(
    "losses",
    [FALLING, [8.0], [*FALLING[:50], math.nan, *FALLING[50:]], [*FALLING, math.nan], [math.nan]],
    ids=["falling", "one step", "gap", "diverged", "only nan"],
)
@pytest.mark.parametrize("evaluated", [True, False])
def test_a_picture_appears(tmp_path: Path, losses: list[float], evaluated: bool):
    picture = tmp_path / "pictures" / "loss.png"
    loss_curve_picture(write_metrics(tmp_path / "m", losses, evaluated=evaluated), picture, title="smoke")
    assert imread(picture).shape[:2] == (720, 1080)
    assert 10_000 < picture.stat().st_size < 500_000


def test_the_curve_falls_in_the_picture(tmp_path: Path):
    """The blue pixels at the left stand higher than those at the right."""
    loss_curve_picture(write_metrics(tmp_path / "m", FALLING, evaluated=False), tmp_path / "loss.png")
    red, green, blue = np.moveaxis(imread(tmp_path / "loss.png")[150:, :, :3], 2, 0)
    rows, columns = np.nonzero((blue > red + 0.3) & (blue > green + 0.1))
    left, right = columns < np.quantile(columns, 0.2), columns > np.quantile(columns, 0.8)
    assert rows[left].mean() + 100 < rows[right].mean()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path):
    file = write_metrics(tmp_path / "m", FALLING)
    loss_curve_picture(file, tmp_path / "whole.png")
    with file.open("ab") as opened:
        opened.write(b'{"step": 101, "lo')
    loss_curve_picture(file, tmp_path / "partial.png")
    assert np.array_equal(imread(tmp_path / "whole.png"), imread(tmp_path / "partial.png"))


def test_no_step_is_refused(tmp_path: Path):
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(ValueError, match="no finished step"):
        loss_curve_picture(tmp_path / "m", tmp_path / "loss.png")
