from pathlib import Path

import pytest

from tasks import sources
from tasks.sources import (
    EMBEDDED,
    MAX_SAMPLE_PAGES,
    check_source,
    collect_source,
    embedded_pages,
    is_embedded,
    runtime_distributions,
    source_name,
)
from tasks.store import Store
from tests.data.prose import write_jsonl


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/pages.warc.gz", "pages"),
        ("/data/crawl/", "crawl"),
        ("/data/crawl/*.warc.gz", "crawl"),
        ("https://host.example/a/b.jsonl?version=2", "b"),
        ("s3://bucket/prefix/part-1.parquet", "part-1"),
        (f"{EMBEDDED}:40", EMBEDDED),
    ],
)
def test_the_logical_name_is_the_last_part_that_has_one(source: str, name: str) -> None:
    assert source_name(source) == name


def test_pages_of_the_embedded_default() -> None:
    assert embedded_pages(EMBEDDED) == MAX_SAMPLE_PAGES
    assert embedded_pages(f"{EMBEDDED}:all") is None
    assert embedded_pages(f"{EMBEDDED}:{MAX_SAMPLE_PAGES}") == MAX_SAMPLE_PAGES
    for wrong in ("0", str(MAX_SAMPLE_PAGES + 1), "-1", "some"):
        with pytest.raises(ValueError, match="number of pages"):
            embedded_pages(f"{EMBEDDED}:{wrong}")
    assert not is_embedded("environment-docs-2") and is_embedded(EMBEDDED)


def test_the_runtime_distributions_are_the_requirements_and_theirs() -> None:
    names = runtime_distributions()
    assert {"prefect", "ray", "torch", "mlflow", "numpy", "pydantic-core"} <= set(names)
    assert not {"tokenmill", "pytest", "mypy"} & set(names)  # neither ourselves nor what only development needs
    assert names == sorted(names)


def test_the_embedded_default_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, calls = Store.open(tmp_path), []
    first = collect_source(store, f"{EMBEDDED}:3", lambda stage, done, total: calls.append((stage, done, total)))
    assert calls[-1] == ("collect", 3, 3) and all(Path(file.path).is_file() for file in first)
    calls.clear()
    assert collect_source(store, f"{EMBEDDED}:3", lambda *progress: calls.append(progress)) == first
    assert calls == []


def test_a_killed_collection_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path)

    def killed(_: object, destination: Path, **__: object) -> None:
        (destination / "environment_docs-00.warc.gz").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sources, "write_environment_docs", killed)
        collect_source(store, f"{EMBEDDED}:3")
    assert len(collect_source(store, f"{EMBEDDED}:3")) == 4


def test_a_source_is_checked_before_any_work(tmp_path: Path) -> None:
    check_source(str(write_jsonl(tmp_path / "rows.jsonl", 1)))
    check_source(f"{EMBEDDED}:7")
    with pytest.raises(ValueError, match=r"nothing-here"):
        check_source(str(tmp_path / "nothing-here"))
