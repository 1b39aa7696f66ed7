"""A run's figures as TensorBoard reads them: one folder of event files, written by one process.

The driver writes, from what rank 0 puts into the run's files (metrics, samples, spikes); training waits for none of it.
Events gather in the file's buffer and reach the disk every few seconds. Where a run goes on, the folder says how far it
came, and steps that it has with the same loss are not written again. Steps that are taken again otherwise (a rollback,
another policy) replace the earlier ones: the file says so as TensorFlow does after a restart, and TensorBoard drops
them.

The format is TensorFlow's: records of length, checksum, data, checksum, each an `Event`. tensorboardX, which comes with
Ray, writes them; TensorBoard itself is needed only to look at them.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from tasks.markdown import markdown_quotes
from tasks.spike_documents import SpikeRecord
from tasks.spike_file import spikes_markdown

TENSORBOARD_FOLDER = "tensorboard"
FLUSH_S = 5.0
"""The most that a killed driver loses; the next one writes it again."""

_TAGS = {
    "loss": "loss/train",
    "held_out_loss": "loss/held_out",
    "z_loss": "loss/z_loss",
    "held_out_bits_per_byte": "held_out/bits_per_byte",
    "learning_rate": "optimizer/learning_rate",
    "grad_norm": "optimizer/grad_norm",
    "tokens_per_s": "speed/tokens_per_s",
    "mfu": "speed/mfu",
}
_SAMPLES, _SPIKES = "samples", "spikes"
_TEXT_SUFFIX = "/text_summary"  # tensorboardX adds it
_Text = tuple[str, int, str]  # tag, step, Markdown


class TensorBoardLog:
    """The folder of one run. Use it in a `with` block, or close it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._losses, self._texts = _known(folder)
        self._last_step = max(self._losses, default=0)
        # a name of its own: tensorboardX names files by the second and would overwrite one of the same
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed_at = time.monotonic()

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of the metrics file, in the order in which they were written. What is no finite number is left out."""
        for row in rows:
            step, loss = row["step"], _single(row["loss"])
            if step in self._losses and self._losses[step] == loss:
                continue
            if step <= self._last_step:
                self._write(Event(session_log=SessionLog(status=SessionLog.START)), step)
                self._losses = {known: value for known, value in self._losses.items() if known < step}
                self._texts = _before(step, self._texts)
            self._losses[step], self._last_step = loss, step
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(row)]
            self._write(Event(summary=Summary(value=values)), step)
        self._flush_when_due()

    def samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What the network wrote (`tasks.samples`), one text for each step that had an evaluation."""
        by_step: dict[int, list[tuple[str, str]]] = {}
        for row in rows:
            by_step.setdefault(row["step"], []).append((row["prompt"], row["text"]))
        for step, pairs in sorted(by_step.items()):
            self._text(_SAMPLES, markdown_quotes(pairs), step)
        self._flush_when_due()

    def spikes(self, records: Iterable[SpikeRecord]) -> None:
        """The record of each spike as a text at its step; hand over all there are, also those taken back by now."""
        for record in records:
            self._text(_SPIKES, spikes_markdown([record]), record.step)
        self._flush_when_due()

    def _text(self, tag: str, markdown: str, step: int) -> None:
        """Once: the callers hand over all that there is."""
        if (tag, step, markdown) not in self._texts:
            self._texts.add((tag, step, markdown))
            self._write(Event(summary=text(tag, markdown)), step)

    def _write(self, event: Event, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        self._writer.write_event(event)

    def _flush_when_due(self) -> None:
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self._writer.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tags in groups, which TensorBoard folds: `time/data_s`, `memory/peak_memory_bytes`, `drawn/<corpus>`."""
    for name, value in row.items():
        if name == "step":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", float(each)) for key, each in value.items() if _is_number(each))
        elif _is_number(value):
            yield _tag(name), float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _tag(name: str) -> str:
    if name in _TAGS or "/" in name:
        return _TAGS.get(name, name)
    groups = {"_s": "time", "_bytes": "memory"}
    return next((f"{group}/{name}" for suffix, group in groups.items() if name.endswith(suffix)), f"run/{name}")


def read_events(folder: Path) -> Iterator[Event]:
    """All events of a folder, file by file in the order of names, which is TensorBoard's.

    A file ends where its writer was killed.
    Checksums are TensorBoard's business: only whole records count, and those are ours.
    """
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        position = 0
        while position + 12 <= len(content):
            (num_bytes,) = struct.unpack_from("<Q", content, position)
            start, end = position + 12, position + 12 + num_bytes
            if end + 4 > len(content):
                break
            yield Event.FromString(content[start:end])
            position = end + 4


def _known(folder: Path) -> tuple[dict[int, float | None], set[_Text]]:
    """The steps that an earlier driver wrote, with their losses, and its texts."""
    losses, texts = dict[int, float | None](), set[_Text]()
    for event in read_events(folder):
        if event.HasField("session_log"):
            losses = {step: loss for step, loss in losses.items() if step < event.step}
            texts = _before(event.step, texts)
        for value in event.summary.value:
            if value.HasField("tensor"):
                markdown = value.tensor.string_val[0].decode()
                texts.add((value.tag.removesuffix(_TEXT_SUFFIX), event.step, markdown))
            else:
                losses.setdefault(event.step, None)
                if value.tag == _TAGS["loss"]:
                    losses[event.step] = value.simple_value
    return losses, texts


def _before(step: int, texts: set[_Text]) -> set[_Text]:
    """Those that TensorBoard keeps where steps are taken again from this one on."""
    return {each for each in texts if each[1] < step}


def _single(loss: float | None) -> float | None:
    """As the file holds it; None where it is not finite, because then it holds none."""
    if loss is None or not math.isfinite(loss):
        return None
    value: float = struct.unpack("<f", struct.pack("<f", loss))[0]
    return value
