import json
from pathlib import Path

import pytest

from tasks.dedup.signature import MinHash
from tasks.manifest import MANIFEST, SCHEMA_VERSION, code_version, fingerprint, library_versions, read_manifest


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
