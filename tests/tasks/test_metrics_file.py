"""The loss curve's file: exact figures, no NaN in JSON, and cut at a checkpoint."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.metrics_file import (
    ROLLED_BACK_FILE,
    StepReport,
    drawn_tokens,
    metrics_line,
    read_metrics,
    roll_back_metrics,
    truncate_metrics,
)

REPORT = StepReport(
    step=1,
    batch=0,
    num_steps=9,
    tokens=64,
    loss=0.1 + 0.2,
    learning_rate=1e-3,
    grad_norm=2.0,
    tokens_per_s=3.5,
    times_s={"data_s": 0.25, "step_s": 0.5},
    peak_memory_bytes=7,
    batch_hash="ab",
)


def write(file: Path, num_lines: int, first_step: int = 1) -> list[bytes]:
    steps = range(first_step, first_step + num_lines)
    lines = [metrics_line(dataclasses.replace(REPORT, step=step)) for step in steps]
    file.write_bytes(b"".join(lines))
    return lines


def test_figures_survive_exactly(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(metrics_line(dataclasses.replace(REPORT, held_out=BitsPerByte(1.5, 2.25, 10, 30, 2))))
    assert read_metrics(file) == [
        {
            "step": 1,
            "batch": 0,
            "tokens": 64,
            "loss": 0.1 + 0.2,
            "learning_rate": 1e-3,
            "grad_norm": 2.0,
            "taken": True,
            "tokens_per_s": 3.5,
            "data_s": 0.25,
            "step_s": 0.5,
            "peak_memory_bytes": 7,
            "batch_hash": "ab",
            "held_out_bits_per_byte": 1.5,
            "held_out_loss": 2.25,
        }
    ]


def test_what_only_some_steps_have():
    report = dataclasses.replace(
        REPORT,
        taken=False,
        spike=True,
        mfu=0.5,
        z_loss=0.0,
        drawn_tokens={"web@1": 64, "books@2": 0},
        slices={"held_out/source/web": 1.25},
        checkpoint="somewhere",
    )
    values = json.loads(metrics_line(report))
    assert values.items() >= {"taken": False, "spike": True, "mfu": 0.5, "z_loss": 0.0, "drawn/books@2": 0}.items()
    assert (values["drawn/web@1"], values["held_out/source/web"]) == (64, 1.25)
    assert not {"num_steps", "checkpoint", "held_out", "slices", "times_s", "drawn_tokens"} & values.keys()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float):
    report = dataclasses.replace(REPORT, loss=value)
    assert json.loads(metrics_line(report))["loss"] is None
    (tmp_path / "m").write_bytes(metrics_line(report))
    assert math.isnan(read_metrics(tmp_path / "m")[0]["loss"])


@pytest.mark.parametrize("kept", [0, 1, 4, 5])
def test_truncated_at_a_step(tmp_path: Path, kept: int):
    lines = write(tmp_path / "m", 5)
    with (tmp_path / "m").open("ab") as file:
        file.write(b'{"step": 6, "tok')
    truncate_metrics(tmp_path / "m", kept)
    assert (tmp_path / "m").read_bytes() == b"".join(lines[:kept])


def test_what_was_drawn_is_the_last_step_s(tmp_path: Path):
    counts = ({"docs@1": 48, "news@1": 16}, {"docs@1": 96, "news@1": 32})
    lines = [metrics_line(dataclasses.replace(REPORT, step=step, drawn_tokens=of)) for step, of in enumerate(counts, 1)]
    (tmp_path / "m").write_bytes(b"".join(lines))
    assert drawn_tokens(tmp_path / "m") == counts[1]
    write(tmp_path / "m", 2)
    assert drawn_tokens(tmp_path / "m") == drawn_tokens(tmp_path / "none") == {}


def test_a_new_run_starts_an_empty_file(tmp_path: Path):
    truncate_metrics(tmp_path / "m", 0)
    assert (tmp_path / "m").read_bytes() == b""


def test_missing_lines_are_refused(tmp_path: Path):
    lines = write(tmp_path / "m", 5)
    with pytest.raises(ValueError, match="does not hold the steps 1 to 6"):
        truncate_metrics(tmp_path / "m", 6)
    (tmp_path / "m").write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(ValueError, match="does not hold the steps 1 to 4"):
        truncate_metrics(tmp_path / "m", 4)
    (tmp_path / "m").write_bytes(b"".join(lines)[:-1])
    with pytest.raises(ValueError, match="does not hold the steps 1 to 5"):
        truncate_metrics(tmp_path / "m", 5)


def test_a_curve_that_begins_later(tmp_path: Path):
    lines = write(tmp_path / "m", 3, first_step=7)
    truncate_metrics(tmp_path / "m", 8, first_step=7)
    assert (tmp_path / "m").read_bytes() == b"".join(lines[:2])
    truncate_metrics(tmp_path / "m", 6, first_step=7)
    assert (tmp_path / "m").read_bytes() == b""
    write(tmp_path / "m", 3, first_step=7)
    with pytest.raises(ValueError, match="does not hold the steps 6 to 8"):
        truncate_metrics(tmp_path / "m", 8, first_step=6)


def test_what_is_rolled_back_is_kept_elsewhere(tmp_path: Path):
    lines = write(tmp_path / "m", 5)
    with (tmp_path / "m").open("ab") as file:
        file.write(b'{"step": 6, "tok')
    roll_back_metrics(tmp_path / "m", 3)
    assert (tmp_path / "m").read_bytes() == b"".join(lines[:3])
    assert (tmp_path / ROLLED_BACK_FILE).read_bytes() == b"".join(lines[3:])
    roll_back_metrics(tmp_path / "m", 0)
    assert (tmp_path / ROLLED_BACK_FILE).read_bytes() == b"".join(lines[3:] + lines[:3])
    with pytest.raises(ValueError, match="does not hold the steps 1 to 1"):
        roll_back_metrics(tmp_path / "m", 1)
