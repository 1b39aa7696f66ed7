"""How a pack is named: its place, the folder of its files, its tasks; whatever signs a path has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.evaluation.pack_reference import PackReference, absolute_reference, split_reference
from tasks.evaluation.task_pack import load_pack, named_pack
from tests.tasks.evaluation.own_pack import write_pack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("basics", PackReference("basics")),
        ("basics:agreement", PackReference("basics", None, ("agreement",))),
        ("basics: agreement, python ", PackReference("basics", None, ("agreement", "python"))),
        ("basics:", PackReference("basics", None, ())),
        ("/packs/a:b/c", PackReference("/packs/a:b/c")),
        ("/packs/mine:one,two", PackReference("/packs/mine", None, ("one", "two"))),
        ("academic=/data/eval", PackReference("academic", Path("/data/eval"))),
        ("academic=../eval:piqa,copa", PackReference("academic", Path("../eval"), ("piqa", "copa"))),
        ("academic=/data/date=1/eval", PackReference("academic", Path("/data/date=1/eval"))),
        ("/data/date=1/pack", PackReference("/data/date=1/pack")),
        ("", PackReference("")),
    ],
)
def test_place_data_and_tasks(text: str, expected: PackReference) -> None:
    assert split_reference(text) == expected
    assert split_reference(str(expected)) == expected


def test_what_is_there_is_a_place_whatever_signs_it_has(tmp_path: Path) -> None:
    for name in ("a:b", "date=1", "date=1:b"):
        folder = tmp_path / name
        folder.mkdir()
        assert split_reference(str(folder)) == PackReference(str(folder))
        assert split_reference(f"{folder}:one") == PackReference(str(folder), None, ("one",))
        assert split_reference(f"{folder}=/data") == PackReference(str(folder), Path("/data"))
        assert split_reference(f"academic={folder}") == PackReference("academic", folder)


def test_a_folder_that_is_not_named_is_refused() -> None:
    for text in ("academic=", "academic=:piqa"):
        with pytest.raises(ValueError, match="names no folder behind the sign: write academic=DIR"):
            split_reference(text)


def test_paths_are_made_whole_against_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    write_pack(tmp_path / "mine")
    for text, expected in (
        ("mine:pairs", f"{tmp_path}/mine:pairs"),
        ("mine=data", f"{tmp_path}/mine={tmp_path}/data"),
        ("./absent:pairs", f"{tmp_path}/absent:pairs"),
        ("academic=../eval:piqa", f"academic={tmp_path}/../eval:piqa"),
        ("academic=~/eval", "academic=/home/somebody/eval"),
        ("~/mine", "/home/somebody/mine"),
        *((same, same) for same in ("basics", "basics:agreement", "harness:arc_easy", "absent", "")),
    ):
        assert absolute_reference(text) == expected
    (tmp_path / "basics").mkdir()
    assert absolute_reference("basics") == "basics"  # a shipped pack's name is its own


def test_a_named_pack_has_its_tasks_and_its_files_elsewhere(tmp_path: Path) -> None:
    folder, data = write_pack(tmp_path / "mine"), tmp_path / "data"
    whole = load_pack(folder)
    data.mkdir()
    for file in folder.glob("*.jsonl*"):
        shutil.move(file, data)
    assert named_pack(f"{folder}={data}").sha256 == whole.sha256
    (pairs,) = named_pack(f"{folder}={data}:pairs").tasks
    assert [example.id for example in pairs.examples()] and pairs.data == data
    with pytest.raises(ValueError, match=f"name the folder that holds its files, {folder}=DIR"):
        named_pack(str(folder))
    with pytest.raises(ValueError, match="has to be a whole path"):
        named_pack(f"{folder}=data")
