"""`metrics.jsonl`: one line per optimizer step, the loss curve as data.

A line holds step, tokens, loss (nats per token), learning_rate, grad_norm, tokens_per_s and batch_hash; where the step
had a held-out evaluation also held_out_bits_per_byte and held_out_loss. A figure that is not finite, with which a run
ends, is null: JSON has no NaN.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import write_file
from tasks.evaluation.bits_per_byte import BitsPerByte

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step. The same in every process."""

    step: int  # counted from 1
    num_steps: int
    tokens: int  # trained on so far
    loss: float  # mean over the step's tokens, nats per token
    learning_rate: float
    grad_norm: float  # before clipping
    tokens_per_s: float  # of the step alone, without evaluation and checkpoint
    batch_hash: str
    held_out: BitsPerByte | None = None  # where this step had an evaluation
    checkpoint: Path | None = None  # where this step made one

    @property
    def finite(self) -> bool:
        figures = [self.loss, self.grad_norm] + ([self.held_out.bits_per_byte] if self.held_out else [])
        return all(math.isfinite(figure) for figure in figures)


def metrics_line(report: StepReport) -> bytes:
    """The step's line, with its end."""
    values: dict[str, Any] = asdict(report)
    del values["num_steps"], values["checkpoint"], values["held_out"]
    if report.held_out is not None:
        values["held_out_bits_per_byte"] = report.held_out.bits_per_byte
        values["held_out_loss"] = report.held_out.loss_nats_per_token
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return (json.dumps(values, allow_nan=False) + "\n").encode()


def read_metrics(metrics_file: Path) -> list[dict[str, Any]]:
    """All complete lines; null becomes NaN. A last line that is still being written is left out."""
    lines = metrics_file.read_bytes().splitlines(keepends=True)
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def truncate_metrics(metrics_file: Path, num_steps: int) -> None:
    """Keep the lines of the first `num_steps` steps: what came after the checkpoint is about to be computed again.

    A last line without its end, from a killed process, goes too. Raises ValueError where lines are missing.
    """
    content = metrics_file.read_bytes() if metrics_file.is_file() else b""
    lines = content.splitlines(keepends=True)[:num_steps]
    if [json.loads(line)["step"] for line in lines if line.endswith(b"\n")] != list(range(1, num_steps + 1)):
        raise ValueError(
            f"{metrics_file} does not hold the steps 1 to {num_steps} that its checkpoint was made after: restore the "
            "file, or start a new run"
        )
    write_file(metrics_file, b"".join(lines))
