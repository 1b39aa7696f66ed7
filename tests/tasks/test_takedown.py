"""The search behind a takedown: every record that is named, in every version, with its copies."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.dedup.config import Deduplication
from tasks.store import Store
from tasks.takedown import TakedownQuery, find_documents, is_public_suffix, newly_taken_down
from tasks.tombstones import Tombstones
from tests.data.prose import prose
from tests.tasks.page_store import add, id_of, near_copy, recipe, refresh, row, table, take_down, urls


def query(**named: str) -> TakedownQuery:
    return TakedownQuery.model_validate({f"{kind}s": (value,) for kind, value in named.items()})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """web@1: two pages of bad.example, one with a near copy elsewhere, and others. web@2: an exact copy comes, too.
    other@1: one page of a host under bad.example."""
    store = Store.open(tmp_path_factory.mktemp("takedown") / "store")
    first = [
        row(1, "https://bad.example/one"),
        row(2, "https://www.bad.example/two", "2024-01-02T00:00:00Z"),
        row(near_copy(1), "https://mirror.example/one", "2024-02-01T00:00:00Z"),
        *(row(seed, f"https://good.example/{seed}") for seed in range(10, 18)),
        row("Too short.", "https://bad.example/short"),
    ]
    add(store, "web", first)
    add(store, "web", [row(2, "https://copy.example/two", "2025-01-01T00:00:00Z")])
    add(store, "other", [row(3, "https://deep.BAD.example/three"), row(4, "https://good.example/four")])
    return store


def test_a_domain_is_found_in_every_corpus_and_version_with_what_became_of_each_page(store: Store) -> None:
    found = find_documents(store, query(domain="bad.example"))
    by_url = {record.url: record for record in found.records.values()}
    assert {record.url for record in found.asked} == {
        "https://bad.example/one",
        "https://www.bad.example/two",
        "https://bad.example/short",
        "https://deep.BAD.example/three",
    }
    one = by_url["https://bad.example/one"]
    assert {reference: state.state for reference, state in one.versions.items()} == {"web@1": "kept", "web@2": "kept"}
    assert by_url["https://bad.example/short"].versions["web@1"].state == "screened_out"
    assert list(by_url["https://deep.BAD.example/three"].versions) == ["other@1"]
    assert found.names("cluster") == ["other", "web"]


def test_copies_are_those_of_the_latest_clusters(store: Store) -> None:
    found = find_documents(store, query(domain="bad.example"))
    copies = {record.url: record for record in found.copies}
    assert set(copies) == {"https://mirror.example/one", "https://copy.example/two"}
    near = copies["https://mirror.example/one"].versions["web@2"]
    assert near.state == "duplicate" and near.reason == "near_duplicate"
    assert near.survivor_id == id_of(store, "web@2", "https://bad.example/one")
    assert list(copies["https://copy.example/two"].versions) == ["web@2"]
    assert set(found.targets("document")) == {record.record_id for record in found.asked}
    assert set(found.targets("cluster")) == set(found.records)


def test_the_cluster_of_a_removed_page_is_that_of_its_survivor(store: Store) -> None:
    found = find_documents(store, query(url="https://mirror.example/one"))
    assert [record.url for record in found.asked] == ["https://mirror.example/one"]
    assert [record.url for record in found.copies] == ["https://bad.example/one"]


def test_the_same_text_is_found_in_a_corpus_that_never_saw_both(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    add(store, "web", [row(1, "https://bad.example/1"), row(2, "https://good.example/2")])
    add(
        store, "news", [row(1, "https://reprint.example/1"), row(near_copy(1), "https://reprint.example/2"), row(3, "")]
    )
    found = find_documents(store, query(domain="bad.example"))
    assert {record.url for record in found.copies} == {"https://reprint.example/1", "https://reprint.example/2"}
    assert found.names("cluster") == ["news", "web"] and found.names("document") == ["web"]
    assert {record.url for record in find_documents(store, query(domain="bad.example"), ["web"]).records.values()} == {
        "https://bad.example/1"
    }


def test_a_url_is_found_however_it_is_written_and_a_document_by_its_id(store: Store) -> None:
    written = find_documents(store, query(url="HTTPS://BAD.example:443/one#part"))
    assert [record.url for record in written.asked] == ["https://bad.example/one"]
    by_id = find_documents(store, query(document=id_of(store, "web@1", "https://bad.example/one")))
    assert set(by_id.records) == set(written.records)


def test_the_search_can_be_kept_to_one_corpus(store: Store) -> None:
    found = find_documents(store, query(domain="bad.example"), ["other"])
    assert [record.url for record in found.records.values()] == ["https://deep.BAD.example/three"]
    with pytest.raises(ValueError, match="there is no corpus 'missing'"):
        find_documents(store, query(domain="bad.example"), ["missing"])


def test_what_nobody_knows_is_not_found(store: Store) -> None:
    for unknown in (
        query(domain="nowhere.example"),
        query(url="https://bad.example/"),
        query(document="0" * 32 + "-0"),
    ):
        assert find_documents(store, unknown).records == {}


def test_a_part_that_versions_share_is_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import takedown

    read: list[Path] = []
    rows = takedown._rows

    def counted(version, part, wanted):  # type: ignore[no-untyped-def]
        read.append(version.folder / part["path"])
        return rows(version, part, wanted)

    monkeypatch.setattr(takedown, "_rows", counted)
    find_documents(store, query(domain="nowhere.example"), ["web"])
    first, second = (
        {
            part["sha256"]
            for part in store.corpus_manifest(f"web@{number}")["parts"]
            if part["path"].startswith("ledger")
        }
        for number in (1, 2)
    )
    assert len(read) == len(first | second) < len(first) + len(second)


def test_rules_name_the_query_the_urls_of_documents_and_the_copies(store: Store) -> None:
    found = find_documents(store, query(document=id_of(store, "web@1", "https://bad.example/one")))
    [copy] = found.copies
    wide = found.rules("cluster", "asked to", "2026-01-01T00:00:00Z")
    assert {rule.names for rule in wide.rules} == {
        ("document", found.asked[0].record_id),
        ("url", "https://bad.example/one"),
        ("document", copy.record_id),
    } and {rule.scope for rule in wide.rules} == {"cluster"}
    narrow = found.rules("document", "", "")
    assert copy.record_id not in {rule.value for rule in narrow.rules}
    assert {rule.scope for rule in narrow.rules} == {"document"}


@pytest.mark.parametrize(
    ("named", "refusal"),
    [
        ({"domains": ["com"]}, "public suffix"),
        ({"domains": ["co.uk"]}, "public suffix"),
        ({"domains": ["рф"]}, "public suffix"),
        ({"domains": ["https://a.org/x"]}, "no domain"),
        ({"domains": ["*.a.org"]}, "no domain"),
        ({"domains": [" . "]}, "no domain"),
        ({"urls": ["example.org"]}, "no URL"),
        ({"urls": ["/local/file.html"]}, "no URL"),
        ({"documents": ["deadbeef"]}, "no document id"),
        ({}, "nothing to take down"),
    ],
)
def test_what_would_name_nothing_or_everything_is_refused(named: dict[str, list[str]], refusal: str) -> None:
    with pytest.raises(ValidationError, match=refusal):
        TakedownQuery.model_validate(named)


def test_public_suffixes_are_told_from_domains() -> None:
    assert [is_public_suffix(host) for host in ("com", "co.uk", "xn--p1ai")] == [True] * 3
    assert [is_public_suffix(host) for host in ("a.com", "intranet", "127.0.0.1", "b.co.uk")] == [False] * 4


def test_a_takedown_takes_the_cluster_and_is_found_again(tmp_path: Path) -> None:
    """Once more after the takedown: clusters are known from the version before, and nothing is left to flag."""
    store = Store.open(tmp_path / "store")
    add(
        store,
        "web",
        [row(1, "https://bad.example/1"), row(near_copy(1), "https://m.example/1", "2025-01-01T00:00:00Z")],
    )
    before = add(store, "web", [row(seed, f"https://good.example/{seed}") for seed in range(10, 14)])
    named = query(domain="bad.example")
    manifest = take_down(store, "web", named)
    assert manifest["version"] == 3 and urls(store, "web@3") == urls(store, "web@2") - {"https://bad.example/1"}
    states = {one["url"]: (one["stage"], one["outcome"]) for one in table(store, "web@3", "ledger")}
    assert states["https://bad.example/1"] == states["https://m.example/1"] == ("takedown", "removed")
    changed = {part["path"] for part in manifest["parts"]} - {
        part["path"] for part in manifest["parts"] if part["sha256"] in {one["sha256"] for one in before["parts"]}
    }
    ids = [id_of(store, "web@3", url) for url in ("https://bad.example/1", "https://m.example/1")]
    buckets = {int(one[:4], 16) * 4 // 65536 for one in ids}
    assert {int(path.split("bucket-")[1][:3]) for path in changed} <= buckets  # only theirs were written
    again = find_documents(store, named)
    assert {record.url for record in again.copies} == {"https://m.example/1"}
    assert newly_taken_down(again.latest("web"), again.to_flag("web", "cluster"), "cluster") == {}


def test_a_repetition_reaches_no_further(tmp_path: Path) -> None:
    """What is kept out as a copy of a copy is not itself taken down: else each repetition took the next of a chain."""
    store = Store.open(tmp_path / "store")
    first = prose(1)
    second = f"{first}\n{prose(2)[: len(first) // 4]}"
    third = f"{second}\n{prose(3)[: len(second) // 4]}"
    pages = [
        row(first, "https://bad.example/1"),
        row(second, "https://m.example/2", "2025-01-01T00:00:00Z"),
        row(third, "https://m.example/3", "2025-02-01T00:00:00Z"),
    ]
    add(store, "web", [*pages, row(11, "https://good.example/11")])
    assert urls(store, "web@1") == {"https://bad.example/1", "https://m.example/3", "https://good.example/11"}
    named = query(domain="bad.example")
    manifest = take_down(store, "web", named)
    reasons = {one["url"]: one["reason"] for one in table(store, "web@2", "ledger")}
    assert reasons["https://m.example/2"] == "taken_down" and reasons["https://m.example/3"] == "taken_down_copy"
    again = find_documents(store, named)
    assert {record.url for record in again.copies} == {"https://m.example/2", "https://m.example/3"}
    assert newly_taken_down(again.latest("web"), again.to_flag("web", "cluster"), "cluster") == {}
    before = Tombstones(rules=manifest["tombstones"])
    assert before.merged(again.rules("cluster", "asked to", "2026-01-01T00:00:00Z")) == before


def test_who_holds_a_repeated_paragraph_is_no_copy(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    shared = max(prose(5).split("\n"), key=len)
    rows = [
        row(f"{prose(1)}\n{shared}", "https://good.example/1"),
        row(f"{prose(2)}", "https://good.example/2"),
        row(f"{shared}\n{prose(2)}", "https://bad.example/3", "2025-01-01T00:00:00Z"),
    ]
    paragraphs = recipe(deduplication=Deduplication(min_paragraph_chars=20, min_jaccard=1.0))
    add(store, "web", rows, recipe=paragraphs)
    lost = {one["url"]: one["reason"] for one in table(store, "web@1", "ledger") if one["stage"] == "paragraph_dedup"}
    assert lost == {"https://bad.example/3": "all_paragraphs_repeated"}
    found = find_documents(store, query(domain="bad.example"))
    assert [record.url for record in found.records.values()] == ["https://bad.example/3"]
    assert find_documents(store, query(domain="good.example")).copies == []


def test_these_alone_leaves_their_copies_in(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    pages = [row(1, "https://bad.example/1"), row(near_copy(1), "https://m.example/1", "2025-01-01T00:00:00Z")]
    add(store, "web", [*pages, row(11, "https://good.example/11")])
    assert urls(store, "web@1") == {"https://bad.example/1", "https://good.example/11"}
    take_down(store, "web", query(domain="bad.example"), "document")
    assert urls(store, "web@2") == {"https://m.example/1", "https://good.example/11"}  # the copy is revived
    found = find_documents(store, query(domain="bad.example"))
    latest = found.latest("web")
    assert newly_taken_down(latest, found.to_flag("web", "document"), "document") == {}
    assert set(newly_taken_down(latest, found.to_flag("web", "cluster"), "cluster").values()) == {
        "cluster"
    }  # goes further


def test_what_was_taken_down_does_not_come_back(tmp_path: Path) -> None:
    """Crawled again later, with other ids and dates; mirrored on another host, exactly and nearly; a new page of it."""
    store = Store.open(tmp_path / "store")
    kept = [row(seed, f"https://good.example/{seed}") for seed in range(10, 14)]
    add(store, "web", [row(1, "https://bad.example/1"), row(2, "https://bad.example/2"), *kept])
    take_down(store, "web", query(domain="bad.example"))
    later = "2026-06-01T00:00:00Z"
    manifest = add(
        store,
        "web",
        [
            row(1, "https://bad.example/1", later),
            row(9, "http://www.bad.example/new", later),
            row(1, "https://mirror.example/1", later),
            row(near_copy(2), "https://mirror.example/2", later),
            row(20, "https://good.example/20", later),
        ],
    )
    assert urls(store, "web@3") == {one["url"] for one in kept} | {"https://good.example/20"}
    ledger = {(one["url"], one["reason"]) for one in table(store, "web@3", "ledger") if one["stage"] == "takedown"}
    assert ("https://mirror.example/1", "taken_down_copy") in ledger
    assert ("https://mirror.example/2", "taken_down_copy") in ledger
    assert manifest["removed"]["takedown"] == {"taken_down": 4, "taken_down_copy": 2}
    found = find_documents(store, query(domain="bad.example"))
    assert {record.url for record in found.copies} == {"https://mirror.example/1", "https://mirror.example/2"}
    # and not with everything made again from the files either
    refreshed = add(store, "web", [row(21, "https://good.example/21", later)], replace=True)
    assert refreshed["base"] == 0
    assert {url for url in urls(store, "web@4") if "good" not in url} == set()


def test_other_content_under_a_taken_down_url_takes_no_other_page_with_it(tmp_path: Path) -> None:
    """A parking page, or an article that others hold too: it stays out, and theirs stay in."""
    store = Store.open(tmp_path / "store")
    kept = [row(seed, f"https://good.example/{seed}") for seed in range(10, 14)]
    add(store, "web", [row(1, "https://bad.example/1"), *kept])
    take_down(store, "web", query(domain="bad.example"))
    later = "2020-01-01T00:00:00Z"  # earlier than the others: it would survive them
    manifest = add(store, "web", [row(10, "https://bad.example/1", later), row(11, "https://bad.example/new", later)])
    assert urls(store, "web@3") == {one["url"] for one in kept} and manifest["taken_down"] == 0
    replaced = refresh(store, "web", replace=True)
    assert replaced["digest"] == manifest["digest"]
