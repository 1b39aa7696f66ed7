"""The tables that a person at a terminal gets at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flows.console import preview_lines, spike_line, training_lines
from tests.tasks.spike_records import RECORD

PREVIEWED: dict[str, Any] = {"records": 9, "documents": 8, "kept": 4, "rules": []}


def compared(scored_again: list[str], unseen: list[str]) -> str:
    changes = {"kept_before": 3, "gained": ["a"], "lost": [], "scored_again": scored_again, "unseen": unseen}
    return preview_lines({**PREVIEWED, "comparison": changes})[-1]


def test_a_preview_says_what_changed_settings_made_necessary() -> None:
    assert compared([], []) == "Only limits have changed: nothing was scored again."
    assert compared(["fineweb"], []).endswith(": fineweb had to be done again.")
    assert compared([], ["guard"]).endswith("nothing was scored again. A preview ends before what guard decides.")
    assert preview_lines(PREVIEWED)[-1].startswith("kept")


TRAINED: dict[str, Any] = {
    "model": "docs@1",
    "num_parameters": 800,
    "tokens": 47_104,
    "steps": 58,
    "loss": 6.2685,
    "bits_per_byte": 2.5,
    "loss_curve": "/r/loss_curve.png",
    "checkpoint": "/r/checkpoints/step-00000058",
}


def test_a_training_says_its_spikes_and_does_not_count_what_was_left_out() -> None:
    calm = training_lines(TRAINED)
    assert calm[1] == "trained on       47,104 tokens in 58 steps, loss 6.2685"
    assert not any("spike" in line for line in calm)
    spikes = {"spikes": 3, "spikes_file": "/r/spikes.jsonl", "worst_document": "http://a.org/\x1b[31m\nb"}
    lines = training_lines({**TRAINED, **spikes, "steps_left_out": 12})
    assert lines[1] == "trained on       47,104 tokens in 46 steps (12 more were left out), loss 6.2685"
    assert lines[2] == "loss spikes      3, see /r/spikes.jsonl; worst document: http://a.org/ [31m b"


def test_a_spike_is_one_line_as_it_comes() -> None:
    line = "step 1,234: spike, loss 5.250 (usually 2.000); policy skip: the step was not taken"
    assert spike_line(RECORD) == line
    broken = spike_line(replace(RECORD, loss=None, usual_loss=None, policy="alert", step_taken=True))
    assert broken == "step 1,234: spike, loss not finite; policy alert: the step was taken"
