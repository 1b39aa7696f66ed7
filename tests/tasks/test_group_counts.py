"""Counting by source, domain and language: exact, whatever the shards and chunks, and equal to counting by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import curation
from tasks.document import Document, Drop
from tasks.group_counts import (
    GROUPS_FILE,
    ScreenedShards,
    add_up,
    count_chunk,
    count_groups,
    exits,
    registered_domain,
    screened_shards,
)
from tasks.ports import InProcessMap
from tasks.refresh import Refresh
from tasks.screen import ShardOutput
from tasks.store import Store
from tasks.wipe_out import JUDGED_BY, KEPT, entered, entered_in_all
from tests.tasks.page_store import add, recipe, row

STAGES = ("extract", "language", "quality", "toxicity")
REASONS = {
    "read": ["not_html", "unreadable"],
    "url_filter": ["url_domain"],
    "extract": ["no_content", "too_large"],
    "language_rough": ["language_rough"],
    "language": ["language_other", "language_score"],
    "quality": ["short", "bullets"],
    "toxicity": ["rude"],
    KEPT: [""],
}
_WRITTEN_BY = {"read": "extract", "url_filter": "extract", "language_rough": "extract"}


@dataclass(frozen=True)
class Made:
    """A record as the screening would leave it: `left` is the stage, or language_rough, which is one of extract's."""

    source: str
    host: str
    language: str
    left: str
    reason: str

    @property
    def stage(self) -> str:
        return "language" if self.left == "language_rough" else self.left

    def groups(self) -> list[tuple[str, str]]:
        """Where it counts, by hand."""
        known = self.left in ("quality", "toxicity", KEPT) or self.reason == "language_score"
        domain = "shop.co.uk" if self.host.endswith("shop.co.uk") else self.host
        return [
            ("source", self.source),
            *([("domain", domain)] if domain else []),
            *([("language", self.language)] if known else []),
        ]


def write_shard(root: Path, records: Sequence[Made]) -> ScreenedShards:
    """The outputs of the four stages for one shard of records."""
    folders = {stage: root / stage for stage in STAGES}
    for stage, folder in folders.items():
        folder.mkdir(parents=True)
        with ShardOutput(folder, stage) as output:
            for index, record in enumerate(records):
                ends_at = _WRITTEN_BY.get(record.left, record.left)
                if ends_at != KEPT and STAGES.index(ends_at) < STAGES.index(stage):
                    continue
                document = Document(
                    f"{index:032x}-0",
                    "A text.",
                    record.source,
                    f"https://{record.host}/{index}" if record.host else "",
                    language=record.language if stage != "extract" else "",
                )
                if ends_at == stage:
                    detail = record.language if record.stage == "language" else None
                    output.drop(document, Drop(record.reason, 0.1, 0.5, detail), record.stage)
                else:
                    output.keep(document)
    return folders


def records_of(left: str) -> st.SearchStrategy[Made]:
    return st.builds(
        Made,
        source=st.sampled_from(["web", "books"]),
        host=st.sampled_from(["a.example", "b.example", "c.example", "www.shop.co.uk", "shop.co.uk", "d.example", ""]),
        language=st.sampled_from(["en", "sw"]),
        left=st.just(left),
        reason=st.sampled_from(REASONS[left]),
    )


made_records = st.lists(st.sampled_from(list(REASONS)).flatmap(records_of), min_size=1, max_size=40)


@settings(max_examples=25)
@given(made_records, st.integers(1, 5), st.integers(1, 3), st.sampled_from([0.01, 0.2, 0.34]))
def test_counts_equal_those_by_hand_whatever_the_shards_and_chunks(
    records: list[Made], num_shards: int, num_chunks: int, fraction: float
) -> None:
    by_hand: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for record in records:
        for group in record.groups():
            by_hand.setdefault(group, Counter())[record.stage, record.reason] += 1
    with TemporaryDirectory() as folder:
        root = Path(folder)
        shards = [write_shard(root / f"shard-{index}", records[index::num_shards]) for index in range(num_shards)]
        for index in range(num_chunks):
            (root / f"chunk-{index}").mkdir()
            count_chunk(shards[index::num_chunks], root / f"chunk-{index}", min_domain_fraction=fraction)
        counted = add_up([root / f"chunk-{index}" for index in range(num_chunks)])
    assert {group: of_group for group, of_group in by_hand.items() if group in counted} == dict(counted)
    for (kind, name), of_group in by_hand.items():
        large = kind != "domain" or any(
            entered(of_group, stage) >= fraction * entered_in_all(counted, stage) > 0
            for stage, kinds in JUDGED_BY.items()
            if "domain" in kinds
        )
        assert not large or (kind, name) in counted


