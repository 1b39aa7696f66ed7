"""Event files as TensorBoard reads them: checksums, steps, texts, and what a killed driver leaves behind."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.record_writer import masked_crc32c

from infra.tensorboard import TensorBoardLog, read_events
from tests.tasks.spike_records import HOSTILE, RECORD, suspect


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: points by tag, without those that a later restart at their step has dropped."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(folder):
        if event.HasField("session_log"):
            found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def texts(folder: Path) -> list[tuple[str, int, str]]:
    return [
        (value.tag, event.step, value.tensor.string_val[0].decode())
        for event in read_events(folder)
        for value in event.summary.value
        if value.HasField("tensor")
    ]


def row(step: int, loss: float = 2.5) -> dict[str, object]:
    return {"step": step, "loss": loss, "tokens": step * 1024}


def test_every_figure_of_a_row_is_shown_in_its_group(tmp_path: Path):
    full = {
        "step": 7,
        "tokens": 7168,
        "loss": 2.5,
        "held_out_loss": 2.25,
        "held_out_bits_per_byte": 1.5,
        "learning_rate": 0.001,
        "grad_norm": 1.25,
        "z_loss": None,
        "mfu": 0.5,
        "tokens_per_s": 1000.0,
        "data_s": 0.25,
        "peak_memory_bytes": 2**30,
        "batch_hash": "0123",
        "spike": True,
        "drawn": {"web": 4096, "books": 3072},
        "held_out/source/web": 1.75,
    }
    with TensorBoardLog(tmp_path) as log:
        log.rows([full])
    assert scalars(tmp_path) == {
        "run/tokens": [(7, 7168)],
        "loss/train": [(7, 2.5)],
        "loss/held_out": [(7, 2.25)],
        "held_out/bits_per_byte": [(7, 1.5)],
        "optimizer/learning_rate": [(7, pytest.approx(0.001))],
        "optimizer/grad_norm": [(7, 1.25)],
        "speed/mfu": [(7, 0.5)],
        "speed/tokens_per_s": [(7, 1000.0)],
        "time/data_s": [(7, 0.25)],
        "memory/peak_memory_bytes": [(7, 2**30)],
        "run/spike": [(7, 1.0)],
        "drawn/web": [(7, 4096)],
        "drawn/books": [(7, 3072)],
        "held_out/source/web": [(7, 1.75)],
    }


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_what_is_no_finite_number_is_left_out(tmp_path: Path, loss: float | None):
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(1), row(2) | {"loss": loss}, row(3)])
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [1, 3]


def test_the_records_are_whole_and_their_checksums_right(tmp_path: Path):
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(step) for step in range(1, 20)])
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name  # how TensorBoard knows them
    content, position, num_records = file.read_bytes(), 0, 0
    while position < len(content):
        (num_bytes,) = struct.unpack_from("<Q", content, position)
        data = content[position + 12 : position + 12 + num_bytes]
        assert struct.unpack_from("<I", content, position + 8)[0] == masked_crc32c(content[position : position + 8])
        assert struct.unpack_from("<I", content, position + 12 + num_bytes)[0] == masked_crc32c(data)
        position += 16 + num_bytes
        num_records += 1
    assert num_records == 1 + 19
    assert next(read_events(tmp_path)).file_version == "brain.Event:2"


def test_a_driver_that_goes_on_writes_what_is_new(tmp_path: Path):
    for last in (3, 5):
        with TensorBoardLog(tmp_path) as log:
            log.rows([row(step) for step in range(1, last + 1)])
    assert len(list(tmp_path.iterdir())) == 2
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("cut_bytes", [1, 15, 40])
def test_a_file_cut_by_a_kill_is_gone_on_with(tmp_path: Path, cut_bytes: int):
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(step) for step in range(1, 6)])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut_bytes])
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(step) for step in range(1, 7)])
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [1, 2, 3, 4, 5, 6]


def test_steps_that_are_taken_again_replace_the_earlier_ones(tmp_path: Path):
    """As after a rollback from step 5 to step 2; and a driver that goes on from there knows it."""
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(step) for step in range(1, 6)])
        log.rows([row(3, loss=1.0), row(4, loss=1.0)])
    expected = [(1, 2.5), (2, 2.5), (3, 1.0), (4, 1.0)]
    assert scalars(tmp_path)["loss/train"] == expected
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(1), row(2), row(3, loss=1.0), row(4, loss=1.0), row(5, loss=1.0)])
    assert scalars(tmp_path)["loss/train"] == [*expected, (5, 1.0)]


def test_texts_of_steps_that_are_taken_again_are_written_again(tmp_path: Path):
    """The samples of the new course, and every spike: also the one that began the rollback, which was taken back."""
    first, second = replace(RECORD, step=11), replace(RECORD, step=10, batch_hash="ffff")
    old, new = ({"prompt": "", "step": 10, "text": text} for text in ("old", "new"))
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(step) for step in range(1, 12)])
        log.samples([old])
        log.spikes([first])
        log.rows([row(step, loss=1.0) for step in range(9, 13)])
        log.samples([new])
        log.spikes([first, second])
    before = len(texts(tmp_path))
    with TensorBoardLog(tmp_path) as log:  # another driver that goes on adds nothing
        log.samples([new])
        log.spikes([first, second])
    assert len(texts(tmp_path)) == before
    shown: list[tuple[str, int]] = []
    for event in read_events(tmp_path):
        if event.HasField("session_log"):
            shown = [each for each in shown if each[1] < event.step]
        shown += [(value.tag.split("/")[0], event.step) for value in event.summary.value if value.HasField("tensor")]
    assert sorted(shown) == [("samples", 10), ("spikes", 10), ("spikes", 11)]
    assert "new" in [text for tag, _, text in texts(tmp_path) if tag.startswith("samples")][-1]


def test_samples_are_shown_once_a_step_without_markup(tmp_path: Path):
    rows = [
        {"step": step, "prompt": prompt, "text": f"text of {step} <b>*"} for step in (10, 20) for prompt in ("", "The ")
    ]
    for _ in range(2):
        with TensorBoardLog(tmp_path) as log:
            log.samples(rows[:2])
            log.samples(rows)
    found = texts(tmp_path)
    assert [(tag, step) for tag, step, _ in found] == [("samples/text_summary", 10), ("samples/text_summary", 20)]
    assert "text of 20 &lt;b&gt;\\*" in found[1][2] and "<b>" not in found[1][2]


def test_spikes_are_texts_and_do_not_count_as_steps(tmp_path: Path):
    record = replace(RECORD, documents=(suspect(1, HOSTILE),))
    with TensorBoardLog(tmp_path) as log:
        log.spikes([record])
        log.rows([row(1)])
    with TensorBoardLog(tmp_path) as log:
        log.spikes([record])
        log.rows([row(1), row(2)])
    assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [1, 2]
    ((tag, step, text),) = texts(tmp_path)
    assert (tag, step) == ("spikes/text_summary", record.step)
    assert "id-1" in text and "<img" not in text


def test_rows_reach_the_disk_while_the_log_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("infra.tensorboard.FLUSH_S", 0.0)
    with TensorBoardLog(tmp_path) as log:
        log.rows([row(1)])
        assert [step for step, _ in scalars(tmp_path)["loss/train"]] == [1]
