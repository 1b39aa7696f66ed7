"""The built wheel, in an environment of its own, run from a folder full of modules with our packages' names."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.data.prose import write_jsonl
from tests.integration.running import assert_adds_up, environment, succeeded, tokenmill

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "model", "infra")
DECOYS = ("tasks/__init__.py", "tasks/screen.py", "model.py", "model/__init__.py", "flows.py", "infra/__init__.py")

pytestmark = [pytest.mark.verify, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the dependencies of this one but not its checkout.

    Paths named in a .pth file are searched, but .pth files in them are not read: the editable install stays outside.
    """
    folder = tmp_path_factory.mktemp("environment") / "env"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of decoys, and a small source."""
    folder = tmp_path / "project"
    for name in DECOYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('raise SystemExit("decoy")\n')
    write_jsonl(folder / "rows.jsonl", 20)
    return folder


def python(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_four_packages_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert not [name for name in names if "__pycache__" in name or "test" in Path(name).name.split("_")[0]]


def test_the_installed_packages_are_the_wheels(installed: Path, folder: Path) -> None:
    script = "import flows, infra, model, tasks; print(*(m.__file__ for m in (flows, tasks, model, infra)), sep='\\n')"
    done = python(installed, "-P", "-c", script, cwd=folder)
    assert done.returncode == 0, done.stderr
    places = [Path(line) for line in done.stdout.splitlines()]
    assert len(places) == len(PACKAGES) and all(place.is_relative_to(installed) for place in places), places


@pytest.mark.parametrize("name", PACKAGES)
def test_the_decoys_do_bite(installed: Path, folder: Path, name: str) -> None:
    done = python(installed, "-c", f"import {name}", cwd=folder)
    assert (done.returncode, done.stderr.strip()) == (1, "decoy")


def test_a_refresh_among_the_decoys(installed: Path, folder: Path, tmp_path: Path) -> None:
    script = [str(installed / "bin" / "tokenmill")]
    arguments = ["refresh", "--source", "rows.jsonl", "--name", "rows", "--workers", "2", "--json"]
    result = succeeded(tokenmill(*arguments, store=tmp_path / "store", cwd=folder, program=script))
    assert_adds_up(result, 20)
    assert result["documents_kept"] > 0
