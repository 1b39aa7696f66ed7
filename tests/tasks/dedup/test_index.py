from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.dedup import index
from tasks.dedup.exact import text_sha256, url_key
from tasks.dedup.index import (
    INDEX_FILE,
    KEYS_FILE,
    TOUCHED_FILE,
    IndexFileError,
    IndexReport,
    binary_to_hashes,
    index_schema,
    open_index,
    write_index,
)
from tasks.dedup.keys import row_keys, sorted_run
from tasks.dedup.signature import MinHash, signatures

CONFIG = MinHash(num_bands=3, rows_per_band=2, shingle_words=2)
DATE = "2024-05-01T12:00:00Z"
Row = tuple[str, str, str, str]  # (document_id, url, date, text)
WriteTexts = Callable[[Sequence[Row], Path], Path]

ROWS: list[Row] = [
    ("a", "http://e.com/a", DATE, "a b c"),
    ("b", "", "", ""),
    ("c", "https://e.com:443/a#x", DATE, "ünï cödé 漢字"),
    ("d", "no url", "2023-01-01T00:00:00Z", "a b c d \U0001f600"),
]


def nothing_is_taken_down(document_id: str, url: str) -> str:
    return ""


def written(
    folder: Path,
    *,
    base: Path | None = None,
    carried: Path | None = None,
    new: Path | None = None,
    config: MinHash = CONFIG,
    scope_of: Callable[[str, str], str] = nothing_is_taken_down,
    newly: Mapping[str, str] | None = None,
) -> IndexReport:
    folder.mkdir()
    return write_index(base, carried, new, folder, config, scope_of, newly or {})


def rows_of(folder: Path, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*pq.read_table(folder / INDEX_FILE, columns=list(columns)).to_pydict().values(), strict=True))


def touched(folder: Path) -> list[int]:
    array = np.load(folder / TOUCHED_FILE, allow_pickle=False)
    assert array.dtype == np.int64
    return array.tolist()


def files_of(folder: Path) -> tuple[bytes, bytes]:
    return (folder / INDEX_FILE).read_bytes(), (folder / KEYS_FILE).read_bytes()


def test_holds_what_the_functions_say(tmp_path: Path, write_texts: WriteTexts) -> None:
    report = written(tmp_path / "out", new=write_texts(ROWS, tmp_path / "new.parquet"))
    table = pq.read_table(tmp_path / "out" / INDEX_FILE)
    assert table.schema.equals(index_schema(CONFIG), check_metadata=True)
    texts = [text for *_, text in ROWS]
    found = signatures(texts, CONFIG)
    assert table.drop_columns("signature").to_pydict() == {
        "document_id": ["a", "b", "c", "d"],
        "date": [DATE, "", DATE, "2023-01-01T00:00:00Z"],
        "num_chars": [5, 0, 11, 9],
        "url_key": [url_key(url) for _, url, *_ in ROWS],
        "text_sha256": [text_sha256(text) for text in texts],
        "taken_down": [""] * 4,
    }
    assert table["url_key"].null_count == 1 and table["url_key"][0] == table["url_key"][2]
    assert np.array_equal(binary_to_hashes(table["signature"]), found)
    assert touched(tmp_path / "out") == [0, 1, 2, 3]
    keys = np.load(tmp_path / "out" / KEYS_FILE, allow_pickle=False)
    text_hashes, url_hashes = (binary_to_hashes(table[name])[:, 0] for name in ("text_sha256", "url_key"))
    expected = row_keys(found, text_hashes, url_hashes, np.array([True, False, True, True]), CONFIG)
    assert keys.tolist() == sorted_run(expected).tolist() == sorted(expected.tolist())
    assert report == IndexReport(num_documents=4, num_new=4, num_keys=19)


