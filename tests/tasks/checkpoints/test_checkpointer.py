"""One process: what is saved comes back bit for bit, while training goes on, and errors are never lost."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from model.config import DecoderConfig
from model.optimizer import OptimizerKind
from tasks.checkpoints import Checkpointer, checkpoint_step, complete_checkpoints, latest_checkpoint, read_state
from tasks.checkpoints.places import LocalPlace
from tests.tasks.checkpoints.tiny_training import (
    SHAPE,
    Training,
    advance,
    assert_equal,
    built,
    everything,
    state_at,
    trained,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def saver(location: Path, training: Training, keep: int = 2) -> Checkpointer:
    return Checkpointer(location, *training, keep=keep)


def saved(location: Path, training: Training, step: int = 2, keep: int = 2) -> str:
    return saver(location, training, keep).save(state_at(step), wait=True)


def steps_in(location: Path) -> list[int]:
    return [checkpoint_step(folder) for folder in complete_checkpoints(location)]


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are not written until the event is set."""
    gate, write = threading.Event(), LocalPlace.writing

    @contextmanager
    def waits(self: LocalPlace, name: str) -> Iterator[Path]:
        assert gate.wait(30)
        with write(self, name) as file:
            yield file

    monkeypatch.setattr(LocalPlace, "writing", waits)
    try:
        yield gate
    finally:
        gate.set()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_everything_comes_back_and_training_continues_bit_for_bit(tmp_path: Path, kind: OptimizerKind, tied: bool):
    shape = DecoderConfig.from_dict(SHAPE.to_dict() | {"tie_embeddings": tied})
    training = trained(1, kind, shape=shape)
    spikes = {"window": [1.5, 2.5], "calm": 3}
    state = state_at(2, spikes=spikes, skipped=((4, 6),), mixture=({"corpus": "web", "weight": 1.0},))
    folder = saver(tmp_path, training).save(state, wait=True)
    expected = [advance(*training) for _ in range(3)]

    other = built(2, kind, shape=shape)
    loaded = saver(tmp_path, other).load(folder)
    assert loaded == state
    assert [advance(*other) for _ in range(3)] == expected
    assert_equal(everything(*other), everything(*training))


def test_saving_again_and_going_back_are_one_course(tmp_path: Path):
    """A rollback: the same objects load what they once were, after more steps and a pass without gradients."""
    training = trained(1)
    with saver(tmp_path, training) as checkpoints:
        folder = checkpoints.save(state_at(2))
        expected = [advance(*training) for _ in range(2)]
        checkpoints.save(state_at(4))
        with torch.no_grad():
            training[0](torch.zeros(1, 4, dtype=torch.int64))
        assert checkpoints.load(folder).step == 2
        assert [advance(*training) for _ in range(2)] == expected
        checkpoints.save(state_at(4))
    assert steps_in(tmp_path) == [2, 4]


def test_training_goes_on_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = trained(1)
    checkpoints = saver(tmp_path, training)
    with held_up(monkeypatch) as gate:
        expected = everything(*training)
        folder = checkpoints.save(state_at(2))
        advance(*training)
        assert complete_checkpoints(tmp_path) == []
        gate.set()
        checkpoints.finish()
    other = built(2)
    saver(tmp_path, other).load(folder)
    assert_equal(everything(*other), expected)


def test_the_next_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = trained(1)
    checkpoints = saver(tmp_path, training)
    with held_up(monkeypatch) as gate:
        checkpoints.save(state_at(1))
        released = threading.Timer(0.2, gate.set)
        released.start()
        checkpoints.save(state_at(2))
        assert gate.is_set()
        assert steps_in(tmp_path)[:1] == [1]
        checkpoints.finish()
    assert steps_in(tmp_path) == [1, 2]


def test_leaving_the_block_waits_for_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with held_up(monkeypatch) as gate, saver(tmp_path, trained(1)) as checkpoints:
        checkpoints.save(state_at(1))
        threading.Timer(0.2, gate.set).start()
    assert steps_in(tmp_path) == [1]


def blocked(location: Path) -> Path:
    """A place where nothing can be written: its folder is a file."""
    location.write_text("in the way")
    return location


