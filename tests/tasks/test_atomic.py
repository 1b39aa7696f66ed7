import subprocess
import sys
from pathlib import Path

import pytest

from tasks.atomic import link_file, move_directory, new_directory, remove_leftovers, write_file


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_file(target, b"old")
    with pytest.raises(TypeError):
        write_file(target, "text is refused")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    write_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_directory(tmp_path / "out") as directory:
        (directory / "part").write_text("1")
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())
    with new_directory(tmp_path / "out") as directory:
        (directory / "part").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "part").read_text() == "1"


def test_the_first_of_two_writers_of_a_directory_wins(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as second:
        with new_directory(tmp_path / "out") as first:
            (first / "part").write_text("first")
        (second / "part").write_text("second")
    assert (tmp_path / "out" / "part").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_leaves_is_no_output_and_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from tasks.atomic import new_directory\n"
        "with new_directory(Path(sys.argv[1]) / 'out') as d:\n"
        "    (d / 'part').write_text('1'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    assert remove_leftovers(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_linked_file_is_the_same_content_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    link_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_a_folder_that_was_finished_elsewhere_gets_its_name_once(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f".tmp-{name}").mkdir()
        (tmp_path / f".tmp-{name}" / "part").write_text(name)
        assert move_directory(tmp_path / f".tmp-{name}", tmp_path / "out") == (name == "first")
    assert (tmp_path / "out" / "part").read_text() == "first"
    with pytest.raises(OSError, match="absent"):
        move_directory(tmp_path / ".tmp-absent", tmp_path / "other")
