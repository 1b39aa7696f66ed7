"""A classifier's figures as pictures, for its page in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.classifiers.calibration import NUM_BINS, calibration_bins, expected_calibration_error
from tasks.classifiers.metrics import Confusion, confusion_at
from tasks.classifiers.proportion import percent, proportion
from tasks.classifiers.scores import BoolArray, FloatArray, checked_classes

_BLUE, _ORANGE, _GREY = "#2a6fb0", "#c8501e", "#777777"
_WIDTH_INCHES = 6.0  # letters of 11 points are 15 pixels high in a picture of 600 pixels
_MAX_TITLE_CHARS, _MAX_LABEL_CHARS = 40, 12


def precision_recall_picture(
    labels: BoolArray | Sequence[bool],
    scores: FloatArray | Sequence[float],
    threshold: float,
    destination_png: Path,
    *,
    title: str,
    width_px: int = 1200,
) -> None:
    """Draw precision against recall over all thresholds, with the one in use and what chance would give.

    Raises ValueError where a class has no text, or a score is not from 0 to 1.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    labels, scores = checked_classes(labels, scores)
    precisions, recalls, _ = precision_recall_curve(labels, scores)
    base_fraction = float(labels.mean())
    confusion = confusion_at(labels, scores, threshold)
    num_flagged = confusion.true_positives + confusion.false_positives
    recall = confusion.true_positives / int(labels.sum())
    figure = _figure(5.2, width_px)
    axes = figure.subplots()
    axes.step(
        recalls,
        precisions,
        where="post",
        color=_BLUE,
        linewidth=1.8,
        label=f"average precision {average_precision_score(labels, scores):.3f}",
    )
    axes.axhline(base_fraction, color=_GREY, linestyle=":", label=f"by chance: precision {percent(base_fraction)}")
    if num_flagged:
        precision = confusion.true_positives / num_flagged
        axes.plot([recall, recall, 0], [0, precision, precision], color=_ORANGE, linewidth=1, linestyle="--")
        axes.plot(
            [recall],
            [precision],
            color=_ORANGE,
            marker="o",
            linestyle="",
            clip_on=False,
            zorder=3,
            label=f"threshold {threshold:.4g}: recall {percent(recall)}, precision {percent(precision)}",
        )
    else:
        axes.plot([], [], color=_ORANGE, marker="o", linestyle="", label=f"threshold {threshold:.4g}: no text above it")
    axes.set_xlabel("recall (share of the positive texts that is found)")
    axes.set_ylabel("precision (share of the found\nthat is positive)")
    _unit_square(axes)
    _finish(figure, axes, title, f"{len(labels):,} labelled texts, {int(labels.sum()):,} positive", destination_png)


def confusion_picture(
    confusion: Confusion, destination_png: Path, *, title: str, positive: str, negative: str, width_px: int = 1200
) -> None:
    """Draw the texts by label and decision: numbers, shares of each label's texts, a colour by the share."""
    counts = np.array(
        [
            [confusion.true_positives, confusion.false_negatives],
            [confusion.false_positives, confusion.true_negatives],
        ]
    )
    totals = counts.sum(axis=1, keepdims=True)
    fractions = counts / np.maximum(totals, 1)
    figure = _figure(4.6, width_px)
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(2):
        for column in range(2):
            share = percent(float(fractions[row, column])) if totals[row, 0] else "no such text"
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}\n{share}",
                ha="center",
                va="center",
                fontsize=15,
                color="white" if fractions[row, column] > 0.65 else "black",
            )
    names = [_short(positive, _MAX_LABEL_CHARS), _short(negative, _MAX_LABEL_CHARS)]
    axes.set_xticks([0, 1], names, parse_math=False)
    axes.set_yticks([0, 1], names, rotation=90, va="center", parse_math=False)
    axes.set_xlabel("classified as")
    axes.set_ylabel("labelled as")
    figure.colorbar(image, label="share of the label's texts")
    _finish(figure, axes, title, f"{int(counts.sum()):,} labelled texts", destination_png)


def calibration_picture(
    labels: BoolArray | Sequence[bool],
    before: FloatArray | Sequence[float],
    after: FloatArray | Sequence[float],
    destination_png: Path,
    *,
    title: str,
    width_px: int = 1200,
) -> None:
    """Draw the share of positives among the texts of each score, before and after calibration, and how many there are.

    Raises ValueError where a class has no text, or a score is not from 0 to 1.
    """
    from matplotlib.ticker import StrMethodFormatter

    labels, before = checked_classes(labels, before)
    labels, after = checked_classes(labels, after)
    figure = _figure(6.2, width_px)
    axes, counts_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":", label="where score and share agree")
    for scores, name, color, marker in ((before, "before", _GREY, "s"), (after, "after", _BLUE, "o")):
        bins = calibration_bins(labels, scores)
        shares = [proportion(each.num_positives, each.num_texts) for each in bins]
        axes.errorbar(
            [each.mean_probability for each in bins],
            [each.fraction for each in shares],
            yerr=[[each.fraction - each.low for each in shares], [each.high - each.fraction for each in shares]],
            color=color,
            marker=marker,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=f"{name} calibration: error {expected_calibration_error(labels, scores):.3f}",
        )
        counts_axes.stairs(
            np.histogram(scores, bins=NUM_BINS, range=(0, 1))[0],
            np.linspace(0, 1, NUM_BINS + 1),
            color=color,
            linewidth=1.4,
        )
    axes.set_ylabel("share of positive texts\n(bars: 95 % interval)")
    _unit_square(axes)
    counts_axes.set_yscale("log")
    counts_axes.set_ylim(0.7, 2 * len(labels))
    counts_axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    counts_axes.set_ylabel("texts")
    counts_axes.set_xlabel(f"score (in {NUM_BINS} bins of equal width)")
    counts_axes.grid(alpha=0.25)
    _finish(figure, axes, title, f"{len(labels):,} labelled texts, {int(labels.sum()):,} positive", destination_png)


def _figure(height_inches: float, width_px: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: its global state would outlive the picture in a long-lived worker.
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=width_px / _WIDTH_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _unit_square(axes: Any) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)


def _finish(figure: Any, axes: Any, title: str, texts: str, destination_png: Path) -> None:
    """Title above, legend below the axes, where no curve can run through it."""
    axes.set_title(f"{_short(title, _MAX_TITLE_CHARS)}\n{texts}", parse_math=False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", frameon=False)
    destination_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination_png, format="png")


def _short(name: str, max_chars: int) -> str:
    """A name from outside, in one line that fits; it is no mathematics, whatever dollars it holds (`parse_math`)."""
    line = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"