@pytest.mark.parametrize("moment", ["save", "finish", "latest"])
def test_an_error_of_the_writer_is_raised_by_what_comes_next(tmp_path: Path, moment: str):
    training = trained(1)
    checkpoints = saver(blocked(tmp_path / "taken"), training)
    checkpoints.save(state_at(1))
    calls = {"save": lambda: checkpoints.save(state_at(2)), "finish": checkpoints.finish, "latest": checkpoints.latest}
    with pytest.raises(ValueError, match=r"saving .*taken/step-00000001 failed: .*taken") as caught:
        calls[moment]()
    assert "\n" not in str(caught.value)
    checkpoints.finish()  # told once


def test_an_error_of_the_writer_never_hides_what_ended_the_block(tmp_path: Path):
    def diverges() -> None:
        with saver(blocked(tmp_path / "taken"), trained(1)) as checkpoints:
            checkpoints.save(state_at(1))
            raise ZeroDivisionError("the loss")

    with pytest.raises(ZeroDivisionError) as caught:
        diverges()
    assert "was not saved" in caught.value.__notes__[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "optimizer"])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, value: float, where: str):
    model, optimizer = trained(1)
    good = saved(tmp_path, (model, optimizer), keep=1)
    weight = model.blocks[1].feed_forward.up.weight  # type: ignore[union-attr]
    with torch.no_grad():
        (weight if where == "weight" else optimizer.state[weight]["exp_avg"])[3, 4] = value
    named = {"weight": "parameter blocks", "optimizer": "optimizer state blocks"}[where]
    with pytest.raises(ValueError, match=rf"{named}\.1\.feed_forward\.up\.weight.* is not finite after step 3"):
        saved(tmp_path, (model, optimizer), step=3, keep=1)
    assert complete_checkpoints(tmp_path) == [good]


def test_retention_keeps_the_newest(tmp_path: Path):
    training = trained(1)
    with saver(tmp_path, training, keep=2) as checkpoints:
        for step in (1, 2, 10, 9_999_999, 123_456_789):
            checkpoints.save(state_at(step))
    assert [Path(folder).name for folder in complete_checkpoints(tmp_path)] == ["step-09999999", "step-123456789"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("good_steps", "kept"),
    [({1}, [1, 4, 5]), ({1, 2}, [2, 4, 5]), ({1, 4}, [4, 5]), ({1, 2, 5}, [4, 5]), (set(), [4, 5])],
)
def test_the_last_good_one_is_never_removed(tmp_path: Path, good_steps: set[int], kept: list[int]):
    training = trained(1)
    with saver(tmp_path, training, keep=2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(state_at(step, good=step in good_steps))
        found = checkpoints.latest(good_only=True)
    assert steps_in(tmp_path) == kept
    assert found == (str(tmp_path / f"step-{max(good_steps):08d}") if good_steps else None)
    assert latest_checkpoint(tmp_path, good_only=True) == found


@pytest.mark.parametrize(("step", "kept"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3])])
def test_what_came_after_a_rollback_is_given_up(tmp_path: Path, step: int, kept: list[int]):
    with saver(tmp_path, trained(1), keep=3) as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(state_at(number))
        checkpoints.discard_after(step)
        assert steps_in(tmp_path) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_ff": 64}, r"parameter blocks\.0\.feed_forward\.gate\.weight has the shape \(48, 32\), .* \(64, 32\)"),
        ({"vocab_size": 128}, r"parameter embedding\.weight has the shape \(66, 32\)"),
        ({"num_layers": 3}, r"no parameter blocks\.2\."),
        ({"num_layers": 1}, r"parameter blocks\.1\..* is not part"),
        ({"qk_norm": False}, r"parameter blocks\.0\..* is not part"),
    ],
)
def test_another_shape_is_refused_by_name(tmp_path: Path, change: dict[str, int], message: str):
    folder = saved(tmp_path, trained(1))
    other = built(2, shape=DecoderConfig.from_dict(SHAPE.to_dict() | change))
    before = everything(*other)
    with pytest.raises(ValueError, match=message):
        saver(tmp_path, other).load(folder)
    assert_equal(everything(*other), before)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, file: str, damage: str):
    training = trained(1)
    good = saved(tmp_path, training, step=1, keep=3)
    bad = saved(tmp_path, training, step=2, keep=3)
    checkpoints = saver(tmp_path, training, keep=3)
    assert checkpoints.latest() == bad
    if damage == "removed":
        Path(bad, file).unlink()
    else:
        Path(bad, file).write_bytes(Path(bad, file).read_bytes()[:-10])
    assert checkpoints.latest() == good
    with pytest.raises(ValueError, match="no complete checkpoint"):
        checkpoints.load(bad)
    # the run comes to this step again: the damaged one gives way
    checkpoints.save(state_at(2), wait=True)
    assert checkpoints.load(bad).step == 2
    Path(bad, "state.json").unlink()
    # the damaged one does not count towards those that are kept
    saved(tmp_path, training, step=3, keep=2)
    assert steps_in(tmp_path) == [1, 3]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("at", [3, 40, -5], ids=["length", "header", "weights"])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, file: str, at: int):
    training = trained(1)
    folder = saved(tmp_path, training)
    content = bytearray(Path(folder, file).read_bytes())
    content[at] ^= 1
    Path(folder, file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is damaged: remove its folder"):
        saver(tmp_path, training).load(folder)


def test_start_removes_garbage_and_nothing_else(tmp_path: Path):
    training = trained(1)
    good = saved(tmp_path, training, step=1)
    killed, foreign = tmp_path / "step-00000002", tmp_path / "step-00000003"
    for folder in (killed, foreign, tmp_path / ".tmp-step-00000004-1a2b3c4d", tmp_path / "step-00000005"):
        folder.mkdir()
    for name in ("model-00001-of-00002.safetensors", "optimizer.safetensors", ".tmp-state.json-1a2b3c4d"):
        (killed / name).write_bytes(b"cut")
    (foreign / "model.safetensors").write_bytes(b"")
    (foreign / "weights.pt").write_bytes(b"of another program")
    (tmp_path / "step-00000001.txt").write_text("notes")
    saver(tmp_path, training).start()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000001.txt", "step-00000003"]
    assert complete_checkpoints(tmp_path) == [good]


def test_no_pickle_in_the_folder(tmp_path: Path):
    folder = Path(saved(tmp_path, trained(1)))
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]
    for name in names[:2]:  # 8 bytes of length, then JSON
        content = (folder / name).read_bytes()
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_tied_weights_are_stored_once(tmp_path: Path):
    model, optimizer = trained(1)
    stored_bytes = Path(saved(tmp_path, (model, optimizer)), "model.safetensors").stat().st_size
    weights_bytes = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert weights_bytes < stored_bytes < weights_bytes + 4096


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import tasks.checkpoints.checkpointer as checkpointer
from tasks.checkpoints.places import LocalPlace
from tests.tasks.checkpoints.tiny_training import state_at, trained

