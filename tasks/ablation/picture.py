"""An ablation as a picture: every model's point, each recipe's mean with its interval, and the difference with its."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.ablation.report import GroupComparison
from tasks.classifiers.proportion import Estimate

_COLOURS = {"a": "#2a6fb0", "b": "#c8501e"}
_GREY = "#555555"
_MAX_TITLE_CHARS = 70


def ablation_picture(
    groups: Sequence[GroupComparison], destination_png: Path, *, title: str, width_px: int = 1200
) -> None:
    """Draw one row a group: on the left the models' figures, on the right b minus a. A PNG of `width_px` pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert groups
    width_inches = 9.0
    figure = Figure(figsize=(width_inches, 0.8 + 1.9 * len(groups)), dpi=width_px / width_inches, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(groups), 2, squeeze=False, width_ratios=(3, 2))
    for (models, difference), row in zip(rows, groups, strict=True):
        found = row.comparison
        for place, (letter, runs, mean) in enumerate(
            (("a", found.runs_a, found.a), ("b", found.runs_b, found.b)), start=1
        ):
            colour = _COLOURS[letter]
            offsets = np.linspace(-0.12, 0.12, len(runs)) - 0.22
            models.plot(runs, -place - offsets, "o", color=colour, markersize=5, alpha=0.65)
            _interval(models, mean, -place, colour)
        models.set_yticks([-1, -2], ["a", "b"])
        models.set_ylim(-2.6, -0.4)
        models.set_xlabel(f"{row.metric} ({'higher' if row.higher_is_better else 'lower'} is better)")
        models.set_title(f"{_short(row.group)}: each model, mean and 95 % interval", fontsize=9, parse_math=False)
        _interval(difference, found.difference, 0, _GREY)
        difference.axvline(0, color="black", linewidth=0.8, linestyle=":")
        difference.set_yticks([])
        difference.set_ylim(-1, 1)
        difference.set_xlabel("b minus a")
        difference.set_title(found.outcome, fontsize=9)
        for axes in (models, difference):
            axes.grid(alpha=0.25, axis="x")
            axes.ticklabel_format(axis="x", useOffset=False)
    figure.suptitle(_short(title), parse_math=False)
    destination_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination_png)


def _interval(axes: object, estimate: Estimate, height: float, colour: str) -> None:
    axes.errorbar(  # type: ignore[attr-defined]
        [estimate.value],
        [height],
        xerr=[[estimate.value - estimate.low], [estimate.high - estimate.value]],
        fmt="D",
        color=colour,
        capsize=4,
        markersize=6,
    )


def _short(text: str) -> str:
    """For a title: no control characters, and not too long. It is no mathematics, whatever dollars it holds."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= _MAX_TITLE_CHARS else f"{printable[: _MAX_TITLE_CHARS - 1]}…"
