from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dedup import resolve
from tasks.dedup.config import Deduplication
from tasks.dedup.exact import text_sha256
from tasks.dedup.jaccard import jaccard
from tasks.dedup.members import members_schema
from tasks.dedup.resolve import DECISIONS, Cluster, resolve_partition
from tasks.dedup.signature import Hashes, MinHash, signatures
from tests.tasks.dedup.chain import Decision, Page, Version, by_definition, deduplicate, true_jaccard

FINEWEB = Deduplication()
UNVERIFIED = Deduplication(min_jaccard=0)
SMALL = Deduplication(minhash=MinHash(num_bands=6, rows_per_band=1, shingle_words=2), min_jaccard=0.6)
LEXICON = [f"word{number}" for number in range(3000)]


def text_of(words: Iterable[str]) -> str:
    return " ".join(words)


# --- tiny corpora in, exact decisions out -----------------------------------------------------------------------------


def decisions_of(pages: Sequence[Page], config: Deduplication, tmp_path: Path, **how: Any) -> dict[str, Decision]:
    return dict(deduplicate(tmp_path / "run", pages, config, **how).decisions)


def chain_of_three() -> list[Page]:
    """b resembles a and c (37/43 = .86), which do not resemble each other (34/46 = .74)."""
    words = [f"w{number}" for number in range(46)]
    return [
        Page(name, text_of(words[start : start + 40]), str(2020 + start))
        for name, start in zip("abc", (0, 3, 6), strict=True)
    ]


SENSITIVE = MinHash(num_bands=128, rows_per_band=1, shingle_words=1)  # any resemblance at all makes a candidate


def test_the_end_of_a_chain_survives(tmp_path: Path) -> None:
    config = Deduplication(minhash=SENSITIVE, min_jaccard=0.8)
    pages = chain_of_three()
    assert true_jaccard(pages[0].text, pages[1].text, SENSITIVE) == 37 / 43
    assert true_jaccard(pages[1].text, pages[2].text, SENSITIVE) == 37 / 43
    assert true_jaccard(pages[0].text, pages[2].text, SENSITIVE) == 34 / 46
    assert decisions_of(pages, config, tmp_path) == {
        "a": decision("a", cluster_size=2),
        "b": decision("a", "near_dedup", "near_duplicate", 37 / 43, 0.8),
        "c": decision("c", cluster_size=1),
    }


def decision(
    survivor_id: str | None,
    stage: str | None = None,
    reason: str | None = None,
    value: float | None = None,
    threshold: float | None = None,
    cluster_size: int | None = None,
) -> Decision:
    return {
        "kept": cluster_size is not None,
        "survivor_id": survivor_id,
        "cluster_size": cluster_size,
        "stage": stage,
        "reason": reason,
        "value": value,
        "threshold": threshold,
    }


def test_without_verification_a_shared_band_suffices(tmp_path: Path) -> None:
    pages = chain_of_three()
    found = decisions_of(pages, Deduplication(minhash=SENSITIVE, min_jaccard=0), tmp_path)
    assert {name: row["survivor_id"] for name, row in found.items()} == {"a": "a", "b": "a", "c": "a"}
    assert found["b"]["value"] == pytest.approx(0.86, abs=3 * (0.86 * 0.14 / 128) ** 0.5)
    assert found["b"]["threshold"] is None


def test_an_earlier_link_supersedes_a_published_document(tmp_path: Path) -> None:
    """c was kept beside a; b, dated before both, comes later: it stands for both, and b's removal would free them."""
    a, b, c = chain_of_three()
    config = Deduplication(minhash=SENSITIVE, min_jaccard=0.8)
    first = deduplicate(tmp_path / "1", [a, c], config)
    assert first.kept == {"a", "c"}
    second = deduplicate(tmp_path / "2", [replace(b, date="2019")], config, base=first)
    assert second.removed == {"a": "b", "c": "b"}
    assert second.decisions["b"]["cluster_size"] == 3
    third = deduplicate(tmp_path / "3", [], config, base=second, newly={"b": "document"})
    assert third.removed == {"b": None}
    assert third.kept == {"a", "c"}
    again = deduplicate(tmp_path / "4", [], config, base=second, newly={"b": "cluster"})
    assert again.kept == set()
    assert {row["reason"] for row in again.decisions.values()} == {"taken_down", "taken_down_copy"}


