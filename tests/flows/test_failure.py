"""What a failed run shows as the way on: the same command where that helps, and only there."""

from __future__ import annotations

from flows.failure import DivergedError, failure_markdown
from flows.user_error import user_line
from tasks.ports import ShardError
from tasks.store import InUseError

RETRY = "tokenmill pretrain --corpus web@1"
SKIPPING = "tokenmill pretrain --corpus web@1 --resume-from abc --set spikes.policy=skip"


def test_after_a_divergence_it_is_the_command_that_skips() -> None:
    error = DivergedError("step 7 is broken. The documents are in /r/spikes.jsonl", SKIPPING)
    text = failure_markdown(error, "train", RETRY, can_retry_run=True)
    assert f"    {SKIPPING}" in text.splitlines() and f"    {RETRY}" not in text.splitlines()
    assert "Retry" not in text
    line = user_line(error)
    assert line is not None and "/r/spikes.jsonl" in line and line.endswith(f"To go on: {SKIPPING}")


def test_what_was_refused_is_not_to_be_run_unchanged() -> None:
    for error in (ValueError("holds fewer tokens than one batch"), DivergedError("ten steps in a row")):
        text = failure_markdown(error, "train", RETRY, can_retry_run=True)
        assert "first do what that line says: with nothing changed it ends in the same way" in text
        assert f"    {RETRY}" in text.splitlines() and "Retry" not in text
    assert "do what that line says" in failure_markdown(ValueError("x"), "train", "", can_retry_run=False)


def test_what_broke_or_was_in_use_is_tried_again() -> None:
    for error in (RuntimeError("x"), ShardError("extract", 1, "x"), InUseError("in use"), OSError("gone")):
        text = failure_markdown(error, "train", RETRY, can_retry_run=True)
        assert "press *Retry* on this page, or run" in text and f"    {RETRY}" in text.splitlines()
