from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.dedup import clusters
from tasks.dedup.clusters import Cluster, SignatureFileError, resolve_clusters, write_signatures
from tasks.dedup.signature import MinHash, bands, estimated_jaccard, signatures
from tasks.dedup.signature_file import CONFIG_KEY, ROWS_KEY, signature_schema

ARTICLES = Path(__file__).resolve().parents[3] / "../shared/data/dedup"
FINEWEB = MinHash()
SMALL = MinHash(num_bands=4, rows_per_band=2, shingle_words=2)
Row = tuple[str, str, str]  # (document_id, date, text)


# --- tiny integers in, exact lists out --------------------------------------------------------------------------------

TINY = MinHash(num_bands=2, rows_per_band=2)


def write_keys(rows: Sequence[tuple[str, str, int, list[int]]], path: Path) -> Path:
    """A signature file by hand, of (document_id, date, text, signature); each band's key is its rows' sum."""
    columns: list[Any] = [
        [row[0] for row in rows],
        [row[1] for row in rows],
        [bytes([row[2]] * 32) for row in rows],
        *([sum(row[3][2 * band : 2 * band + 2]) for row in rows] for band in range(2)),
        [np.array(row[3], dtype="<u8").tobytes() for row in rows],
    ]
    schema = signature_schema(TINY)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    metadata = {CONFIG_KEY: TINY.model_dump_json()[:-1] + ', "unicode": "14.0.0"}', ROWS_KEY: path.name}
    pq.write_table(pa.table(arrays, schema=schema).replace_schema_metadata(metadata), path)
    return path


def test_a_chain_is_one_cluster(tmp_path: Path, edge_writer: Callable[..., list[Path]]) -> None:
    files = [
        write_keys(
            [
                ("d", "2024", 4, [90, 91, 92, 93]),  # alone
                ("c", "2023", 3, [30, 31, 21, 22]),  # shares its second band with b
                ("a", "2022", 1, [10, 11, 12, 13]),  # shares its first band with b, none with c
            ],
            tmp_path / "one.parquet",
        ),
        write_keys(
            [
                ("b", "2023", 2, [10, 11, 21, 22]),
                ("z", "2022", 3, [30, 31, 21, 22]),  # the text of c, earlier than c, later than a
                ("e", "", 5, [50, 51, 52, 53]),
                ("f", "", 5, [50, 51, 52, 53]),
            ],
            tmp_path / "two.parquet",
        ),
    ]
    report = resolve_clusters(files, edge_writer(files, tmp_path, 2), tmp_path / "clusters.parquet")
    table = pq.read_table(tmp_path / "clusters.parquet")
    assert table.schema.remove_metadata().equals(clusters.CLUSTER_SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", "a", 4, "a", True, None, None, None),
        ("z", "a", 4, "a", False, "near_dedup", 0.0, None),
        ("b", "a", 4, "a", False, "near_dedup", 0.5, None),
        ("c", "a", 4, "a", False, "exact_dedup", 0.0, None),
        ("e", "e", 2, "e", True, None, None, None),
        ("f", "e", 2, "e", False, "exact_dedup", 1.0, None),
    ]
    assert (report.num_documents, report.num_clusters, report.removed_exact, report.removed_near) == (7, 2, 2, 2)
    assert report.largest_clusters == (Cluster("a", 4), Cluster("e", 2))
    assert report.kept == 3


def test_nothing_to_remove(deduplicate: Callable[..., Any]) -> None:
    for shards in ([[]], [[], []], [[("a", "", "some text")]], [[("a", "", "some text")], [("b", "", "another one")]]):
        result = deduplicate(shards, SMALL)
        assert result.rows == []
        assert result.report.num_documents == sum(map(len, shards)) == result.report.kept
        assert result.report.largest_clusters == ()


def test_unknown_dates_come_first_and_ids_break_ties(deduplicate: Callable[..., Any]) -> None:
    assert deduplicate([[("a", "2020", "same"), ("b", "", "same")]], SMALL).removed == {"a": "b"}
    assert deduplicate([[("b", "2020", "same"), ("a", "2020", "same")]], SMALL).removed == {"b": "a"}
    assert deduplicate([[("é", "2020", "same"), ("z", "2020", "same")]], SMALL).removed == {"é": "z"}


def test_equal_texts_without_words_merge_and_others_do_not(deduplicate: Callable[..., Any]) -> None:
    rows = [("a", "", ""), ("b", "", "!!!"), ("c", "", ""), ("d", "", "???"), ("e", "", "  ")]
    result = deduplicate([rows], FINEWEB)
    assert result.removed == {"c": "a"}
    assert result.rows[1]["stage"] == "exact_dedup"


def test_largest_clusters_first_and_limited(deduplicate: Callable[..., Any]) -> None:
    rows = [(f"{group:02d}-{member}", "", f"text {group}") for group in range(25) for member in range(2 + (group == 7))]
    largest = deduplicate([rows], SMALL).report.largest_clusters
    assert largest[:2] == (Cluster("07-0", 3), Cluster("00-0", 2))
    assert len(largest) == 20