def test_a_later_link_revives(tmp_path: Path) -> None:
    """a stands for b; an earlier z stands for a, but not for b: so b is free."""
    z, a, b = (page.text for page in chain_of_three())
    config = Deduplication(minhash=SENSITIVE, min_jaccard=0.8)
    first = deduplicate(tmp_path / "1", [Page("a", a, "2020"), Page("b", b, "2021")], config)
    assert first.removed == {"b": "a"}
    second = deduplicate(tmp_path / "2", [Page("z", z, "2019")], config, base=first)
    assert second.removed == {"a": "z"}
    assert second.decisions["b"] == decision("b", cluster_size=1)


def test_unknown_dates_come_first_and_ids_break_ties(tmp_path: Path) -> None:
    for number, (pages, removed) in enumerate(
        [
            ([Page("a", "same", "2020"), Page("b", "same")], {"a": "b"}),
            ([Page("b", "same", "2020"), Page("a", "same", "2020")], {"b": "a"}),
            ([Page("é", "same", "2020"), Page("z", "same", "2020")], {"é": "z"}),
        ]
    ):
        assert deduplicate(tmp_path / str(number), pages, SMALL).removed == removed


def test_longest_first(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(60)]
    pages = [
        Page("short", text_of(words[:50]), "2019"),
        Page("long", text_of(words), "2021"),
        Page("also long", text_of(words), "2020"),
    ]
    longest = Deduplication(minhash=SENSITIVE, order="longest")
    assert deduplicate(tmp_path / "1", pages, longest).removed == {"short": "also long", "long": "also long"}
    earliest = Deduplication(minhash=SENSITIVE)
    assert deduplicate(tmp_path / "2", pages, earliest).removed == {"also long": "short", "long": "short"}


def test_text_before_url_before_resemblance(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(100)]
    near, text, other = text_of([*words[:99], "x"]), text_of(words), text_of(word.upper() + "x" for word in words)
    pages = [
        Page("1", near, "1", "https://near.example/"),
        Page("2", other, "2", "https://equal.example/"),
        Page("3", text, "3", "https://equal.example/"),
    ]
    config = Deduplication(minhash=SENSITIVE)
    assert decisions_of(pages, config, tmp_path / "url")["3"] == decision("2", "url_dedup", "canonical_url")
    no_url = decisions_of(pages, config.model_copy(update={"canonical_url": False}), tmp_path / "near")
    assert no_url["3"]["survivor_id"] == "1"
    # equal texts resemble the same survivors, so a text stands beside another one only where URLs do
    pages = [Page("1", other, "1", "https://equal.example/"), Page("2", text, "2"), replace(pages[2], document_id="3")]
    assert decisions_of(pages, config, tmp_path / "text")["3"] == decision("2", "exact_dedup", "exact_duplicate", 1.0)


def test_takedown_outranks_the_rest(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(100)]
    gone = Page("gone", text_of(words), "2024", "https://gone.example/", taken_down="cluster")
    pages = [
        gone,
        Page("first", "quite another text", "2000"),
        Page("same text", gone.text, "1999", "https://copy.example/"),
        Page("same url", "quite another text", "2001", gone.url),
        Page("near", text_of(words[:95]), "1999"),
        Page("free", text_of(words[50:]), "1999"),
    ]
    # of a cluster, everything goes that is like it, whatever the recipe says of URLs and however early it came
    config = Deduplication(minhash=SENSITIVE, canonical_url=False)
    found = decisions_of(pages, config, tmp_path / "cluster")
    assert found["gone"] == decision(None, "takedown", "taken_down")
    assert found["same text"] == decision("gone", "takedown", "taken_down_copy", 1.0)
    assert found["same url"] == decision("gone", "takedown", "taken_down_copy")
    assert found["near"]["reason"] == "taken_down_copy"
    assert found["near"]["value"] == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 128) ** 0.5)
    assert found["near"]["threshold"] == 0.7
    assert {name for name, row in found.items() if row["kept"]} == {"first", "free"}
    # of one document, its URL goes, its copies may stay
    alone = decisions_of([replace(gone, taken_down="document"), *pages[1:]], config, tmp_path / "document")
    assert alone["same url"] == decision("gone", "takedown", "taken_down_copy")
    assert alone["same text"]["stage"] != "takedown"
    assert alone["near"]["stage"] != "takedown"


def test_equal_texts_without_words_merge_and_others_do_not(tmp_path: Path) -> None:
    texts = {"a": "", "b": "!!!", "c": "", "d": "???", "e": "  "}
    version = deduplicate(tmp_path / "run", [Page(name, text) for name, text in texts.items()], FINEWEB)
    assert version.removed == {"c": "a"}
    assert version.decisions["c"] == decision("a", "exact_dedup", "exact_duplicate", 1.0)


