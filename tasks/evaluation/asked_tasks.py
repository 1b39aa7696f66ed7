"""Which tasks a model is asked, as an operator names them, and what of it may decide about a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.evaluation.measures import BITS_PER_BYTE
from tasks.evaluation.pack_reference import HARNESS, split_reference
from tasks.evaluation.slices import DIMENSIONS
from tasks.evaluation.task_pack import METRICS, PACK_FILE, TaskPack, load_pack, named_pack

_SLICES = tuple(f"held_out/{dimension}/" for dimension in DIMENSIONS)


def asked_tasks(references: Sequence[str], work: Path) -> list[TaskPack]:
    """The packs that are named (tasks.evaluation.pack_reference), each with the tasks that are asked, and their files.

    `harness:hellaswag,arc_easy` are stock tasks of lm-evaluation-harness, fetched once into a folder of `work`. Raises
    ValueError for a pack or task that is not there, and for two packs of one name.
    """
    found: list[TaskPack] = []
    for reference in references:
        parts = split_reference(reference)
        if parts.place != HARNESS:
            pack = named_pack(reference)
        elif parts.data is None:
            pack = load_pack(_stock_pack(parts.names or (), work))  # groups have become their tasks
        else:
            raise ValueError(f"{reference!r}: stock tasks bring their own data; write {HARNESS}:task,task")
        if any(pack.name == other.name for other in found):
            raise ValueError(f"the pack {pack.name} is asked twice: name all its tasks at once, PACK:task,task")
        found.append(pack)
    return found


def _stock_pack(names: Sequence[str], work: Path) -> Path:
    """The pack of these stock tasks; it needs the network the first time alone."""
    digest = hashlib.sha256(",".join(sorted(names)).encode()).hexdigest()
    folder = work / f"harness-{digest[:12]}"
    if (folder / PACK_FILE).is_file():
        return folder
    from tasks.evaluation.stock_tasks import write_stock_pack

    return write_stock_pack(names, folder)


def resolved_measure(name: str, asked: Sequence[TaskPack]) -> str:
    """The measure that `name` stands for: itself, or the main metric of a task that is named as `pack/task`.

    Which slices there are is known when the documents are. Raises ValueError, saying what there is, for another name.
    """
    if name == BITS_PER_BYTE or name.startswith(_SLICES):
        return name
    known = dict(_measures(asked))
    if name not in known:
        there = ", ".join([BITS_PER_BYTE, *known, *(f"{place}..." for place in _SLICES)])
        raise ValueError(f"nothing is measured as {name!r}; with these tasks there is {there}")
    return known[name]


def _measures(asked: Sequence[TaskPack]) -> Iterator[tuple[str, str]]:
    for pack in asked:
        if any(task.higher_is_better for task in pack.tasks):
            yield pack.name, pack.name
        for task in pack.tasks:
            name = f"{pack.name}/{task.name}"
            yield name, f"{name}/{task.main_metric}"
            yield from ((f"{name}/{metric}",) * 2 for metric in METRICS[task.kind])


def guards(settings: Sequence[str], asked: Sequence[TaskPack]) -> Mapping[str, float]:
    """From `measure` or `measure=allowed`: by measure, how much it may surely be worse. ValueError for another form."""
    found: dict[str, float] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        measure = resolved_measure(name.strip(), asked)
        try:
            allowed = float(text) if equals else 0.0
        except ValueError:
            allowed = -1.0
        if not 0 <= allowed < float("inf"):
            raise ValueError(f"{setting!r}: what a guarded measure may lose is a number of at least 0, MEASURE=0.01")
        if measure in found:
            raise ValueError(f"the measure {measure} is guarded twice; keep one of them")
        found[measure] = allowed
    return found
