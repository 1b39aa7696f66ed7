"""What an operator writes for tasks and guarded measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.evaluation.asked_tasks import asked_tasks, guards, resolved_measure


def test_shipped_tasks_are_found_and_others_refused() -> None:
    (asked,) = asked_tasks(["basics:agreement"], Path("unused"))
    assert [task.name for task in asked.tasks] == ["agreement"]
    assert len(asked_tasks(["basics"], Path("unused"))[0].tasks) > 1
    for wrong, said in (
        (["basics:nothing"], "has no task 'nothing'"),
        (["basics:"], "no task is named"),
        (["basics:agreement", "basics:python"], "the pack basics is asked twice"),
        (["nowhere"], "there is no task pack 'nowhere'"),
        (["harness=/data:piqa"], "stock tasks bring their own data"),
        (["academic=eval"], "the folder of the pack's files has to be a whole path"),
        (["academic"], "name the folder that holds its files, academic=DIR"),
    ):
        with pytest.raises(ValueError, match=said):
            asked_tasks(wrong, Path("unused"))


def test_a_measure_is_named_whole_or_by_its_task() -> None:
    asked = asked_tasks(["basics:agreement"], Path("unused"))
    for name in ("bits_per_byte", "basics", "held_out/language/de", "basics/agreement/acc"):
        assert resolved_measure(name, asked) == name
    assert resolved_measure("basics/agreement", asked) == "basics/agreement/acc"
    for wrong in ("basics/python", "held_out/colour/red", "acc", "", "basics/agreement/acc_norm"):
        with pytest.raises(ValueError, match=r"nothing is measured as .*there is bits_per_byte, basics, basics/agree"):
            resolved_measure(wrong, asked)


def test_guards_say_how_much_may_be_lost() -> None:
    asked = asked_tasks(["basics:agreement"], Path("unused"))
    found = guards(["basics/agreement=0.02", "bits_per_byte"], asked)
    assert found == {"basics/agreement/acc": 0.02, "bits_per_byte": 0.0}
    for wrong in ("bits_per_byte=x", "bits_per_byte=-0.1", "bits_per_byte=inf", "bits_per_byte=nan", "bits_per_byte="):
        with pytest.raises(ValueError, match="is a number of at least 0"):
            guards([wrong], asked)
    with pytest.raises(ValueError, match="is guarded twice"):
        guards(["basics/agreement", "basics/agreement/acc=0.1"], asked)
