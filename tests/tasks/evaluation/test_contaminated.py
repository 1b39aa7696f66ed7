"""What several training corpora have of a task."""

from __future__ import annotations

from tasks.decontamination.report import ContaminationReport, TaskContamination
from tasks.evaluation.contaminated import ContaminatedTask, contaminated_tasks


def report(corpus: str, hit_ids: tuple[str, ...], num_searched: int = 90) -> ContaminationReport:
    task = TaskContamination(
        pack="own",
        task="x",
        num_examples=100,
        num_searched=num_searched,
        num_hit=len(hit_ids),
        num_rare_hit=0,
        fraction=len(hit_ids) / num_searched if num_searched else None,
        low=0.0,
        high=1.0,
        hit_ids=hit_ids,
        hits=(),
    )
    return ContaminationReport(corpus=corpus, corpus_digest="ab", packs=("own@1",), num_documents=9, tasks=(task,))


def test_an_example_that_any_corpus_has_counts_once() -> None:
    found = contaminated_tasks([report("a@1", ("1", "2", "3")), report("b@1", ("3", "4"))])
    assert found == {"own/x": ContaminatedTask(90, frozenset("1234"))}
    share = found["own/x"].share
    assert share is not None and share.fraction == 4 / 90 and share.low < 4 / 90 < share.high


def test_a_task_too_short_to_search_has_no_share() -> None:
    assert contaminated_tasks([report("a@1", (), 0)])["own/x"].share is None
    assert contaminated_tasks([]) == {}
