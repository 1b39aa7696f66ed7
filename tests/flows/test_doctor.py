"""`tokenmill doctor`: a table that can be read at 100 columns, every line with what to do, and the whole command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flows.arguments import parser
from flows.doctor import doctor, file_lines, finding_lines
from infra.doctor import Finding
from tasks.needed_files import NeededFile
from tasks.store import Store
from tests.tasks.read.web_server import web_server

COLUMNS = 100


def lines_of(*files: NeededFile) -> list[str]:
    return file_lines(files, "tokenmill doctor --recipe smoke --fetch")


def test_a_file_is_a_line_with_what_is_known_of_it_below() -> None:
    users = ("fineweb: toxicity", "documentation: toxicity", "smoke: rough", "fineweb2")
    head, first, *rest = lines_of(NeededFile("taste.ftz", "model", users, "CC0-1.0", "made up", "a1" * 32, 1_234_567))
    assert head.split() == ["name", "size"]
    assert first.split() == ["ok", "model", "taste.ftz", "1.2", "MB"]
    assert [line.split(maxsplit=2 if "used" in line else 1) for line in rest] == [
        ["SHA-256", "a1" * 32],
        ["used", "by", "toxicity (fineweb, documentation); rough (smoke); fineweb2"],
        ["licence", "CC0-1.0"],
        ["origin", "made up"],
    ]


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (10**6, "1.0 MB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_are_in_thousands(size_bytes: int | None, shown: str) -> None:
    line = lines_of(NeededFile("a", "list", (), "CC0-1.0", "made up", "", size_bytes))[1]
    assert line.removeprefix("ok").split() == ["list", "a", *shown.split()]


def test_what_is_missing_says_so_and_ends_with_the_command() -> None:
    reference = f"https://models.example/{'long/' * 10}lid.bin#sha256={'0' * 64}"
    lost = NeededFile("lid.bin", "model", (), "x", "y", "0" * 64, reference=reference, problem="it is not there")
    missing = replace(lost, fetchable=True)
    assert "Bring what is missing with" not in lines_of(lost)  # a fetch has said so, or the registry
    lines = lines_of(missing)
    assert lines[1].startswith("FAIL  model") and lines[-1].strip() == "tokenmill doctor --recipe smoke --fetch"
    assert any(reference in line for line in lines)  # whole, to be copied
    brought_along = NeededFile("words.txt", "list", (), "x", "y", problem="install it again")
    assert "Bring what is missing with" not in lines_of(brought_along)


def test_no_line_is_longer_than_the_terminal_but_for_what_is_to_be_copied() -> None:
    long = "several words " * 30
    file = NeededFile("n" * 60, "tokenizer", tuple(f"r{n}: rule" for n in range(60)), long, long, "f" * 64, 1, "", long)
    for line in [*lines_of(file)[:-1], *finding_lines([Finding("store", False, long)])]:
        assert len(line) <= COLUMNS, line
    assert "n" * 37 + "…" in lines_of(file)[1]


def test_findings_begin_with_how_they_are() -> None:
    good, bad = finding_lines([Finding("python", True, "3.11"), Finding("ray", False, "start it")])
    assert good.split() == ["ok", "python", "3.11"] and bad.split() == ["FAIL", "ray", "start", "it"]


def test_the_options_may_be_repeated() -> None:
    chosen = parser().parse_args(
        ["doctor", "--recipe", "smoke", "--recipe", "dclm", "--set", "a=1", "--model", "m@1", "--fetch", "--json"]
    )
    assert (chosen.recipe, chosen.settings, chosen.model) == (["smoke", "dclm"], ["a=1"], ["m@1"])
    assert chosen.fetch and chosen.json
    usual = parser().parse_args(["doctor"])
    assert (usual.recipe, usual.settings, usual.model, usual.fetch) == ([], [], [], False)


def tokenmill_doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from flows.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "doctor", "--store", "s", "--json", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},  # whether Ray starts is tests/flows/test_cli.py's
    )


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    result = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(result, dict)
    return result


@pytest.mark.verify
def test_a_missing_model_is_listed_and_the_command_that_is_shown_brings_it(tmp_path: Path) -> None:
    content = b"a model of a megabyte" * 50_000
    with web_server(content, name="/lid.bin") as server:
        reference = f"{server.address}/lid.bin#sha256={hashlib.sha256(content).hexdigest()}"
        chosen = ("--recipe", "smoke", "--set", f"language.model={reference}", "--set", "language.min_score=0.5")
        before = tokenmill_doctor(tmp_path, *chosen)
        assert before.returncode == 1 and server.requests == []
        command = before.stdout.splitlines()[-3].strip()
        assert command == shlex.join(["tokenmill", "doctor", "--store", str(tmp_path / "s"), *chosen, "--fetch"])
        wrong = tokenmill_doctor(tmp_path, "--recipe", "smoke", "--model", f"{reference[:-64]}{'0' * 64}", "--fetch")
        assert wrong.returncode == 1 and "0" * 64 in wrong.stdout and reference[-64:] in wrong.stdout
        assert "Bring what is missing" not in wrong.stdout  # the same command again would end in the same
        assert not list((tmp_path / "s" / "models").iterdir())
        fetched = tokenmill_doctor(tmp_path, *shlex.split(command)[4:])
        assert "fetch lid.bin" in fetched.stderr
    files = result_of(fetched)["files"]
    assert isinstance(files, list)
    (model,) = [file for file in files if file["reference"] == reference]
    assert (model["problem"], model["size_bytes"], model["used_by"]) == ("", len(content), ["smoke: language"])
    after = tokenmill_doctor(tmp_path, *chosen)
    assert [file["problem"] for file in result_of(after)["files"]] == [""] * len(files)  # type: ignore[union-attr, attr-defined]
    assert after.returncode == 1  # no Ray cluster is at that address: that alone
    assert [line[:12] for line in after.stdout.splitlines() if line.startswith("FAIL")] == ["FAIL  ray   "]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "nothing"], "there is no curation recipe 'nothing'"),
        (["--set", "language.model=lid.176.ftz"], "name it with --recipe"),
        (["--model", "/a.ftz"], "sha256sum /a.ftz"),
        (["--recipe", "smoke", "--set", "language.model=/a.ftz"], "sha256sum /a.ftz"),
        (["--recipe", "smoke", "--set", "language.model=lid.176.ftz"], "min_score"),
        (["--recipe", "fineweb2", "--set", "language.model=lid.176.ftz"], "min_score"),  # whose own is py3langid's
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_looked_at(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        doctor(parser().parse_args(["doctor", *arguments]), store)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