def test_nothing_to_decide(tmp_path: Path) -> None:
    for number, pages in enumerate(([], [Page("a", "some text")], [Page("a", "some text"), Page("b", "another one")])):
        version = deduplicate(tmp_path / str(number), pages, SMALL, num_buckets=3, num_partitions=2)
        assert version.decisions == {}
        assert [report.largest_clusters for report in version.reports] == [(), ()]
        assert pq.read_schema(tmp_path / str(number) / "decisions-0.parquet").equals(DECISIONS)


def test_the_report(tmp_path: Path) -> None:
    pages = [Page(f"{group:02d}-{copy}", f"text {group}") for group in range(25) for copy in range(2 + (group == 7))]
    pages.append(Page("gone", "text 3", taken_down="cluster"))
    (report,) = deduplicate(tmp_path / "run", pages, SMALL).reports
    assert report.largest_clusters[:2] == (Cluster("07-0", 3), Cluster("00-0", 2))
    assert len(report.largest_clusters) == 20
    assert (report.num_documents, report.kept) == (52, 24)
    assert report.removed == {
        "exact_dedup/exact_duplicate": 25,
        "takedown/taken_down": 1,
        "takedown/taken_down_copy": 2,
    }


# --- components of thousands -----------------------------------------------------------------------------------------


def write_members_of(texts: Sequence[str], path: Path, config: Deduplication, signed_as: str | None = None) -> Path:
    """A member file with one document per text, `00000` first; each signed for itself, or all as one text."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys([signed_as] if signed_as else texts))}
    of_rows = np.array([numbers[signed_as or text] for text in texts])
    found = signatures(list(numbers), config.minhash).astype("<u8")[of_rows]
    schema = members_schema(config)
    values: dict[str, Any] = {
        "document_id": [f"{row:05d}" for row in range(len(texts))],
        "date": [""] * len(texts),
        "num_chars": [len(text) for text in texts],
        "url_key": [None] * len(texts),
        "text_sha256": [text_sha256(text) for text in texts],
        "taken_down": [""] * len(texts),
        "signature": [signature.tobytes() for signature in found],
        "partition": [0] * len(texts),
        "text": texts,
    }
    table = pa.table([pa.array(values[field.name], field.type) for field in schema], schema=schema)
    pq.write_table(table, path, row_group_size=64, write_statistics=["partition"], use_dictionary=False)
    return path


def test_thousands_of_copies_and_of_pages_of_one_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quarters of each page are the template: any two are similar by .6, and candidates one time in five."""
    rng = random.Random(3)
    copied = text_of(rng.choices(LEXICON, k=300))
    boilerplate = rng.choices(LEXICON, k=150)
    template = [text_of([*boilerplate, *rng.choices(LEXICON, k=50)]) for _ in range(5_000)]
    member_file = write_members_of([copied] * 20_000 + template, tmp_path / "members.parquet", FINEWEB)
    compared = 0

    def counted(left: Hashes, right: Hashes) -> float:
        nonlocal compared
        compared += 1
        return jaccard(left, right)

    monkeypatch.setattr(resolve, "jaccard", counted)
    report = resolve_partition([member_file], 0, tmp_path / "decisions.parquet", FINEWEB)
    assert report.removed == {"exact_dedup/exact_duplicate": 19_999}
    assert report.kept == 5_001
    assert report.largest_clusters == (Cluster("00000", 20_000),)
    assert compared < 5_000  # of some two million pairs that share a band
    # without verification, pages whose minima in a band all come from the template are swallowed
    unverified = resolve_partition([member_file], 0, tmp_path / "unverified.parquet", UNVERIFIED)
    assert unverified.removed["near_dedup/near_duplicate"] > 2_500


MEASURED = """
import resource, sys
import pyarrow as pa
from pathlib import Path
from tasks.dedup import resolve
from tasks.dedup.config import Deduplication
from tasks.dedup.exact import text_sha256
from tasks.dedup.jaccard import jaccard
from tasks.dedup.members import members_schema
from tasks.dedup.resolve import resolve_partition

pa.set_cpu_count(1)
pa.set_io_thread_count(1)  # a thread that is started later takes its stack from the limit

def data_bytes():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["VmData"].split()[0])

folder = Path(sys.argv[1])
resolve_partition([folder / "warm-up.parquet"], 0, folder / "decisions.parquet", Deduplication())
limit = data_bytes() + int(sys.argv[2])  # the libraries, their threads and a whole batch of texts are there by now
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
report = resolve_partition([folder / "members.parquet"], 0, folder / "decisions.parquet", Deduplication())
print(report.num_documents, report.kept)
"""