def test_signatures_are_compared_in_passes(deduplicate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    base = [" ".join(rng.choices("abcdefghijklmnopqrst", k=60)) for _ in range(9)]
    rows = [(f"{copy}-{number}", "", f"{text} tail {copy}") for copy in range(3) for number, text in enumerate(base)]
    whole = deduplicate([rows[:10], rows[10:]], FINEWEB)
    assert len(whole.removed) == 18
    values = [row["value"] for row in whole.rows if not row["kept"]]
    assert min(values) > 0.5
    assert len(set(values)) > 4  # so that a value in the wrong place shows
    monkeypatch.setattr(clusters, "SURVIVORS_PER_PASS", 2)
    assert deduplicate([rows[:10], rows[10:]], FINEWEB).file_bytes == whole.file_bytes


def test_refuses_a_shard_given_twice(
    tmp_path: Path, shard_writer: Callable[..., Path], edge_writer: Callable[..., list[Path]]
) -> None:
    documents = shard_writer([("a", "", "x"), ("b", "", "y")], tmp_path / "documents.parquet")
    write_signatures(documents, tmp_path / "s.parquet", SMALL)
    files = [tmp_path / "s.parquet"] * 2
    with pytest.raises(SignatureFileError, match=r"document_id a occurs in more than one place \(2 such ids\)"):
        resolve_clusters(files, edge_writer(files, tmp_path, 4), tmp_path / "clusters.parquet")


# --- against a slow reference, and whatever the shards ----------------------------------------------------------------

vocabulary = st.sampled_from(["a", "b", "c", "D", "!"])
documents = st.lists(
    st.tuples(st.sampled_from(["", "2023", "2024"]), st.lists(vocabulary, max_size=7).map(" ".join)), max_size=12
).map(lambda items: [(f"id{number}", date, text) for number, (date, text) in enumerate(items)])


def naive_survivors(rows: Sequence[Row], config: MinHash) -> dict[str, str]:
    """Every document's survivor, by merging labels pair by pair until nothing changes."""
    found = signatures([text for _, _, text in rows], config)
    keys = bands(found, config)
    labels = [min((date, document_id) for document_id, date, _ in [row]) for row in rows]
    changed = True
    while changed:
        changed = False
        for i in range(len(rows)):
            for j in range(len(rows)):
                related = rows[i][2] == rows[j][2] or (keys[i] == keys[j]).any()
                if related and labels[i] < labels[j]:
                    labels[j], changed = labels[i], True
    return {row[0]: label[1] for row, label in zip(rows, labels, strict=True)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=documents, data=st.data())
def test_result_depends_on_the_documents_alone(
    deduplicate: Callable[..., Any], rows: list[Row], data: st.DataObject
) -> None:
    one_shard = deduplicate([rows], SMALL)
    expected = naive_survivors(rows, SMALL)
    assert one_shard.removed == {name: survivor for name, survivor in expected.items() if name != survivor}
    assert {row["document_id"] for row in one_shard.rows if row["kept"]} == set(one_shard.removed.values())

    by_id = {name: (date, name, text) for name, date, text in rows}
    found = {name: signatures([text], SMALL) for name, _, text in rows}
    for row in one_shard.rows:
        assert row["cluster_id"] == row["survivor_id"]
        assert row["cluster_size"] == list(expected.values()).count(row["cluster_id"])
        if row["kept"]:
            continue
        own = by_id[row["document_id"]]
        has_earlier_copy = any(text == own[2] and (date, name) < own[:2] for name, date, text in rows)
        assert row["stage"] == ("exact_dedup" if has_earlier_copy else "near_dedup")
        assert row["value"] == estimated_jaccard(found[row["document_id"]], found[row["survivor_id"]])[0]

    # the same documents in another order and other shards, empty ones among them
    shuffled = data.draw(st.permutations(rows))
    num_shards = data.draw(st.integers(1, 4))
    places = data.draw(st.lists(st.integers(0, num_shards - 1), min_size=len(rows), max_size=len(rows)))
    shards = [[row for row, at in zip(shuffled, places, strict=True) if at == shard] for shard in range(num_shards)]
    again = deduplicate(shards, SMALL)
    assert again.file_bytes == one_shard.file_bytes
    assert again.report == one_shard.report

    # deduplicating what was kept removes nothing
    kept = [row for row in rows if row[0] not in one_shard.removed]
    assert deduplicate([kept], SMALL).rows == []


# --- articles ---------------------------------------------------------------------------------------------------------


def test_rewritten_articles_are_found_and_the_rest_is_not(deduplicate: Callable[..., Any]) -> None:
    """The twin of the test below: 200 texts of 250 random words, 5 of them again with one word doubled."""
    rng = random.Random(11)
    lexicon = [f"word{number}" for number in range(3000)]
    articles = [rng.choices(lexicon, k=250) for _ in range(200)]
    rows = [(f"t{number:03d}", "", " ".join(article)) for number, article in enumerate(articles)]
    rows += [(f"u{number:03d}", "", " ".join(articles[number][:6] + articles[number][5:])) for number in range(5)]
    assert deduplicate([rows[:70], rows[70:]], FINEWEB).removed == {f"u{n:03d}": f"t{n:03d}" for n in range(5)}


def test_finds_all_ten_pairs_among_a_thousand_articles_and_no_other(deduplicate: Callable[..., Any]) -> None:
    if not ARTICLES.is_dir():
        pytest.skip("the thousand articles are not here (see the README of the shared data)")
    with gzip.open(ARTICLES / "articles_1000.train.gz", "rt", encoding="utf-8") as lines:
        rows = [(name, "", text) for name, text in (line.rstrip("\n").split(" ", 1) for line in lines)]
    truth = {frozenset(line.split()) for line in (ARTICLES / "articles_1000.truth").read_text().splitlines()}
    result = deduplicate([rows[:300], rows[300:]], FINEWEB)
    assert {frozenset(pair) for pair in result.removed.items()} == truth
    assert all(row["value"] > 0.85 for row in result.rows if not row["kept"])  # their true similarity is .96 to .97
    assert result.report.removed_exact == 0
