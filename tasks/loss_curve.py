"""The loss curve as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from tasks.metrics_file import read_metrics

_TRAIN, _HELD_OUT, _RATE = "#2a6fb0", "#c8501e", "#5a7d4e"
_SMOOTHING_SPAN_SHARE = 0.05  # of the run's steps: enough to see through a batch's noise in short and long runs alike


def loss_curve_picture(
    metrics_file: Path, destination_png: Path, *, title: str = "Pretraining", dpi: int = 120
) -> None:
    """Draw training loss (raw and smoothed), held-out loss and learning rate over the tokens seen, as a PNG.

    The picture is 9 x 6 inches of `dpi` pixels.

    Steps whose loss is not finite leave a gap and are marked. Raises ValueError where there is no step to draw.
    """
    rows = read_metrics(metrics_file)
    if not rows:
        raise ValueError(f"{metrics_file} holds no finished step yet: there is no curve to draw")
    tokens = [row["tokens"] for row in rows]
    losses = [row["loss"] for row in rows]
    held_out = [row for row in rows if math.isfinite(row.get("held_out_loss", math.nan))]
    diverged = [row["tokens"] for row in rows if not math.isfinite(row["loss"])]

    # No pyplot: its global state would outlive the picture in a long-lived worker.
    figure = Figure(figsize=(9, 6), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    loss_axes.plot(tokens, losses, color=_TRAIN, linewidth=0.7, alpha=0.35, label="training loss, each step")
    loss_axes.plot(tokens, _smoothed(losses), color=_TRAIN, linewidth=1.8, label="training loss, smoothed")
    if held_out:
        loss_axes.plot(
            [row["tokens"] for row in held_out],
            [row["held_out_loss"] for row in held_out],
            color=_HELD_OUT,
            marker="o",
            linewidth=1.0,
            label=f"held-out loss, {held_out[-1]['held_out_bits_per_byte']:.3f} bits per byte at the last point",
        )
    for position in diverged:
        loss_axes.axvline(position, color="black", linestyle=":", linewidth=1.2)
        loss_axes.annotate(
            "loss not finite", (position, 0.5), xycoords=("data", "axes fraction"), rotation=90, ha="right"
        )
    loss_axes.set_ylabel("loss (nats per token)")
    loss_axes.set_title(f"{title}: {rows[-1]['step']:,} steps, {_last_figures(rows)}")
    loss_axes.grid(alpha=0.25)
    loss_axes.legend(frameon=False)

    rate_axes.plot(tokens, [row["learning_rate"] for row in rows], color=_RATE, linewidth=1.4)
    rate_axes.set_ylabel("learning rate")
    rate_axes.set_ylim(bottom=0)
    rate_axes.set_xlabel("tokens seen")
    rate_axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    rate_axes.grid(alpha=0.25)
    destination_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination_png, format="png")


def _last_figures(rows: list[dict[str, Any]]) -> str:
    finite = [row["loss"] for row in rows if math.isfinite(row["loss"])]
    return f"loss {finite[0]:.2f} to {_smoothed(finite)[-1]:.2f}" if finite else "no finite loss"


def _smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average over about a twentieth of the run, without the bias of its first terms; gaps stay."""
    decay = 1 - 2 / (max(1.0, len(losses) * _SMOOTHING_SPAN_SHARE) + 1)
    average, weight = 0.0, 0.0
    smoothed = []
    for loss in losses:
        if math.isfinite(loss):
            average, weight = decay * average + (1 - decay) * loss, decay * weight + (1 - decay)
        smoothed.append(average / weight if math.isfinite(loss) else math.nan)
    return smoothed