def test_memory_does_not_grow_with_the_texts_of_a_component(tmp_path: Path) -> None:
    """500 near-duplicates: 35 MB of texts, 48 MB of shingles, within 16 MB."""
    words = random.Random(4).choices([f"w{number}" for number in range(1000)], k=12_000)
    texts = [text_of([*words, str(number)]) for number in range(500)]
    write_members_of(texts[:260], tmp_path / "warm-up.parquet", FINEWEB, signed_as=texts[0])
    write_members_of(texts, tmp_path / "members.parquet", FINEWEB, signed_as=texts[0])
    command = [sys.executable, "-c", MEASURED, str(tmp_path), str(16 << 20)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "500 1\n"


# --- against the definition, whatever the buckets, partitions and order of arrival ------------------------------------

WORDS = st.sampled_from(["a", "b", "c", "d", "!"])
TEXT = st.lists(WORDS, max_size=10).map(text_of)
CONFIGS = st.builds(
    Deduplication,
    minhash=st.sampled_from(
        [SMALL.minhash, MinHash(num_bands=3, rows_per_band=2, shingle_words=1), MinHash(num_bands=64, rows_per_band=1)]
    ),
    min_jaccard=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    order=st.sampled_from(["earliest", "longest"]),
    canonical_url=st.booleans(),
)


@st.composite
def corpora(draw: st.DrawFn) -> list[Page]:
    """Pages of few words, dates and URLs, many of them another one with a word changed."""
    texts: list[str] = []
    for _ in range(draw(st.integers(0, 14))):
        text = draw(TEXT)
        if texts and draw(st.booleans()):
            words = draw(st.sampled_from(texts)).split() or ["a"]
            words[draw(st.integers(0, len(words) - 1))] = draw(WORDS)
            text = text_of(words)
        texts.append(text)
    urls = st.sampled_from(["", "", "https://x.example/", "https://y.example/", "https://x.example/#top"])
    flags = st.sampled_from(["", "", "", "", "", "", "document", "cluster"])
    return [
        Page(f"id{number}", text, draw(st.sampled_from(["", "2023", "2024"])), draw(urls), draw(flags))
        for number, text in enumerate(texts)
    ]


def completed(version: Version) -> dict[str, Decision]:
    """Every page's decision: who shares no key with anyone is kept alone."""
    alone = {name: decision(name, cluster_size=1) for name in version.pages}
    return alone | dict(version.decisions)


@settings(max_examples=50)
@given(pages=corpora(), config=CONFIGS, data=st.data())
def test_decisions_are_the_definitions(pages: list[Page], config: Deduplication, data: st.DataObject) -> None:
    expected = by_definition(pages, config)
    how = {
        "num_buckets": data.draw(st.integers(1, 4)),
        "num_partitions": data.draw(st.integers(1, 3)),
        "max_edges": data.draw(st.sampled_from([16, 1 << 22])),
    }
    with tempfile.TemporaryDirectory() as name:
        whole = deduplicate(Path(name) / "whole", data.draw(st.permutations(pages)), config, **how)
        assert completed(whole) == expected

        # the same pages in up to four refreshes in any order, some of them taken down only afterwards
        when = data.draw(st.lists(st.integers(0, 3), min_size=len(pages), max_size=len(pages)))
        late = {page.document_id: data.draw(st.booleans()) for page in pages if page.taken_down}
        version = None
        for refresh in sorted(set(when)):
            new = [
                replace(page, taken_down="") if late.get(page.document_id) else page
                for page, at in zip(pages, when, strict=True)
                if at == refresh
            ]
            version = deduplicate(Path(name) / str(refresh), new, config, base=version, **how)
        if any(late.values()):
            newly = {page.document_id: page.taken_down for page in pages if late.get(page.document_id)}
            version = deduplicate(Path(name) / "late", [], config, base=version, newly=newly, **how)
        if version is not None:
            assert completed(version) == expected
            left_out = {report.num_documents for report in version.reports}
            assert sum(left_out) <= len(pages)


@settings(max_examples=40)
@given(pages=corpora(), config=CONFIGS)
def test_deduplicating_the_survivors_removes_nothing(pages: list[Page], config: Deduplication) -> None:
    with tempfile.TemporaryDirectory() as name:
        pages = [replace(page, taken_down="") for page in pages]
        first = deduplicate(Path(name) / "1", pages, config)
        kept = [page for page in pages if page.document_id in first.kept]
        assert deduplicate(Path(name) / "2", kept, config).removed == {}
