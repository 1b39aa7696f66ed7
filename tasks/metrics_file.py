"""`metrics.jsonl`: one line per optimizer step, the loss curve as data.

A line holds step, batch (the number of its batch in the order of the data, from 0), tokens, loss (nats per token),
learning_rate, grad_norm, taken (whether the weights moved), tokens_per_s, mfu where the device's peak is known, where
the time went (`tasks.training.timings`), peak_memory_bytes and batch_hash; with a z-loss, z_loss; of several corpora
what was drawn of each so far ("drawn/<corpus>", in tokens); spike where the step was one; where the step had a held-out
evaluation, held_out_bits_per_byte, held_out_loss and the slices' bits per byte. A figure that is not finite is null:
JSON has no NaN.

Lines that a rollback takes back go to `metrics_rolled_back.jsonl`. Step numbers then repeat, numbers of batches do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.atomic import write_file
from tasks.evaluation.bits_per_byte import BitsPerByte

METRICS_FILE, ROLLED_BACK_FILE = "metrics.jsonl", "metrics_rolled_back.jsonl"
_DRAWN = "drawn/"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step. The same in every process, but for times and memory."""

    step: int  # counted from 1
    batch: int  # from 0
    num_steps: int
    tokens: int  # of all steps up to this one
    loss: float  # mean over the step's tokens, nats per token
    learning_rate: float
    grad_norm: float  # before clipping
    taken: bool = True
    tokens_per_s: float  # of the step alone, without evaluation, checkpoint and tracking
    mfu: float | None = None
    times_s: Mapping[str, float] = field(default_factory=dict)  # by name: data_s, compute_s, ...
    peak_memory_bytes: int
    batch_hash: str
    z_loss: float | None = None
    drawn_tokens: Mapping[str, int] = field(default_factory=dict)  # by corpus, where there are several
    spike: bool = False
    held_out: BitsPerByte | None = None  # where this step had an evaluation
    slices: Mapping[str, float] = field(default_factory=dict)  # bits per byte by metric's name, likewise
    checkpoint: str | None = None  # where this step made one


def metrics_line(report: StepReport) -> bytes:
    """The step's line, with its end."""
    values: dict[str, Any] = {}
    for name, value in asdict(report).items():
        if name in ("times_s", "slices"):
            values |= value
        elif name == "drawn_tokens":
            values |= {f"{_DRAWN}{corpus}": tokens for corpus, tokens in value.items()}
        elif name == "held_out":
            if report.held_out is not None:
                values["held_out_bits_per_byte"] = report.held_out.bits_per_byte
                values["held_out_loss"] = report.held_out.loss_nats_per_token
        elif name not in ("num_steps", "checkpoint") and value is not None and (name != "spike" or value):
            values[name] = value
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return (json.dumps(values, allow_nan=False) + "\n").encode()


def read_metrics(metrics_file: Path) -> list[dict[str, Any]]:
    """All complete lines; null becomes NaN. A last line that is still being written is left out."""
    lines = _complete_lines(metrics_file)
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def drawn_tokens(metrics_file: Path) -> dict[str, int]:
    """What the run was trained on by its last step, of each corpus; empty where there is one corpus."""
    rows = read_metrics(metrics_file)
    last = rows[-1] if rows else {}
    return {name.removeprefix(_DRAWN): tokens for name, tokens in last.items() if name.startswith(_DRAWN)}


def truncate_metrics(metrics_file: Path, last_step: int, *, first_step: int = 1) -> None:
    """Keep the lines of the steps `first_step` to `last_step`: what came after is about to be computed again.

    A last line without its end, from a killed process, goes too. Raises ValueError where lines are missing.
    """
    write_file(metrics_file, b"".join(_split(metrics_file, first_step, last_step)[0]))


def roll_back_metrics(metrics_file: Path, last_step: int, *, first_step: int = 1) -> None:
    """`truncate_metrics` that adds the other lines to `metrics_rolled_back.jsonl`, first."""
    kept, taken_back = _split(metrics_file, first_step, last_step)
    rolled_back = metrics_file.with_name(ROLLED_BACK_FILE)
    before = rolled_back.read_bytes() if rolled_back.is_file() else b""
    write_file(rolled_back, before + b"".join(taken_back))
    write_file(metrics_file, b"".join(kept))


def _split(metrics_file: Path, first_step: int, last_step: int) -> tuple[list[bytes], list[bytes]]:
    """The lines of these steps, and the complete ones after them."""
    lines = _complete_lines(metrics_file)
    num_steps = last_step - first_step + 1
    if [json.loads(line)["step"] for line in lines[:num_steps]] != list(range(first_step, last_step + 1)):
        raise ValueError(
            f"{metrics_file} does not hold the steps {first_step} to {last_step} that its checkpoint was made after: "
            "restore the file, or start a new run"
        )
    return lines[:num_steps], lines[num_steps:]


def _complete_lines(metrics_file: Path) -> list[bytes]:
    content = metrics_file.read_bytes() if metrics_file.is_file() else b""
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
