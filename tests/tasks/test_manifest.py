"""Fingerprints show every difference that counts; the code of a stage is what it imports, and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.dedup.signature import MinHash
from tasks.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    code_version,
    fingerprint,
    imported_modules,
    library_versions,
    read_manifest,
)


def test_a_fingerprint_depends_on_content_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": MinHash()}) == fingerprint({"b": MinHash(), "a": 1})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": "1"}),
        ({"a": MinHash()}, {"a": MinHash(num_bands=13)}),
        ({"a": None}, {}),
    ],
)
def test_every_difference_shows_in_the_fingerprint(left: dict[str, object], right: dict[str, object]) -> None:
    assert fingerprint(left) != fingerprint(right)


def test_a_path_is_no_identity() -> None:
    with pytest.raises(TypeError, match="hash the file's content"):
        fingerprint({"model": Path("model.bin")})


def test_the_code_and_the_libraries_have_versions() -> None:
    assert code_version("tasks") != code_version("model")
    assert set(library_versions(("numpy",))) == {"numpy", "python"}


SOURCES = {
    "tasks/__init__.py": "",
    "tasks/entry.py": "import numpy\nimport tasks.plain\nfrom tasks import sibling\nfrom tasks.far.deep import name\n",
    "tasks/plain.py": "def late():\n    from tasks import within_a_function\n",
    "tasks/sibling.py": "",
    "tasks/within_a_function.py": "COMMAND = ['-m', 'tasks.started']\n",
    "tasks/started.py": "if True:\n    import model\n",
    "tasks/far/__init__.py": "",
    "tasks/far/deep.py": "from . import beside\nfrom .. import above\nfrom .other import x\n",
    "tasks/far/beside.py": "import tasks.entry\n",
    "tasks/far/other.py": "",
    "tasks/above.py": "",
    "model/__init__.py": "",
    "tasks/unused.py": "",
    "tasks/for_types.py": "",
    "tasks/typed.py": "import typing\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tasks.for_types\n"
    "else:\n    import tasks.sibling\nif typing.TYPE_CHECKING:\n    from tasks.for_types import x\n",
    "numpy/core.py": "",
}
CLOSURE = {
    "tasks",
    "tasks.entry",
    "tasks.plain",
    "tasks.sibling",
    "tasks.within_a_function",
    "tasks.started",
    "tasks.far",
    "tasks.far.deep",
    "tasks.far.beside",
    "tasks.far.other",
    "tasks.above",
    "model",
}


def write_sources(root: Path, changes: Mapping[str, str] | None = None) -> Path:
    for path, text in (SOURCES | dict(changes or {})).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_what_a_module_imports_is_found_wherever_it_says_so(tmp_path: Path) -> None:
    root = write_sources(tmp_path)
    assert set(imported_modules("tasks.entry", root=root)) == CLOSURE
    assert imported_modules("tasks.typed", root=root) == ("tasks", "tasks.sibling", "tasks.typed")
    assert imported_modules("tasks.far", root=root) == imported_modules("tasks.far.deep", root=root)
    everything = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in SOURCES}
    assert set(imported_modules("tasks", root=root)) == everything - {"numpy.core"}
    with pytest.raises(AssertionError, match="no module"):
        imported_modules("tasks.nowhere", root=root)


@pytest.mark.parametrize("path", SOURCES)
def test_the_code_version_changes_with_what_is_imported_and_with_nothing_else(path: str, tmp_path: Path) -> None:
    before = code_version("tasks.entry", root=write_sources(tmp_path / "before"))
    changed = write_sources(tmp_path / "after", {path: SOURCES[path] + "x = 1\n"})
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert (code_version("tasks.entry", root=changed) != before) == (module in CLOSURE)


def test_a_module_that_is_imported_anew_counts_even_where_it_is_empty(tmp_path: Path) -> None:
    one = write_sources(tmp_path / "one", {"tasks/entry.py": "import tasks.above\n"})
    two = write_sources(
        tmp_path / "two", {"tasks/entry.py": "import tasks.above\n", "tasks/above.py": "import model\n"}
    )
    assert code_version("tasks.entry", root=one) != code_version("tasks.entry", root=two)


def test_a_folder_is_complete_only_with_a_manifest_that_this_software_reads(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(ValueError, match="upgrade"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": SCHEMA_VERSION, "x": 1}))
    assert read_manifest(tmp_path) == {"schema_version": SCHEMA_VERSION, "x": 1}