def test_a_domain_that_is_large_nowhere_is_left_out_and_one_that_is_somewhere_counts_everywhere(tmp_path: Path) -> None:
    def kept(host: str, number: int) -> list[Made]:
        return [Made("web", host, "en", KEPT, "")] * number

    chunks = []
    for index, records in enumerate(
        ([*kept("a.example", 90), *kept("b.example", 10)], [*kept("a.example", 91), *kept("b.example", 9)])
    ):
        chunks.append(tmp_path / f"chunk-{index}")
        chunks[-1].mkdir()
        count_chunk([write_shard(tmp_path / f"{index}", records)], chunks[-1], min_domain_fraction=0.1)
    large = [
        set(pq.read_table(chunk / GROUPS_FILE, filters=[("is_large", "=", True)])["group"].to_pylist())
        for chunk in chunks
    ]
    assert [names & {"a.example", "b.example"} for names in large] == [{"a.example", "b.example"}, {"a.example"}]
    assert add_up(chunks)["domain", "b.example"] == {(KEPT, ""): 19}
    assert ("domain", "b.example") not in add_up(chunks[1:])


def test_what_left_at_a_stage_is_in_the_groups_that_were_known_by_then(tmp_path: Path) -> None:
    made = [
        Made("web", "a.example", "sw", "read", "not_html"),
        Made("web", "a.example", "sw", "language_rough", "language_rough"),
        Made("web", "a.example", "sw", "language", "language_other"),
        Made("web", "a.example", "sw", "language", "language_score"),
        Made("web", "", "sw", "quality", "short"),
        Made("web", "a.example", "sw", KEPT, ""),
    ]
    found = {left.row["reason"]: dict(left.groups) for left in exits(write_shard(tmp_path, made))}
    unidentified = {"source": "web", "domain": "a.example"}
    assert found == {
        "not_html": unidentified,
        "language_rough": unidentified,
        "language_other": unidentified,
        "language_score": {**unidentified, "language": "sw"},
        "short": {"source": "web", "language": "sw"},
        "": {**unidentified, "language": "sw"},
    }


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.example.co.uk/a?b", "example.co.uk"),
        ("http://WWW.Example.COM:8080", "example.com"),
        ("https://site.example/", "site.example"),
        ("http://127.0.0.1/x", "127.0.0.1"),
        ("http://localhost", "localhost"),
        ("https://co.uk/", "co.uk"),
        ("file:///home/page.html", ""),
        ("no address", ""),
        ("http://[", ""),
        ("http://a\x1b[2Jb.example/", ""),
        ("", ""),
    ],
)
def test_domains_are_those_that_somebody_registered(url: str, domain: str) -> None:
    assert registered_domain(url) == domain


def test_a_run_is_counted_once_and_the_counts_are_those_of_its_ledger(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    pages = [row(seed, f"https://a.example/{seed}") for seed in range(6)]
    pages += [row("Too short.", f"https://b.example/{seed}") for seed in range(3)]
    add(store, "web", pages, recipe=recipe(shard_records=2))
    plan = Refresh.plan(store, "again", [str(tmp_path / "web-pages")], recipe(shard_records=2))
    screened = curation.screen(plan, InProcessMap())
    counted = count_groups(plan, screened.outputs, InProcessMap())
    reported = Counter[tuple[str, str]]()
    for output in screened.outputs.values():
        for key, count in output.report.removed.items():
            stage, _, reason = key.partition("/")
            reported[stage, reason] += count
    reported[KEPT, ""] = screened.outputs["toxicity"].report.kept
    assert counted["source", "web-pages"] == +reported
    assert counted["domain", "a.example"] == {(KEPT, ""): 6} and sum(counted["domain", "b.example"].values()) == 3
    assert len(screened_shards(screened.outputs)) == 5

    class Refusing(InProcessMap):
        def map(self, function, items, **options):  # type: ignore[no-untyped-def]
            assert not items
            return []

    assert count_groups(plan, screened.outputs, Refusing()) == counted


def test_the_guard_is_no_part_of_what_decides(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    add(store, "web", [row(seed, f"https://a.example/{seed}") for seed in range(3)])
    strict = recipe(guard=recipe().guard.model_copy(update={"min_documents": 1, "max_removed_fraction": 0.5}))
    plans = [Refresh.plan(store, "web", [str(tmp_path / "web-pages")], chosen) for chosen in (recipe(), strict)]
    assert all(plan.is_published for plan in plans)
    assert plans[0].stages == plans[1].stages
