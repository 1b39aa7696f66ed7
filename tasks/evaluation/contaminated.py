"""How much of each task the model may have seen: its examples that stand in any of the corpora it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.classifiers.proportion import Proportion, proportion

if TYPE_CHECKING:
    from tasks.decontamination.report import ContaminationReport


@dataclass(frozen=True)
class ContaminatedTask:
    """What all corpora together have of one task."""

    num_searched: int
    """Examples that are long enough to be looked for."""
    hit_ids: frozenset[str]
    """Of the examples that are there, whole or in part."""

    @property
    def share(self) -> Proportion | None:
        """Of those that were looked for, with its 95 % interval; None where none was."""
        return proportion(len(self.hit_ids), self.num_searched) if self.num_searched else None


def contaminated_tasks(reports: Sequence[ContaminationReport]) -> dict[str, ContaminatedTask]:
    """By `pack/task`; reports on the same packs, one for each corpus. An example that two corpora have counts once."""
    found: dict[str, ContaminatedTask] = {}
    for report in reports:
        for task in report.tasks:
            name = f"{task.pack}/{task.task}"
            before = found.get(name, ContaminatedTask(task.num_searched, frozenset()))
            assert before.num_searched == task.num_searched, name  # it depends on the pack alone
            found[name] = ContaminatedTask(task.num_searched, before.hit_ids.union(task.hit_ids))
    return found