def test_without_any_document(tmp_path: Path, write_texts: WriteTexts) -> None:
    nothing = write_texts([], tmp_path / "new.parquet")
    for number, sources in enumerate([{}, {"new": nothing}]):
        assert written(tmp_path / str(number), **sources) == IndexReport(0, 0, 0)
        assert touched(tmp_path / str(number)) == []
    assert written(tmp_path / "2", base=tmp_path / "0" / INDEX_FILE, new=nothing) == IndexReport(0, 0, 0)
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1") == files_of(tmp_path / "2")
    files = open_index([tmp_path / str(number) / INDEX_FILE for number in range(3)])
    assert files.starts.tolist() == [0, 0, 0, 0]


texts = st.lists(st.sampled_from(["a", "b", "é", "!"]), max_size=6).map(" ".join)
documents = st.dictionaries(
    st.integers(0, 99).map("{:02d}".format), st.tuples(st.sampled_from(["", "http://e.com/"]), texts), max_size=20
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=documents, data=st.data())
def test_the_bytes_do_not_depend_on_the_way(
    write_texts: WriteTexts, monkeypatch: pytest.MonkeyPatch, documents: dict[str, tuple[str, str]], data: st.DataObject
) -> None:
    """The same documents in one step, or in several; in batches of any size."""
    rows = [(id_, url, DATE, text) for id_, (url, text) in sorted(documents.items())]
    steps = {id_: data.draw(st.integers(0, 2)) for id_ in documents}
    taken_down = {id_: data.draw(st.sampled_from(["", "document", "cluster"])) for id_ in documents}
    with TemporaryDirectory() as name, monkeypatch.context() as patch:
        folder = Path(name)
        patch.setattr(index, "_ROWS_PER_GROUP", 3)
        new = write_texts(rows, folder / "all.parquet")
        report = written(folder / "all", new=new, scope_of=lambda id_, _: taken_down[id_])
        assert report.num_documents == len(rows)
        base = None
        for step in range(3):
            of_step = [row for row in rows if steps[row[0]] == step]
            patch.setattr(index, "_DOCUMENTS_PER_BATCH", data.draw(st.integers(1, 5)))
            new = write_texts(of_step, folder / f"{step}.parquet")
            # what is taken down is said when it comes, or in the last step
            report = written(
                folder / str(step),
                base=base,
                new=new,
                scope_of=lambda id_, _: taken_down[id_] if id_ < "50" else "",
                newly=taken_down if step == 2 else None,
            )
            assert report.num_new == len(of_step)
            base = folder / str(step) / INDEX_FILE
        written(folder / "last", base=base, new=write_texts([], folder / "none.parquet"), newly=taken_down)
        assert touched(folder / "last") == [
            row for row, (id_, *_) in enumerate(rows) if steps[id_] == 2 and id_ >= "50" and taken_down[id_]
        ]
        assert files_of(folder / "last") == files_of(folder / "all")


def test_touched_are_the_new_and_the_newly_flagged(tmp_path: Path, write_texts: WriteTexts) -> None:
    scopes = {"a": "document", "c": "cluster"}
    written(
        tmp_path / "one",
        new=write_texts([ROWS[0], *ROWS[2:]], tmp_path / "new.parquet"),
        scope_of=lambda id_, url: scopes.get(id_, ""),
    )
    report = written(
        tmp_path / "two",
        base=tmp_path / "one" / INDEX_FILE,
        new=write_texts(ROWS[1:2], tmp_path / "new.parquet"),
        newly={"a": "cluster", "c": "document", "elsewhere": "cluster"},
    )
    assert rows_of(tmp_path / "two", "document_id", "taken_down") == [
        ("a", "cluster"),
        ("b", ""),
        ("c", "cluster"),  # a scope never shrinks
        ("d", ""),
    ]
    assert touched(tmp_path / "two") == [0, 1]
    assert (report.num_documents, report.num_new) == (4, 1)