location, moment = sys.argv[1:]
write, remove, mark = checkpointer.write_pieces, LocalPlace.remove, LocalPlace.write

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def writes(file, *arguments):
    stored = write(file, *arguments)
    if file.name == moment:
        die()
    return stored

def marks(self, name, content):
    if moment == "before the mark":
        die()
    mark(self, name, content)

def removes(self):
    if moment == "retention" and self.address.endswith("step-00000001"):
        die()
    remove(self)

checkpointer.write_pieces, LocalPlace.remove, LocalPlace.write = writes, removes, marks
checkpointer.Checkpointer(location, *trained(1), keep=1).save(state_at(2), wait=True)
"""


@pytest.mark.parametrize(
    ("moment", "survivors"),
    [
        ("model.safetensors", [1]),
        ("before the mark", [1]),
        ("retention", [2]),
    ],
)
def test_killed_while_saving_leaves_a_good_checkpoint_and_garbage(tmp_path: Path, moment: str, survivors: list[int]):
    training = trained(1)
    saved(tmp_path, training, step=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path), moment],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert [read_state(folder).step for folder in complete_checkpoints(tmp_path)] == survivors
    checkpoints = saver(tmp_path, training)
    checkpoints.start()
    folders = complete_checkpoints(tmp_path)
    assert sorted(str(path) for path in tmp_path.iterdir()) == folders
    assert [checkpoints.load(folder).step for folder in folders] == survivors


def test_many_saves_in_a_row_leave_the_last_state_and_no_thread(tmp_path: Path):
    training = trained(1)
    with saver(tmp_path, training, keep=1) as checkpoints:
        for step in range(1, 21):
            advance(*training)
            expected = everything(*training)
            checkpoints.save(state_at(step))
    assert [thread.name for thread in threading.enumerate() if thread.name == "checkpoint"] == []
    assert steps_in(tmp_path) == [20]
    other = built(2)
    saver(tmp_path, other).load(tmp_path / "step-00000020")
    assert_equal(everything(*other), expected)
