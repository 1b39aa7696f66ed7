"""Which tasks a model is asked, as an operator writes it: `academic:arc_easy,piqa`, or a pack alone for all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.evaluation.measures import BITS_PER_BYTE
from tasks.evaluation.slices import DIMENSIONS
from tasks.evaluation.task_pack import METRICS, PACK_FILE, PackTask, TaskPack, load_pack

_SLICES = tuple(f"held_out/{dimension}/" for dimension in DIMENSIONS)


@dataclass(frozen=True)
class AskedTasks:
    """Some tasks of a pack, or all."""

    pack: TaskPack
    names: tuple[str, ...] | None

    @property
    def tasks(self) -> tuple[PackTask, ...]:
        return self.pack.select(self.names)


def asked_tasks(references: Sequence[str], data: Path | None, work: Path) -> list[AskedTasks]:
    """The packs that are named, with their files found; `data` is the folder of files that do not lie beside a pack.

    `harness:hellaswag,arc_easy` are stock tasks of lm-evaluation-harness, fetched once into a folder of `work`. Raises
    ValueError for a pack or task that is not there, and for two packs of one name.
    """
    found: list[AskedTasks] = []
    for reference in references:
        place, names = split_reference(reference)
        if place == "harness" and not Path(place).exists():
            asked = AskedTasks(load_pack(_stock_pack(names or (), work)), None)  # groups have become their tasks
        else:
            asked = AskedTasks(load_pack(place, data if place == "academic" else None), names)
        pack = asked.pack
        assert asked.tasks  # unknown names are refused here
        if any(pack.name == other.pack.name for other in found):
            raise ValueError(f"the pack {pack.name} is asked twice: name all its tasks at once, PACK:task,task")
        found.append(asked)
    return found


def _stock_pack(names: Sequence[str], work: Path) -> Path:
    """The pack of these stock tasks; it needs the network the first time alone."""
    digest = hashlib.sha256(",".join(sorted(names)).encode()).hexdigest()
    folder = work / f"harness-{digest[:12]}"
    if (folder / PACK_FILE).is_file():
        return folder
    from tasks.evaluation.stock_tasks import write_stock_pack

    return write_stock_pack(names, folder)


def split_reference(reference: str) -> tuple[str, tuple[str, ...] | None]:
    """The pack's name or place, and its tasks; None for all. What stands there as a whole is a place."""
    place, colon, listed = reference.rpartition(":")
    if not colon or "/" in listed or Path(reference).exists():
        return reference, None
    return place, tuple(name.strip() for name in listed.split(",") if name.strip())


def resolved_measure(name: str, asked: Sequence[AskedTasks]) -> str:
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


def _measures(asked: Sequence[AskedTasks]) -> Iterator[tuple[str, str]]:
    for each in asked:
        if any(task.higher_is_better for task in each.tasks):
            yield each.pack.name, each.pack.name
        for task in each.tasks:
            name = f"{each.pack.name}/{task.name}"
            yield name, f"{name}/{task.main_metric}"
            yield from ((f"{name}/{metric}",) * 2 for metric in METRICS[task.kind])


def guards(settings: Sequence[str], asked: Sequence[AskedTasks]) -> Mapping[str, float]:
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
