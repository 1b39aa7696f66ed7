"""What an operator writes for tasks and guarded measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.evaluation.asked_tasks import asked_tasks, guards, resolved_measure, split_reference


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("basics", ("basics", None)),
        ("basics:agreement", ("basics", ("agreement",))),
        ("basics: agreement, python ", ("basics", ("agreement", "python"))),
        ("/packs/a:b/c", ("/packs/a:b/c", None)),
        ("/packs/mine:one,two", ("/packs/mine", ("one", "two"))),
        ("basics:", ("basics", ())),
    ],
)
def test_a_pack_and_its_tasks(reference: str, expected: tuple[str, tuple[str, ...] | None]) -> None:
    assert split_reference(reference) == expected


def test_a_place_with_a_colon_that_is_there_is_a_place(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert split_reference(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", None)


def test_shipped_tasks_are_found_and_others_refused() -> None:
    (asked,) = asked_tasks(["basics:agreement"], None, Path("unused"))
    assert [task.name for task in asked.tasks] == ["agreement"]
    assert len(asked_tasks(["basics"], None, Path("unused"))[0].tasks) > 1
    for wrong, said in (
        (["basics:nothing"], "has no task 'nothing'"),
        (["basics:"], "no task is named"),
        (["basics:agreement", "basics:python"], "the pack basics is asked twice"),
        (["nowhere"], "there is no task pack 'nowhere'"),
        (["academic"], "give the folder that holds its data"),
    ):
        with pytest.raises(ValueError, match=said):
            asked_tasks(wrong, None, Path("unused"))


def test_a_measure_is_named_whole_or_by_its_task() -> None:
    asked = asked_tasks(["basics:agreement"], None, Path("unused"))
    for name in ("bits_per_byte", "basics", "held_out/language/de", "basics/agreement/acc"):
        assert resolved_measure(name, asked) == name
    assert resolved_measure("basics/agreement", asked) == "basics/agreement/acc"
    for wrong in ("basics/python", "held_out/colour/red", "acc", "", "basics/agreement/acc_norm"):
        with pytest.raises(ValueError, match=r"nothing is measured as .*there is bits_per_byte, basics, basics/agree"):
            resolved_measure(wrong, asked)


def test_guards_say_how_much_may_be_lost() -> None:
    asked = asked_tasks(["basics:agreement"], None, Path("unused"))
    found = guards(["basics/agreement=0.02", "bits_per_byte"], asked)
    assert found == {"basics/agreement/acc": 0.02, "bits_per_byte": 0.0}
    for wrong in ("bits_per_byte=x", "bits_per_byte=-0.1", "bits_per_byte=inf", "bits_per_byte=nan", "bits_per_byte="):
        with pytest.raises(ValueError, match="is a number of at least 0"):
            guards([wrong], asked)
    with pytest.raises(ValueError, match="is guarded twice"):
        guards(["basics/agreement", "basics/agreement/acc=0.1"], asked)
