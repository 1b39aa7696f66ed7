"""What a folder says of itself: complete or not, good or not, of this program or an earlier one."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoints import (
    CheckpointState,
    checkpoint_folder,
    checkpoint_step,
    complete_checkpoints,
    latest_checkpoint,
    read_state,
)
from tasks.checkpoints.state import StoredFile, state_json
from tests.tasks.checkpoints.tiny_training import HELD_OUT, state_at


def folder_with(location: Path, body: Any, *, step: int = 7, weights: bytes = b"weights") -> Path:
    folder = location / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "state.json").write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    return folder


def mark(state: CheckpointState, num_bytes: int = 7) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(state_json(state, {"model.safetensors": StoredFile(num_bytes=num_bytes)}))
    return body


def test_a_state_comes_back_from_json_without_nan(tmp_path: Path):
    state = state_at(3, spikes={"losses": [2.5]}, skipped=((0, 4), (9, 9)), mixture=({"corpus": "web"},), world_size=4)
    content = state_json(state, {})
    json.loads(content, parse_constant=lambda name: pytest.fail(name))
    assert CheckpointState.model_validate(json.loads(content)["state"]) == state
    assert read_state(folder_with(tmp_path, mark(state))) == state


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_makes_no_state(loss: float):
    with pytest.raises(ValueError, match="finite"):
        state_at(2, loss=loss)


def test_good_is_finite_and_evaluated():
    assert state_at(2).good
    assert not state_at(2, good=False).good
    for value in (math.nan, math.inf):
        broken = dataclasses.replace(HELD_OUT, bits_per_byte=value)
        assert not state_at(2).model_copy(update={"held_out": broken}).good


def test_steps_and_folders(tmp_path: Path):
    assert checkpoint_folder(tmp_path, 100) == str(tmp_path / "step-00000100")
    assert checkpoint_folder("s3://bucket/runs/a/", 123_456_789) == "s3://bucket/runs/a/step-123456789"
    assert checkpoint_folder(f"file://{tmp_path}", 1) == str(tmp_path / "step-00000001")
    for folder in (tmp_path / "step-00000100", "s3://bucket/step-00000100", "s3://bucket/step-00000100/"):
        assert checkpoint_step(folder) == 100


def test_an_empty_or_missing_folder_holds_no_checkpoint(tmp_path: Path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "step-00000007").mkdir()
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match=r"step-00000007 is no complete checkpoint"):
        read_state(tmp_path / "step-00000007")


def test_order_is_by_step_and_other_names_are_passed_over(tmp_path: Path):
    for step in (100_000_000, 99_999_999, 5):
        folder_with(tmp_path, mark(state_at(step)), step=step)
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-00000008.bak").mkdir()
    assert [checkpoint_step(folder) for folder in complete_checkpoints(tmp_path)] == [5, 99_999_999, 100_000_000]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'"files"',
        b'{"state": {}}',
        {"state": {}, "files": []},
        {"state": {}, "files": {"model.safetensors": 7}},
        {"state": {}, "files": {"model.safetensors": {"num_bytes": 6}}},
        {"state": {}, "files": {"model.safetensors": {"num_bytes": -1}}},
        {"state": {}, "files": {"model.safetensors": {"num_bytes": 7, "sha256": "short"}}},
        {"state": {}, "files": {"../step-00000007/model.safetensors": {"num_bytes": 7}}},
        {"state": {}, "files": {"state.json": {"num_bytes": 7}}},
        {"state": {}, "file_bytes": {"model.safetensors": 6}},
        {"state": {}, "file_bytes": None},
        {"state": {}, "files": {}},
        {"files": {"model.safetensors": {"num_bytes": 7}}},
        {"state": [], "files": {"model.safetensors": {"num_bytes": 7}}},
        {"state": {}, "files": {"optimizer.safetensors": {"num_bytes": 7}}},
        b"[" * 200_000,
    ],
)
def test_a_mark_that_is_damaged_is_none(tmp_path: Path, body: Any):
    folder = folder_with(tmp_path, body)
    assert complete_checkpoints(tmp_path) == []
    with pytest.raises(ValueError, match="no complete checkpoint"):
        read_state(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"step": 0}, "step: "), ({"moon": 1}, "moon: "), ({"held_out": {"bits_per_byte": "x"}}, "held_out")],
)
def test_a_state_of_another_program_is_one_line(tmp_path: Path, change: dict[str, Any], message: str):
    body = mark(state_at(7))
    folder = folder_with(tmp_path, body | {"state": body["state"] | change})
    with pytest.raises(
        ValueError, match=rf"state\.json is damaged or of another program version: .*{message}"
    ) as caught:
        read_state(folder)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_before_names_one_corpus_and_sizes_alone(tmp_path: Path):
    state = mark(state_at(7))["state"]
    for name in ("tokens_digests", "world_size", "spikes", "skipped", "mixture"):
        del state[name]
    folder = folder_with(
        tmp_path, {"state": state | {"tokens_digest": "d" * 64}, "file_bytes": {"model.safetensors": 7}}
    )
    assert read_state(folder) == state_at(7, tokens_digests=("d" * 64,))
    assert complete_checkpoints(tmp_path) == [str(folder)]
