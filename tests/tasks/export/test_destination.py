"""An export's folder comes whole and over nothing, and what killed exports have left goes with the next."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.export.destination import check_destination, new_export

WRITER = """
import sys, time
from pathlib import Path
from tasks.export.destination import new_export
with new_export(Path(sys.argv[1])) as temporary:
    (temporary / "weights").write_text("some")
    print("writing", flush=True)
    time.sleep(600)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_export_has_left_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        (theirs,) = names(tmp_path)
        with pytest.raises(RuntimeError), new_export(out) as temporary:
            assert names(tmp_path) == {theirs, temporary.name}
            raise RuntimeError
        assert names(tmp_path) == {theirs} and names(tmp_path / theirs) == {"weights"}
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert names(tmp_path) == {theirs}
    with new_export(out) as temporary:
        assert names(tmp_path) == {temporary.name}
        (temporary / "a").write_text("a")
    assert names(tmp_path) == {"out"} and names(out) == {"a"}


def test_what_no_export_to_this_place_has_made_stays(tmp_path: Path) -> None:
    folders = {".tmp-out-12345678", ".tmp-out-export-1234567", ".tmp-out-more-export-12345678", "out-export-12345678"}
    for name in folders:
        (tmp_path / name).mkdir()
    (tmp_path / ".tmp-out-export-12345678").write_text("a file")
    (tmp_path / ".tmp-out-export-87654321").symlink_to(tmp_path / "out-export-12345678")
    before = names(tmp_path)
    with new_export(tmp_path / "out"):
        pass
    assert names(tmp_path) == before | {"out"}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to(path.parent / "nowhere"),
    ],
    ids=["empty folder", "file", "link to nothing"],
)
def test_what_comes_there_meanwhile_is_not_replaced(tmp_path: Path, make: Callable[[Path], object]) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="out has come into being meanwhile"), new_export(out) as temporary:
        (temporary / "weights").write_text("ours")
        make(out)
    assert names(tmp_path) == {"out"} and not (out / "weights").exists()


def test_looking_at_a_place_leaves_nothing_there(tmp_path: Path) -> None:
    check_destination(tmp_path / "models" / "out")
    assert not names(tmp_path)
