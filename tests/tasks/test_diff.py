"""What changed between two versions: every document of either is of exactly one kind, however the versions are cut."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.diff import VersionDiff, compare, two_versions
from tasks.diff_moves import KINDS
from tasks.store import Store
from tests.tasks.version_folders import Published, Removed, Rows, document_id, moved, write_version

BASE: Rows = {
    document_id(name): row
    for name, row in {
        "same": Published("nothing happens to it", "https://a.example.co.uk/same"),
        "recrawled": Published("the page as it was", "https://example.org/page?b=2&a=1"),
        "edited": Published("first line\nsecond line\nthird line", "https://example.org/edited", "de"),
        "copied": Published("a text that others have as well", "https://copies.example.com/1"),
        "short": Published("too short", "https://example.org/short"),
        "vanished": Published("its file is gone"),
        "secret": Published("the name of somebody", "https://private.example.net/secret"),
        "twin": Removed("near_dedup", "near_duplicate", document_id("copied"), "https://copies.example.com/2"),
        "broken": Removed("read", "damaged"),
    }.items()
}
NEXT: Rows = moved(
    BASE,
    recrawled=None,
    recrawled_later=Published("the page as it is now", "https://EXAMPLE.org/page?a=1&b=2#top"),
    edited=Published("first line\nsecond phrase\nthird line", "https://example.org/edited", "de"),
    copied=Removed("near_dedup", "near_duplicate", document_id("older"), "https://copies.example.com/1"),
    older=Published("a text that others have as well, and is older", "https://older.example.com/"),
    short=Removed("quality", "too_few_words", None, "https://example.org/short"),
    vanished=None,
    secret=Removed("takedown", "taken_down", None, "https://private.example.net/secret"),
    twin=Published("a text that others have as well", "https://copies.example.com/2"),
)


@pytest.fixture
def diff(tmp_path: Path) -> VersionDiff:
    return compare(write_version(tmp_path, "web", 1, BASE), write_version(tmp_path, "web", 2, NEXT))


def test_every_kind_is_told_with_its_reason(diff: VersionDiff) -> None:
    reasons = {kind: diff.kinds[kind].reasons for kind in KINDS}
    assert reasons == {
        "added": (("input", "new_record", 1),),
        "revived": (("near_dedup", "near_duplicate", 1),),
        "changed": (("same_document", "other_text", 1), ("same_url", "other_text", 1)),
        "superseded": (("near_dedup", "near_duplicate", 1),),
        "removed": (("input", "no_longer_there", 1), ("quality", "too_few_words", 1)),
        "taken_down": (("takedown", "taken_down", 1),),
    }
    assert diff.unchanged == 1 and diff.counts()["changed"] == 2


def test_domains_are_those_that_somebody_registered(diff: VersionDiff) -> None:
    assert diff.kinds["changed"].domains == (("example.org", 2),)
    assert diff.kinds["superseded"].domains == (("example.com", 1),)
    assert diff.kinds["removed"].domains == (("(none)", 1), ("example.org", 1))
    assert diff.kinds["changed"].languages == (("de", 1), ("en", 1))


def test_samples_have_the_text_the_survivor_and_the_difference(diff: VersionDiff) -> None:
    (superseded,) = diff.kinds["superseded"].samples
    assert superseded.text == "a text that others have as well" and superseded.other_id == document_id("older")
    assert superseded.other_url == "https://older.example.com/"
    assert superseded.other_text == "a text that others have as well, and is older"
    changed = {sample.url: sample for sample in diff.kinds["changed"].samples}
    edited = changed["https://example.org/edited"]
    assert edited.difference == ("-second line", "+second phrase", " third line")
    page = changed["https://EXAMPLE.org/page?a=1&b=2#top"]
    assert (page.document_id, page.other_id) == (document_id("recrawled_later"), document_id("recrawled"))
    assert page.difference == ("-the page as it was", "+the page as it is now")


def test_no_text_of_what_was_taken_down_is_shown(diff: VersionDiff) -> None:
    (sample,) = diff.kinds["taken_down"].samples
    assert sample.url == "https://private.example.net/secret" and sample.text is None
    assert "the name of somebody" not in json.dumps(diff.as_json())


def test_estimated_tokens_are_those_of_the_texts_that_came_and_went(diff: VersionDiff) -> None:
    came = sum(len(NEXT[document_id(n)].text) for n in ("recrawled_later", "edited", "older", "twin"))  # type: ignore[union-attr]
    left = ("recrawled", "edited", "copied", "short", "vanished", "secret")
    went = sum(len(BASE[document_id(n)].text) for n in left)  # type: ignore[union-attr]
    assert (diff.estimated_tokens_added, diff.estimated_tokens_removed) == (came // 4, went // 4)


def test_records_that_a_rule_removed_in_either_version(diff: VersionDiff) -> None:
    assert diff.funnel == (
        ("read", "damaged", 1, 1),
        ("quality", "too_few_words", 0, 1),
        ("takedown", "taken_down", 0, 1),
        ("near_dedup", "near_duplicate", 1, 1),
    )


def test_equal_parts_are_not_read(tmp_path: Path) -> None:
    rows = {document_id(n): Published(f"text {n}") for n in range(200)}
    before = write_version(tmp_path, "web", 1, rows, num_buckets=8)
    after = write_version(tmp_path, "web", 2, moved(rows, **{"3": Published("another text")}), num_buckets=8)
    changed = int(document_id(3)[:4], 16) // 8192
    for part in [*before.glob("*/*.parquet"), *after.glob("*/*.parquet")]:
        if part.stem != f"bucket-{changed:03d}":
            part.unlink()
    diff = compare(before, after)
    assert (diff.num_buckets_read, diff.num_buckets, diff.unchanged) == (1, 8, 199)
    assert diff.counts()["changed"] == 1


def states(number: int) -> st.SearchStrategy[Published | Removed | None]:
    """What may become of one record: texts, URLs and reasons are few, so that all kinds occur."""
    texts = st.sampled_from(["one", "two\nlines", "three"])
    urls = st.sampled_from(["", "https://a.example/", "http://b.example/x", "https://b.example:443/x", "http://["])
    survivor = st.sampled_from([None, document_id(0), document_id(number)])
    return st.one_of(
        st.none(),
        st.builds(Published, texts, urls, st.sampled_from(["en", ""])),
        st.builds(Removed, st.sampled_from(["quality", "near_dedup", "takedown"]), st.just("why"), survivor),
    )


VERSION = st.tuples(*map(states, range(12))).map(
    lambda row: {document_id(number): state for number, state in enumerate(row) if state is not None}
)


@settings(max_examples=40)
@given(VERSION, VERSION, st.sampled_from([1, 2, 8]), st.sampled_from([1, 4, 8]))
def test_every_document_is_of_one_kind_however_the_versions_are_cut(
    tmp_path_factory: pytest.TempPathFactory, then: Rows, now: Rows, num_then: int, num_now: int
) -> None:
    corpora = tmp_path_factory.mktemp("corpora")
    before = write_version(corpora, "a", 1, then, num_buckets=num_then)
    after = write_version(corpora, "b", 1, now, num_buckets=num_now)
    diff = compare(before, after, samples=12)
    counts = diff.counts()
    kept_then, kept_now = (
        {key: row for key, row in rows.items() if isinstance(row, Published)} for rows in (then, now)
    )
    assert len(kept_now) == (
        len(kept_then)
        + counts["added"]
        + counts["revived"]
        - counts["superseded"]
        - counts["removed"]
        - counts["taken_down"]
    )
    assert diff.unchanged == sum(key in kept_now and kept_now[key].text == row.text for key, row in kept_then.items())
    left = [key for key in kept_then if key not in kept_now]
    assert counts["taken_down"] == sum(getattr(now.get(key), "stage", "") == "takedown" for key in left)
    for part in diff.kinds.values():
        assert sum(count for _, _, count in part.reasons) == part.documents
        assert sum(count for _, count in part.domains) + part.other_domains[1] == part.documents
        assert sum(count for _, count in part.languages) == part.documents == len(part.samples)
    ids = [sample.document_id for part in diff.kinds.values() for sample in part.samples]
    assert len(ids) == len(set(ids))
    same_cut = compare(
        write_version(corpora, "a", 2, then, num_buckets=1), write_version(corpora, "b", 2, now, num_buckets=1)
    )
    assert {kind: part.reasons for kind, part in diff.kinds.items()} == {
        kind: part.reasons for kind, part in same_cut.kinds.items()
    }


def test_backwards_what_came_goes_and_what_went_comes(tmp_path: Path) -> None:
    before, after = write_version(tmp_path, "web", 1, BASE), write_version(tmp_path, "web", 2, NEXT)
    back = compare(after, before)
    expected = {"added": 1, "revived": 3, "changed": 2, "superseded": 1, "removed": 1, "taken_down": 0, "unchanged": 1}
    assert back.counts() == expected


def test_a_domain_with_the_most_documents_comes_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows = {
        document_id(f"{site}-{page}"): Published(f"page {page}", f"https://www.site{site}.com/{page}")
        for site in range(25)
        for page in range(site + 1)
    }
    diff = compare(write_version(tmp_path, "web", 1, {}), write_version(tmp_path, "web", 2, rows))
    added = diff.kinds["added"]
    assert added.domains == tuple((f"site{site}.com", site + 1) for site in range(24, 4, -1))
    assert added.other_domains == (5, 1 + 2 + 3 + 4 + 5)


def test_a_difference_far_into_a_long_line_is_shown(tmp_path: Path) -> None:
    chance = random.Random(1)
    words = [str(chance.random()) for _ in range(20_000)]
    rows = {document_id(0): Published(" ".join(words))}
    words[15_000] = "here"
    other = {document_id(0): Published(" ".join(words))}
    diff = compare(write_version(tmp_path, "web", 1, rows), write_version(tmp_path, "web", 2, other))
    difference = diff.kinds["changed"].samples[0].difference
    assert any(line[0] == "+" and " here " in line for line in difference) and 0 < len(difference) <= 24
    assert max(map(len, difference)) <= 101


def write_tokens(folder: Path, digest: str, tokenizer: str, num_tokens: int, fraction: float = 0.05) -> None:
    """A manifest of token shards, which is all that is looked at."""
    folder.mkdir(parents=True)
    buckets = [{"train": {"num_tokens": num_tokens}, "held_out": {"num_tokens": 10}} for _ in range(2)]
    manifest = {"corpus_digest": digest, "tokenizer_sha256": tokenizer, "held_out": {"fraction": fraction}}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "buckets": buckets}))


def test_exact_tokens_are_those_of_a_tokenizer_that_both_have(tmp_path: Path) -> None:
    before, after = write_version(tmp_path, "web", 1, BASE), write_version(tmp_path, "web", 2, NEXT)
    digests = [json.loads((folder / "manifest.json").read_bytes())["digest"] for folder in (before, after)]
    write_tokens(tmp_path / "tokens/1", digests[0], "aaaa", 100)
    write_tokens(tmp_path / "tokens/2", digests[1], "aaaa", 130)
    write_tokens(tmp_path / "tokens/3", digests[1], "bbbb", 140)
    (tmp_path / "tokens/4").mkdir()  # being written
    found = compare(before, after, tokens=tmp_path / "tokens").exact_tokens
    assert [(each.tokenizer_sha256, each.split, each.before, each.after) for each in found] == [
        ("aaaa", "held_out", 20, 20),
        ("aaaa", "train", 200, 260),
    ]
    assert compare(before, after, tokens=tmp_path / "none").exact_tokens == ()


def test_versions_are_found_by_name(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    for number in (1, 3):
        write_version(store.corpora, "web", number, BASE)
    write_version(store.corpora, "docs", 1, BASE)
    web = store.corpora / "web"
    assert two_versions(store, "", "web") == (web / "1", web / "3")
    assert two_versions(store, "docs", "web@1") == (store.corpora / "docs/1", web / "1")
    for before, after, line in (
        ("", "docs", "no version before docs@1"),
        ("", "web@1", "no version before web@1"),
        ("web", "web@3", "one version, web@3"),
        ("web@2", "web", "no version '2'"),
        ("news", "web", "no corpus 'news'"),
    ):
        with pytest.raises(ValueError, match=line):
            two_versions(store, before, after)


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path) -> None:
    whole = write_version(tmp_path, "web", 1, BASE)
    (tmp_path / "web/2").mkdir()
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        compare(whole, tmp_path / "web/2")