def test_what_is_taken_down_has_all_its_keys(tmp_path: Path, write_texts: WriteTexts) -> None:
    """So that what it had removed is found, and decided anew, when it goes."""
    new = write_texts(ROWS, tmp_path / "new.parquet")
    written(tmp_path / "one", new=new)
    written(tmp_path / "two", new=new, scope_of=lambda id_, url: "document" if url else "cluster")
    assert files_of(tmp_path / "one")[1] == files_of(tmp_path / "two")[1]


def test_scopes_are_asked_by_id_and_url(tmp_path: Path, write_texts: WriteTexts) -> None:
    asked: list[tuple[str, str]] = []

    def scope_of(document_id: str, url: str) -> str:
        asked.append((document_id, url))
        return ""

    written(tmp_path / "out", new=write_texts(ROWS, tmp_path / "new.parquet"), scope_of=scope_of)
    assert asked == [row[:2] for row in ROWS]


def test_of_carried_only_what_is_taken_down_stays(tmp_path: Path, write_texts: WriteTexts) -> None:
    scopes = {"a": "document", "b": "cluster", "c": "cluster"}
    new = write_texts(ROWS, tmp_path / "new.parquet")
    written(tmp_path / "old", new=new, scope_of=lambda id_, url: scopes.get(id_, ""))
    again = write_texts([ROWS[1], ("e", "", "", "x")], tmp_path / "again.parquet")
    report = written(tmp_path / "out", carried=tmp_path / "old" / INDEX_FILE, new=again)
    assert rows_of(tmp_path / "out", "document_id", "taken_down") == [
        ("a", "document"),
        ("b", "cluster"),
        ("c", "cluster"),
        ("e", ""),
    ]
    assert touched(tmp_path / "out") == [0, 1, 2, 3]
    assert report == IndexReport(num_documents=4, num_new=4, num_keys=18)
    # the flag of a document that is there again stays, or grows
    written(tmp_path / "wider", carried=tmp_path / "old" / INDEX_FILE, new=new, scope_of=lambda id_, url: "cluster")
    assert rows_of(tmp_path / "wider", "taken_down") == [("cluster",)] * 4


def test_carried_rows_bear_other_parameters_where_the_documents_are_there(
    tmp_path: Path, write_texts: WriteTexts
) -> None:
    new = write_texts(ROWS, tmp_path / "new.parquet")
    written(tmp_path / "old", new=new, scope_of=lambda id_, url: "cluster" if id_ == "b" else "")
    other = MinHash(num_bands=5)
    written(tmp_path / "out", carried=tmp_path / "old" / INDEX_FILE, new=new, config=other)
    assert rows_of(tmp_path / "out", "taken_down") == [("",), ("cluster",), ("",), ("",)]
    assert open_index([tmp_path / "out" / INDEX_FILE]).config == other
    without = write_texts(ROWS[2:], tmp_path / "without.parquet")
    with pytest.raises(IndexFileError, match=r"old/index\.parquet: written with .*the same settings"):
        written(tmp_path / "refused", carried=tmp_path / "old" / INDEX_FILE, new=without, config=other)


def test_several_files_are_one_table(tmp_path: Path, write_texts: WriteTexts) -> None:
    for name, rows in (("0", ROWS[:1]), ("1", []), ("2", ROWS[1:])):
        written(tmp_path / name, new=write_texts(rows, tmp_path / f"{name}.parquet"))
    paths = tuple(tmp_path / name / INDEX_FILE for name in "012")
    files = open_index(paths)
    assert (files.paths, files.starts.tolist(), files.config) == (paths, [0, 1, 1, 4], CONFIG)
    assert files.starts.dtype == np.int64


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MinHash(seed=2), CONFIG.model_copy(update={"seed": 2})])
def test_refuses_other_parameters(tmp_path: Path, write_texts: WriteTexts, config: MinHash) -> None:
    new = write_texts(ROWS, tmp_path / "new.parquet")
    written(tmp_path / "one", new=new)
    written(tmp_path / "other", new=new, config=config)
    with pytest.raises(IndexFileError, match=r'other/index\.parquet: written with .*"seed": 2.* but now it is .*over'):
        written(tmp_path / "out", base=tmp_path / "other" / INDEX_FILE)
    with pytest.raises(IndexFileError, match=r"other/index\.parquet: written with .*one configuration"):
        open_index([tmp_path / "one" / INDEX_FILE, tmp_path / "other" / INDEX_FILE])


