"""An evaluation as a picture: every score with its interval, beside chance and beside the other model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.classifiers.proportion import Estimate
from tasks.evaluation.measures import BITS_PER_BYTE, ModelScores
from tasks.evaluation.report import ScoreRow

_BLUE, _ORANGE, _GREY = "#2a6fb0", "#c8501e", "#777777"
_WIDTH_INCHES = 6.0  # letters of 10 points are 14 pixels high in a picture of 600 pixels
_ROW_INCHES, _FRAME_INCHES = 0.34, 1.15
_MAX_NAME_CHARS, _MAX_TITLE_CHARS = 30, 44
_MAX_ROWS = 40
"""Of each panel; a picture with more is not read."""


def scores_picture(
    rows: Sequence[ScoreRow],
    destination_png: Path,
    *,
    title: str,
    other: ModelScores | None = None,
    width_px: int = 1200,
) -> None:
    """Draw bits per byte with its slices, and below it the main metric of each task and the score of each pack."""
    texts = [row for row in rows if row.name == BITS_PER_BYTE or row.name.startswith("held_out/")][:_MAX_ROWS]
    shares = [row for row in rows if _is_shown_share(row, rows)][:_MAX_ROWS]
    panels = [(panel, unit) for panel, unit in ((texts, _TEXTS), (shares, _SHARES)) if panel]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: its global state would outlive the picture in a long-lived worker.
    heights = [len(panel) * _ROW_INCHES + _FRAME_INCHES for panel, _ in panels]
    size = (_WIDTH_INCHES, sum(heights) + 0.6)
    figure = Figure(figsize=size, dpi=width_px / _WIDTH_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    drawn = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (panel, unit) in zip(drawn, panels, strict=True):
        _draw(axes, panel, other, unit)
    drawn[0].set_title(_short(title, _MAX_TITLE_CHARS), parse_math=False)
    handles = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend = figure.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    destination_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination_png, format="png")


_TEXTS = "bits per byte of held-out text (lower is better)"
_SHARES = "share of right answers; of a pack: centred score"


def _is_shown_share(row: ScoreRow, rows: Sequence[ScoreRow]) -> bool:
    """A pack's score, or the main metric of a task, which is its first."""
    if "/" not in row.name:
        return row.name != BITS_PER_BYTE
    task = row.name.rpartition("/")[0]
    first = next(each for each in rows if each.name.rpartition("/")[0] == task)
    return row.centred is not None and row is first


def _draw(axes: Any, rows: Sequence[ScoreRow], other: ModelScores | None, unit: str) -> None:
    places = list(range(len(rows)))
    shift = 0.16 if other else 0.0
    _dots(axes, [row.score for row in rows], [place - shift for place in places], _BLUE, "o", "this model")
    if other:
        measured = [(other.measures.get(row.name), place + shift) for row, place in zip(rows, places, strict=True)]
        theirs = [(measure.estimate(), place) for measure, place in measured if measure is not None]
        label = _short(other.reference, _MAX_NAME_CHARS)
        _dots(axes, [score for score, _ in theirs], [place for _, place in theirs], _ORANGE, "D", label)
    known = [(row.chance, place) for row, place in zip(rows, places, strict=True) if row.chance is not None]
    axes.plot(
        [chance for chance, _ in known],
        [place for _, place in known],
        linestyle="",
        marker="|",
        markersize=15,
        markeredgewidth=2,
        color=_GREY,
        label="by chance",
    )
    names = [_short(row.name.removeprefix("held_out/"), _MAX_NAME_CHARS) for row in rows]
    axes.set_yticks(places, names, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.set_xlabel(f"{unit}\n(bars: 95 % interval)")
    axes.grid(axis="x", alpha=0.25)


def _dots(axes: Any, scores: Sequence[Estimate], places: Sequence[float], color: str, marker: str, label: str) -> None:
    """What is not finite is not drawn, nor is an interval that is not."""
    finite = [(score, place) for score, place in zip(scores, places, strict=True) if math.isfinite(score.value)]
    axes.errorbar(
        [score.value for score, _ in finite],
        [place for _, place in finite],
        xerr=[
            [score.value - score.low if math.isfinite(score.low) else 0.0 for score, _ in finite],
            [score.high - score.value if math.isfinite(score.high) else 0.0 for score, _ in finite],
        ],
        linestyle="",
        marker=marker,
        markersize=5,
        color=color,
        elinewidth=1.4,
        capsize=3,
        label=label,
    )


def _short(name: str, max_chars: int) -> str:
    """A name from outside, in one line that fits; it is no mathematics, whatever dollars it holds (`parse_math`)."""
    line = " ".join("".join(character if character.isprintable() else " " for character in name).split())
    return line if len(line) <= max_chars else f"{line[: max_chars - 1]}…"
