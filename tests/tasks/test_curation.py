"""A whole refresh in this process: what is fixed for everyone who builds on it."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks import curation
from tasks.ports import InProcessMap, ShardError
from tasks.recipes.curation import CurationRecipe, fineweb, resolve_curation_recipe
from tasks.refresh import Refresh
from tasks.settle import LedgerError
from tasks.stages import StageOutput
from tasks.store import Store
from tasks.version_facts import corpus_digest
from tests.data.prose import corpus_members, page, prose, warc_record, write_warc

NUM_PAGES = 44


def refresh_in_process(
    root: Path, source: Path, recipe: CurationRecipe | None = None, name: str = "small", **options: Any
) -> tuple[Path, dict[str, Any], dict[str, StageOutput]]:
    """Every stage in order, without any engine: the published version, its manifest, and the stages' outputs.

    `options` are those of `Refresh.plan`. Where there is no change, it is the latest version, and no output.
    """
    store, shard_map = Store.open(root), InProcessMap()
    refresh = Refresh.plan(store, name, [str(source)], recipe or small_recipe(), **options)
    if (published := refresh.published()) is not None:
        return *published, {}
    outputs: dict[str, StageOutput] = {}
    screened = curation.Screened(0, {})
    if refresh.inputs_to_read:
        counted = curation.inventory(refresh, shard_map)
        records = curation.read(refresh, counted, shard_map)
        extracted = curation.extract(refresh, records, shard_map)
        identified = curation.identify_language(refresh, extracted, shard_map)
        good = curation.apply_rules(refresh, "quality", identified, shard_map)
        clean = curation.apply_rules(refresh, "toxicity", good, shard_map)
        stages = {"extract": extracted, "language": identified, "quality": good, "toxicity": clean}
        screened = curation.Screened(counted.report.records_in, stages)
        outputs = {"inventory": counted, "read": records, **stages}
    merged = curation.merge(refresh, screened, shard_map)
    path, manifest = curation.publish(refresh, screened, merged, shard_map)
    outputs |= {"gather": merged.gathered, "index": merged.dedup.index, "resolve": merged.dedup.resolved}
    return path, manifest, outputs


def small_recipe(**changes: Any) -> CurationRecipe:
    return fineweb().model_copy(update={"num_buckets": 4, "shard_records": 16, **changes})


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    return [row for file in sorted((path / table).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("refresh")
    path, manifest, _ = refresh_in_process(root / "store", write_warc(root / "pages.warc.gz", NUM_PAGES))
    return path, manifest


def test_every_record_has_exactly_one_ledger_row(published: tuple[Path, dict[str, Any]]) -> None:
    path, manifest = published
    ledger, documents = rows(path, "ledger"), rows(path, "documents")
    assert len(ledger) == len({row["record_id"] for row in ledger}) == NUM_PAGES == manifest["records_in"]
    kept = {row["record_id"] for row in ledger if row["outcome"] == "kept"}
    assert kept == {row["document_id"] for row in documents}
    removed = sum(count for reasons in manifest["removed"].values() for count in reasons.values())
    assert manifest["documents_kept"] + removed == NUM_PAGES
    assert all(row["reason"] for row in ledger if row["outcome"] != "kept")
    assert {row["outcome"] for row in ledger} == {"kept", "removed"}


def test_the_funnel_is_what_the_source_was_made_for(published: tuple[Path, dict[str, Any]]) -> None:
    _, manifest = published
    assert manifest["removed"]["quality"] == {"too_few_sentences": 3}  # pages 12, 25 and 38
    assert manifest["removed"]["exact_dedup"]["exact_duplicate"] >= 2
    assert manifest["removed"]["near_dedup"]["near_duplicate"] >= 3


def test_a_removed_duplicate_names_a_survivor_that_was_kept(published: tuple[Path, dict[str, Any]]) -> None:
    path, _ = published
    documents = {row["document_id"]: row for row in rows(path, "documents")}
    duplicates = [row for row in rows(path, "ledger") if row["stage"] in {"exact_dedup", "near_dedup"}]
    assert duplicates
    for row in duplicates:
        survivor = documents[row["survivor_id"]]
        assert survivor["cluster_size"] > 1 and survivor["cluster_id"] == survivor["document_id"]
        assert survivor["document_id"] < row["record_id"]  # equal dates: the smaller id survives


def test_the_extracted_text_is_the_articles(published: tuple[Path, dict[str, Any]]) -> None:
    path, _ = published
    texts = {row["url"]: row["text"] for row in rows(path, "documents")}
    text = texts["https://site0.example/0.html"]
    assert prose(0).splitlines()[0] in text
    assert "Home" not in text and "All rights reserved" not in text


def test_the_digest_does_not_depend_on_files_shards_or_order(
    published: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, manifest = published
    members = corpus_members(NUM_PAGES)
    random.Random(1).shuffle(members)
    source = tmp_path / "parts"
    source.mkdir()
    for index in range(4):
        (source / f"part-{index}.warc.gz").write_bytes(b"".join(members[index::4]))
    recipe = small_recipe(shard_records=5)
    assert refresh_in_process(tmp_path / "store", source, recipe)[1]["digest"] == manifest["digest"]


def test_the_digest_is_of_rows_and_notices_each_field(published: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, manifest = published
    files = sorted((path / "documents").glob("*.parquet"))
    assert corpus_digest(files) == manifest["digest"]
    whole = pq.read_table(path / "documents").sort_by("document_id")
    pq.write_table(whole, tmp_path / "one.parquet", row_group_size=3)
    assert corpus_digest([tmp_path / "one.parquet"]) == manifest["digest"]
    for column in ("document_id", "url", "date", "text_sha256", "language"):
        values = whole[column].to_pylist()
        values[-1] += "x"
        index = whole.schema.get_field_index(column)
        pq.write_table(whole.set_column(index, column, [values]), tmp_path / "changed.parquet")
        assert corpus_digest([tmp_path / "changed.parquet"]) != manifest["digest"], column


def test_a_changed_threshold_recomputes_its_stage_and_what_follows(tmp_path: Path) -> None:
    source = write_warc(tmp_path / "pages.warc.gz", 12)
    first = refresh_in_process(tmp_path / "store", source)
    again = refresh_in_process(tmp_path / "store", source, name="again")
    assert again[2] and all(output.reused for output in again[2].values())
    changed = resolve_curation_recipe("fineweb", {"gopher_quality.min_words": "2", "num_buckets": "4"})
    changed = changed.model_copy(update={"shard_records": 16})
    third = refresh_in_process(tmp_path / "store", source, changed)
    assert {name for name, output in third[2].items() if output.reused} == {
        "inventory",
        "read",
        "extract",
        "language",
    }
    assert first[1]["version"] == 1 and third[1]["version"] == 2


def test_a_refresh_that_was_published_is_recognised(tmp_path: Path) -> None:
    source = write_warc(tmp_path / "pages.warc.gz", 6)
    path, manifest, _ = refresh_in_process(tmp_path / "store", source)
    refresh = Refresh.plan(Store.open(tmp_path / "store"), "small", [str(source)], small_recipe())
    assert refresh.published() == (path, json.loads((path / "manifest.json").read_bytes())) == (path, manifest)
    write_warc(source, 7)
    changed = Refresh.plan(refresh.store, "small", [str(source)], refresh.recipe)
    assert changed.published() is None


def test_equal_records_get_occurrence_numbers_that_do_not_depend_on_order(tmp_path: Path) -> None:
    url = "https://twice.example/"
    bodies = [page(prose(index)) for index in (1, 2)]
    one, two = (gzip.compress(warc_record(url, body), mtime=0) for body in bodies)  # one WARC-Record-ID, two payloads
    states = []
    for order, members in enumerate(([one, two, one], [two, one, one])):
        source = tmp_path / f"{order}.warc.gz"
        source.write_bytes(b"".join(members))
        path, manifest, outputs = refresh_in_process(tmp_path / f"store{order}", source)
        ledger = rows(path, "ledger")
        assert sorted(row["record_id"].split("-")[1] for row in ledger) == ["0", "0", "1"]
        assert len({row["record_id"].split("-")[0] for row in ledger}) == 2
        assert outputs["read"].manifest["extra"] == {"repeated_ids": 1}
        assert manifest["documents_kept"] == 1  # one address
        states.append((manifest["digest"], [(row["record_id"], row["reason"], row["survivor_id"]) for row in ledger]))
    assert states[0] == states[1]


@pytest.mark.parametrize("with_id", [True, False])
def test_a_record_with_two_verdicts_does_not_depend_on_which_file_holds_which(tmp_path: Path, with_id: bool) -> None:
    """The same record once as 200 and once as 404: which of the two ids was published must not hang on file names."""
    found = warc_record("https://both.example/", page(prose(5)))
    gone = found.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 404 No")
    if not with_id:
        found, gone = (
            b"\r\n".join(line for line in record.split(b"\r\n") if not line.startswith(b"WARC-Record-ID"))
            for record in (found, gone)
        )
    digests = []
    for order, records in enumerate(((found, gone), (gone, found))):
        source = tmp_path / f"source{order}"
        source.mkdir()
        for index, record in enumerate(records):
            (source / f"{index}.warc.gz").write_bytes(gzip.compress(record, mtime=0))
        _, manifest, _ = refresh_in_process(tmp_path / f"store{order}", source)
        assert manifest["records_in"] == 2 and manifest["documents_kept"] == 1
        digests.append(manifest["digest"])
    assert digests[0] == digests[1]


def test_a_file_that_changes_between_counting_and_reading_leaves_no_shard(tmp_path: Path) -> None:
    """A shard that holds less than was counted would be found again by every later run."""
    source, store, shard_map = write_warc(tmp_path / "pages.warc.gz", 6), Store.open(tmp_path / "store"), InProcessMap()
    refresh = Refresh.plan(store, "small", [str(source)], small_recipe())
    counted = curation.inventory(refresh, shard_map)
    write_warc(source, 5)
    with pytest.raises(ShardError, match=r"pages\.warc\.gz: 6 records were counted from 0 on and 5 read"):
        curation.read(refresh, counted, shard_map)
    assert [path.name for path in (store.work / "read" / "shards").iterdir()] == [".lock"]
    _, manifest, _ = refresh_in_process(store.root, source)
    assert manifest["records_in"] == 5


def test_what_lies_unfinished_where_the_version_goes_is_replaced(tmp_path: Path) -> None:
    leftover = tmp_path / "store" / "corpora" / "small" / "1" / "documents"
    leftover.mkdir(parents=True)
    (leftover / "strange.parquet").write_bytes(b"")
    path, manifest, _ = refresh_in_process(tmp_path / "store", write_warc(tmp_path / "pages.warc.gz", 6))
    assert path.name == "1" and not (path / "documents" / "strange.parquet").exists()
    assert len(rows(path, "ledger")) == manifest["records_in"] == 6


def test_formatters_leave_their_edits(published: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    text = prose(3) + "\nThis site uses cookies and has a privacy policy for everyone."
    source = tmp_path / "pages.warc.gz"
    source.write_bytes(gzip.compress(warc_record("https://a.example/", page(text)), mtime=0))
    path, manifest, _ = refresh_in_process(tmp_path / "store", source)
    edits = rows(path, "edits")
    assert manifest["edits"] == len(edits) > 0
    cookie = [edit for edit in edits if "uses cookies" in edit["removed"]]
    assert len(cookie) == 1 and cookie[0]["kind"] == "line_removed" and cookie[0]["stage"] == "quality"
    document = rows(path, "documents")[0]
    assert "uses cookies" not in document["text"] and cookie[0]["document_id"] == document["document_id"]


def test_a_missing_ledger_row_stops_the_run(published: tuple[Path, dict[str, Any]]) -> None:
    from tasks.document import ShardReport

    curation.check_adds_up(5, [ShardReport(3, 1), ShardReport(2, 2)])
    with pytest.raises(LedgerError, match="6 records, the ledger 5 rows: nothing was published"):
        curation.check_adds_up(6, [ShardReport(3, 1), ShardReport(2, 2)])


def test_a_run_that_loses_a_record_publishes_nothing(tmp_path: Path) -> None:
    """Fault injection: one ledger row of one finished shard vanishes."""
    store, source = Store.open(tmp_path / "store"), write_warc(tmp_path / "pages.warc.gz", 16)
    _, _, outputs = refresh_in_process(store.root, source, name="other")
    ledger = outputs["quality"].shards[0] / "ledger.parquet"
    table = pq.read_table(ledger)
    assert len(table) > 0
    ledger.unlink()
    pq.write_table(table.slice(1), ledger)
    for stage in ("gather_runs", "gather", "settle", "publish"):  # what follows, made by the other corpus
        shutil.rmtree(store.work / stage)
    with pytest.raises(LedgerError, match="16 records, the ledger 15 rows"):
        refresh_in_process(store.root, source)
    assert store.versions("small") == []