def test_refuses_another_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "one")
    monkeypatch.setattr(index.unicodedata, "unidata_version", "99.0.0")
    with pytest.raises(IndexFileError, match=r'written with .*"unicode": .* "99\.0\.0"'):
        written(tmp_path / "two", base=tmp_path / "one" / INDEX_FILE)


def test_refuses_what_is_no_index(tmp_path: Path, write_texts: WriteTexts) -> None:
    new = write_texts(ROWS, tmp_path / "new.parquet")
    for number, source in enumerate(("base", "carried")):
        with pytest.raises(IndexFileError, match=r"new\.parquet: not an index file"):
            written(tmp_path / str(number), **{source: new})
    with pytest.raises(IndexFileError, match="not an index file"):
        open_index([new])
    with pytest.raises(IndexFileError, match="no index files"):
        open_index([])


@pytest.mark.parametrize(
    ("ids", "message"),
    [("ba", "'a' stands after b"), ("aab", "'a' occurs twice"), (("",), "'' occurs twice")],
)
@pytest.mark.parametrize("batch", [1, 512])
def test_refuses_ids_that_do_not_ascend(
    tmp_path: Path,
    write_texts: WriteTexts,
    monkeypatch: pytest.MonkeyPatch,
    ids: Sequence[str],
    message: str,
    batch: int,
) -> None:
    monkeypatch.setattr(index, "_DOCUMENTS_PER_BATCH", batch)
    new = write_texts([(id_, "", "", "x") for id_ in ids], tmp_path / "new.parquet")
    with pytest.raises(IndexFileError, match=rf"new\.parquet: document_id {message}"):
        written(tmp_path / "out", new=new)


def test_refuses_a_new_document_that_is_in_the_base(tmp_path: Path, write_texts: WriteTexts) -> None:
    written(tmp_path / "one", new=write_texts(ROWS, tmp_path / "new.parquet"))
    new = write_texts(ROWS[2:3], tmp_path / "new.parquet")
    with pytest.raises(IndexFileError, match=r"new\.parquet: document_id 'c' is in .*one/index\.parquet already"):
        written(tmp_path / "out", base=tmp_path / "one" / INDEX_FILE, new=new)


def test_refuses_missing_columns_and_nulls(tmp_path: Path) -> None:
    new = tmp_path / "new.parquet"
    pq.write_table(pa.table({"document_id": ["a"], "body": ["x"]}), new)
    with pytest.raises(IndexFileError, match=r"new\.parquet: no column date, text, url"):
        written(tmp_path / "0", new=new)
    columns = {"document_id": ["a"], "url": [""], "date": [""], "text": ["x"]}
    for number, name in enumerate(("url", "date", "text"), 1):
        pq.write_table(pa.table({**columns, name: pa.array([None], pa.string())}), new)
        with pytest.raises(IndexFileError, match=rf"new\.parquet: column {name} has nulls"):
            written(tmp_path / str(number), new=new)


def test_binary_to_hashes_of_slices_and_chunks() -> None:
    column = pa.array([bytes([number] * 16) for number in range(4)], pa.binary(16))
    expected = [[int.from_bytes(bytes([number] * 8), "little")] * 2 for number in range(4)]
    assert binary_to_hashes(column.slice(1, 2)).tolist() == expected[1:3]
    assert binary_to_hashes(pa.chunked_array([column.slice(2), column.slice(0, 1)])).tolist() == [
        *expected[2:],
        expected[0],
    ]
    assert binary_to_hashes(column.slice(0, 0)).shape == (0, 2)
